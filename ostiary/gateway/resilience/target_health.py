"""What a worker knows of one target: what its checks say, and how its last calls went.

A target is out while its checks fail, or while it is ejected: for failures in a row, each time for longer. Once that time is
over it takes a single call, the trial, and is in again when that goes well. Not all calls at once: a target that just comes
up would fall again."""

from __future__ import annotations

from ostiary.core.upstream import Ejection


class TargetHealth:
    """`out` is what a choice asks first. `failures` are those in a row, `ejections` too: that row ends when the target has
    been well for as long as an ejection lasts at most."""

    __slots__ = (
        "_ejected_at",
        "_out_until",
        "_returned_at",
        "_trial_out",
        "ejected",
        "ejections",
        "failures",
        "out",
        "passes_checks",
    )

    def __init__(self) -> None:
        self._ejected_at = 0.0
        self._out_until = 0.0
        self._returned_at = 0.0
        self._trial_out = False
        self.passes_checks = True
        self.ejected = False
        self.ejections = 0
        self.failures = 0
        self.out = False

    def checked(self, passes: bool) -> None:
        """The word of active checks. It does not end an ejection: a health page may be all that still works."""
        self.passes_checks = passes
        self.out = self.ejected or not passes

    def trial_is_due(self, now: float) -> bool:
        """Of a target that is out: whether it may take one call."""
        return self.ejected and self.passes_checks and now >= self._out_until and not self._trial_out

    def begin_trial(self) -> None:
        self._trial_out = True

    def end_trial(self) -> None:
        """A call ended without telling anything about the target."""
        self._trial_out = False

    def succeeded(self, began: float, now: float) -> bool:
        """A call that `began` then went well. True when that ends an ejection; a call from before it does not."""
        self.failures = 0
        if not self.ejected or began < self._ejected_at:
            return False
        self.ejected = self._trial_out = False
        self.out = not self.passes_checks
        self._returned_at = now
        return True

    def failed(self, rule: Ejection | None, began: float, now: float) -> float:
        """The seconds for which the target is ejected from now on; 0 if this changes nothing."""
        self.failures += 1
        if rule is None:
            return 0.0
        if self.ejected:
            if not self._trial_out or began < self._ejected_at:
                return 0.0  # begun before the ejection, or while all were used: that would count it twice
        elif self.failures < rule.after:
            return 0.0
        elif now - self._returned_at >= rule.seconds_max:
            self.ejections = 0
        self._trial_out = False
        self.ejections += 1
        seconds = ejection_seconds(rule, self.ejections)
        self.ejected = self.out = True
        self._ejected_at = now
        self._out_until = now + seconds
        return seconds

    def forget_ejection(self) -> None:
        """The configuration has no ejection any more."""
        self.ejected = self._trial_out = False
        self.ejections = 0
        self.out = not self.passes_checks


def ejection_seconds(rule: Ejection, ejections: int) -> float:
    """How long the ejection with this number in a row lasts, the first being 1."""
    return float(min(rule.seconds * 2.0 ** min(ejections - 1, 30), rule.seconds_max))
