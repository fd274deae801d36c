"""The answers of a model to one set of OpenCompass's: kept as they come, counted, explained."""

import hashlib
import threading

from . import channel
from .journal import Journal

_ASKED = ("messages", "model", "timeout", "extra_body")
_FACTS = ("errors", "finish", "last_error", "sent", "reported")


def facts(seen):
    """What is known of a set, for another process; `seen` may have come from one."""
    return {name: getattr(seen, name) for name in _FACTS}


class Answers:
    """What is seen of one set while it is answered.

    Args:
        path: A journal, by which a later run goes on where this one was cut short.
        size: Samples of the set.
        tick: Called with how many more of them are done.
        known: Answers of an earlier run, by the position of their sample.
        keeps: Called with an input and an answer: whether that is one for a later run to go on
            from, or to be asked for again.

    A dialogue is a sample that takes several calls; it is begun, and ended, by name.

    Attributes:
        errors: By the position of a sample, why its last call brought no answer.
        finish: By the position of a sample, why the model stopped, where it did not itself.
        sent: Parameters of a request.
        reported: The id of the model, as the endpoint reported it.
        calls: How often the model was called.
    """

    def __init__(
        self,
        path=None,
        size=None,
        tick=lambda more: None,
        known=None,
        keeps=lambda asked, answer: True,
    ):
        self.errors = {}
        self.finish = {}
        self.last_error = ""
        self.sent = {}
        self.reported = ""
        self._journal = Journal(path) if path else None
        self._kept = self._journal.read() if path else {}
        self._known = known or {}
        self._size = size
        self._tick = tick
        self._keeps = keeps
        self.calls = 0
        self._open = set()  # asked already, in which call and at which position
        self._dialogue = None
        self._dialogues = set()  # those that were ended once
        self._lock = threading.Lock()

    def begin(self, inputs, max_out_len):
        """A call of the model with all `inputs`: its number, they, their keys, their samples."""
        self.calls += 1
        keys = None
        if self._journal:
            texts = (f"{i} {max_out_len}" for i in inputs)
            digests = (hashlib.sha256(t.encode(errors="replace")).hexdigest()[:16] for t in texts)
            keys = [f"{self.calls} {i} {digest}" for i, digest in enumerate(digests)]
        samples = range(self._size or 0) if self.calls == 1 else ()
        if self._dialogue is not None:
            samples = [self._dialogue]
        return self.calls, inputs, keys, samples if len(samples) == len(inputs) else None

    def begin_dialogue(self, sample):
        self._dialogue = sample
        self.errors.pop(sample, None)
        self.finish.pop(sample, None)

    def end_dialogue(self):
        if self._dialogue not in self._dialogues:
            self._dialogues.add(self._dialogue)
            self._tick(1)
        self._dialogue = None

    def earlier(self, call, position):
        _, inputs, keys, samples = call
        kept = self._kept.get(keys[position], "") if keys else ""
        if isinstance(kept, list):  # it did not end by itself
            kept, finish = kept
            if samples:
                self.finish[samples[position]] = finish
        if not self._keeps(inputs[position], kept):
            kept = ""
        return kept or (self._known.get(samples[position], "") if samples else "")

    def count(self, more):
        if more and self._dialogue is None:
            self._tick(more)

    def note(self, call, position, answer, said):
        """Keep an answer; `said` has the `error` and the `finish` reason of its last call."""
        number, inputs, keys, samples = call
        if answer and keys and self._keeps(inputs[position], answer):
            whole = said.finish in ("", "stop")
            self._journal.add(keys[position], answer if whole else [answer, said.finish])
        with self._lock:
            again = (number, position) in self._open
            self._open.add((number, position))
            if not answer:
                self.last_error = channel.redact(said.error)[:300]
            if samples:
                sample = samples[position]
                if self._dialogue is None:  # else an earlier turn may lack its answer
                    self.errors.pop(sample, None)
                    self.finish.pop(sample, None)
                if not answer:
                    self.errors[sample] = self.last_error
                if said.finish not in ("", "stop"):
                    self.finish[sample] = said.finish
        if not again:
            self.count(1)

    def learn(self, query, response):
        if not self.reported:
            self.reported = str(getattr(response, "model", None) or "unknown")
            sent = {key: value for key, value in query.items() if key not in _ASKED}
            sent.update(query.get("extra_body") or {})
            self.sent = {key: value for key, value in sent.items() if value is not None}

    def done(self):
        """Upstream has written them all."""
        if self._journal:
            self._journal.remove()
