"""One evaluation and the judge that grades it, seen to answer or not; of either upstream."""

import contextlib
import threading
import time

from . import channel

# Calls in a row that got no answer before the judge is asked whether it is there at all.
_SUSPICIOUS = 3
_KEPT = "; the predictions are kept, `--mode eval` scores them"


class JudgeError(Exception):
    """What was asked for cannot be graded."""


class Grading:
    """One evaluation, and the judge that grades it.

    Attributes:
        judge: As of the job (adapters/judge_env.py); None where none was asked for.
        built: Upstream built a judge.
        dead: Why it does not answer; empty while it does.
        without: Upstream grades without one.
        named: The judge that upstream was told to take.
        refused: A call was refused; upstream may have made a grade of that.
        reported: The id of the judge, as its endpoint says.
        problem: Why its last call brought nothing.
        blind: What is a verdict cannot be told from what the judge is asked.
        lacking: Told of each sample that got no verdict, once it is known, whether or not a later
            try brings one; None for one that the model did not answer.
        answered: Told that the judge did, with its id as its endpoint says.
        stopped: What ended the run while it was asked; upstream may have made a grade of that.
    """

    def __init__(self, judge, lacking=lambda sample: None, answered=lambda reported: None):
        self.judge = judge
        self.lacking = lacking
        self.answered = answered
        self.stopped = None
        self.built = False
        self.dead = ""
        self.without = False
        self.refused = False
        self.named = None
        self._unanswered = set()
        self.reported = ""
        self.problem = ""
        self.blind = False
        self.ungraded_elsewhere = 0
        self._in_a_row = 0
        self._lock = threading.Lock()

    @property
    def ungraded(self):
        """Samples of which a call got no verdict, and none later about the same."""
        return {sample for sample, _ in self._unanswered}

    @property
    def n_ungraded(self):
        return len(self.ungraded) + self.ungraded_elsewhere

    @property
    def fallback(self):
        """Whether upstream graded without a judge that was wanted."""
        return self.without and self.judge is not None

    @property
    def may_do_without(self):
        return self.judge is not None and self.judge["fallback"] == "allow"

    def anew(self):
        """As at the beginning, but that a dead judge stays dead."""
        found = Grading(self.judge)
        found.dead, found.problem = self.dead, self.problem
        return found

    def facts(self):
        """What is known at the end, for another process."""
        known = ("built", "dead", "without", "reported", "problem", "blind")
        return {"ungraded": self.n_ungraded, **{name: getattr(self, name) for name in known}}

    def add(self, facts):
        """Take over what another process knows of its samples."""
        self.ungraded_elsewhere += facts.pop("ungraded")
        for name, value in facts.items():
            setattr(self, name, getattr(self, name) or value)

    def error(self, kept=_KEPT):
        if self.judge is None and not self.dead:
            return JudgeError(
                "upstream grades this set by a judge, and there is none: "
                f"`judge: {{model: ..., api_base: ...}}`{kept}"
            )
        who = f" {self.judge['model']} at {self.judge['at']}" if self.judge else ""
        return JudgeError(f"the judge{who} does not answer ({self.dead}){kept}")

    def count(self, sample, failed, ask, about=None):
        """Count a call. Several in a row without an answer: `ask` whether the judge is there.

        Args:
            sample: None for one that the model did not answer: that is counted already.
            about: What was asked, where a sample takes several calls: an answer to one of them
                is none to the others.

        Raises:
            JudgeError: It is not.
        """
        with self._lock:
            if sample is not None:
                (self._unanswered.add if failed else self._unanswered.discard)((sample, about))
            self._in_a_row = self._in_a_row + 1 if failed else 0
            if failed and self._in_a_row >= _SUSPICIOUS and not self.dead:
                self.probe(ask)
            if self.dead and failed:
                raise self.error()

    def unread(self, sample, about=None):
        """Count an answer that is no verdict: the judge is there, its sample is ungraded."""
        with self._lock:
            if sample is not None:
                self._unanswered.add((sample, about))

    def probe(self, ask):
        """Ask for a word, three times at the most; without an answer it is `dead`."""
        for attempt in range(3):
            time.sleep(0.5 * attempt)
            with contextlib.suppress(Exception):
                if ask():
                    self._in_a_row = 0
                    return
        self.dead = channel.redact(self.problem) or "no answer"
