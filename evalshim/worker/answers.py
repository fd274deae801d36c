"""The answers of a model to one set of OpenCompass's: kept as they come, counted, explained."""

import hashlib
import threading

from . import channel
from .journal import Journal

_ASKED = ("messages", "model", "timeout", "extra_body")


class Answers:
    """What is seen of one set while it is answered.

    Args:
        path: A journal, by which a later run goes on where this one was cut short.
        size: Samples of the set.
        tick: Called with how many more of them are done.
        known: Answers of an earlier run, by the position of their sample.

    Attributes:
        errors: By the position of a sample, why its last call brought no answer.
        finish: By the position of a sample, why the model stopped, where it did not itself.
        sent: Parameters of a request.
        reported: The id of the model, as the endpoint reported it.
    """

    def __init__(self, path=None, size=None, tick=lambda more: None, known=None):
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
        self._calls = 0
        self._open = set()  # asked already, in which call and at which position
        self._lock = threading.Lock()

    def begin(self, inputs, max_out_len):
        """A call of the model with all `inputs`: their keys, and whether they are the samples."""
        self._calls += 1
        keys = None
        if self._journal:
            texts = (f"{i} {max_out_len}" for i in inputs)
            digests = (hashlib.sha256(t.encode(errors="replace")).hexdigest()[:16] for t in texts)
            keys = [f"{self._calls} {i} {digest}" for i, digest in enumerate(digests)]
        return self._calls, keys, len(inputs) == self._size and self._calls == 1

    def earlier(self, call, position):
        _, keys, are_samples = call
        kept = self._kept.get(keys[position], "") if keys else ""
        if isinstance(kept, list):  # it did not end by itself
            kept, finish = kept
            if are_samples:
                self.finish[position] = finish
        return kept or (self._known.get(position, "") if are_samples else "")

    def count(self, more):
        if more:
            self._tick(more)

    def note(self, call, position, answer, said):
        """Keep an answer; `said` has the `error` and the `finish` reason of its last call."""
        number, keys, are_samples = call
        if answer and keys:
            whole = said.finish in ("", "stop")
            self._journal.add(keys[position], answer if whole else [answer, said.finish])
        with self._lock:
            again = (number, position) in self._open
            self._open.add((number, position))
            if not answer:
                self.last_error = channel.redact(said.error)[:300]
            if are_samples:
                self.errors.pop(position, None)
                self.finish.pop(position, None)
                if not answer:
                    self.errors[position] = self.last_error
                if said.finish not in ("", "stop"):
                    self.finish[position] = said.finish
        if not again:
            self._tick(1)

    def learn(self, query, response):
        if not self.reported:
            self.reported = str(getattr(response, "model", None) or "unknown")
            sent = {key: value for key, value in query.items() if key not in _ASKED}
            sent.update(query.get("extra_body") or {})
            self.sent = {key: value for key, value in sent.items() if value is not None}

    def facts(self):
        """What is known at the end, for another process."""
        known = ("errors", "finish", "last_error", "sent", "reported")
        return {name: getattr(self, name) for name in known}

    def done(self):
        """Upstream has written them all."""
        if self._journal:
            self._journal.remove()
