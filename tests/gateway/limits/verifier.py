"""Whether a log of decisions kept the limits: read once, in order, with what each limit may still remember in memory.

Written otherwise than what it judges: it knows nothing of slots, units or expiry, only what was promised. For a window that
no span of its length holds more than the limit, whichever moment the span begins at; for a bucket that no span holds more
than the burst and what is refilled over it; for a quota the calls of each calendar period; for a bound on calls under way
that no more are held at any moment."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from ostiary.core.model import Period, Plan, Quota, Rate, Window
from tests.gateway.limits.decision_log import Entry, Event

SECOND_US = 1_000_000

# Findings that are told one by one; of more only the number.
FINDINGS_MAX = 10


@dataclass(frozen=True, slots=True)
class Subject:
    """A caller and what was promised of it. A call lasts `hold_seconds`. With `rests` it asks for a while and rests for a
    while, or else always, so that how much of its limits it gets can be said."""

    name: str
    plan: Plan
    hold_seconds: float = 0.0
    rests: bool = False


class Rule(Protocol):
    """One limit. `most` is the nearest that the log came to `bound`."""

    name: str
    bound: float
    most: float

    def allowed(self, moment_us: int, cost: int) -> float:
        """What counts of the bound with this call."""

    def asked(self, moment_us: int, cost: int) -> None:
        """Whether or not it was let in."""

    def released(self, cost: int) -> None:
        """A call has ended."""

    def due(self, first_us: int, last_us: int) -> float | None:
        """What a caller that always asks for far more gets between these moments; None where that depends on it."""


@dataclass
class WindowRule:
    window: Window
    name: str = field(init=False)
    bound: float = field(init=False)
    most: float = field(init=False, default=0.0)
    _held: deque[tuple[int, int]] = field(default_factory=deque)
    _cost: int = 0

    def __post_init__(self) -> None:
        self.name = f"{self.window.requests} in {self.window.window_seconds} s"
        self.bound = self.window.requests
        self._window_us = self.window.window_seconds * SECOND_US

    def allowed(self, moment_us: int, cost: int) -> float:
        held = self._held
        while held and moment_us - held[0][0] >= self._window_us:
            self._cost -= held.popleft()[1]
        held.append((moment_us, cost))
        self._cost += cost
        return self._cost

    def asked(self, moment_us: int, cost: int) -> None:
        """Of no matter."""

    def released(self, cost: int) -> None:
        """Of no matter: it was made, and counts."""

    def due(self, first_us: int, last_us: int) -> float:
        return self.window.requests * ((last_us - first_us) // self._window_us)


@dataclass
class BucketRule:
    """Counts in parts of a call: `per_us` of them are one, `requests` come back each µs."""

    rate: Rate
    name: str = field(init=False)
    bound: float = field(init=False)
    most: float = field(init=False, default=0.0)
    _admitted: int = 0
    _lowest: int | None = None

    def __post_init__(self) -> None:
        self.name = f"{self.rate.requests} in {self.rate.per_seconds} s with a burst of {self.rate.burst}"
        self._per_us = self.rate.per_seconds * SECOND_US
        # Buckets are filled by the millisecond: of a span their clock may have seen one millisecond more.
        self.bound = self.rate.burst + 1000 * self.rate.requests / self._per_us

    def allowed(self, moment_us: int, cost: int) -> float:
        over = self._admitted * self._per_us - moment_us * self.rate.requests
        self._lowest = over if self._lowest is None else min(self._lowest, over)
        self._admitted += cost
        return (over - self._lowest) / self._per_us + cost

    def asked(self, moment_us: int, cost: int) -> None:
        """Of no matter."""

    def released(self, cost: int) -> None:
        """Of no matter: it was made, and counts."""

    def due(self, first_us: int, last_us: int) -> float:
        return self.rate.burst + (last_us - first_us) * self.rate.requests / self._per_us


@dataclass
class QuotaRule:
    quota: Quota
    name: str = field(init=False)
    bound: float = field(init=False)
    most: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.name = f"{self.quota.requests} each {self.quota.period}"
        self.bound = self.quota.requests
        self._asked: Counter[str] = Counter()
        self._allowed: Counter[str] = Counter()

    def allowed(self, moment_us: int, cost: int) -> float:
        period = self._period(moment_us)
        self._allowed[period] += cost
        return self._allowed[period]

    def asked(self, moment_us: int, cost: int) -> None:
        self._asked[self._period(moment_us)] += cost

    def released(self, cost: int) -> None:
        """Of no matter: it was made, and counts."""

    def due(self, first_us: int, last_us: int) -> float:
        return sum(min(asked, self.quota.requests) for asked in self._asked.values())

    def _period(self, moment_us: int) -> str:
        length = {Period.HOUR: 13, Period.DAY: 10, Period.MONTH: 7}[self.quota.period]
        return datetime.fromtimestamp(moment_us // SECOND_US, UTC).isoformat()[:length]


@dataclass
class UnderWayRule:
    bound: float
    name: str = field(init=False)
    most: float = field(init=False, default=0.0)
    _under_way: int = 0

    def __post_init__(self) -> None:
        self.name = f"{self.bound:g} under way"

    def allowed(self, moment_us: int, cost: int) -> float:
        self._under_way += 1
        return self._under_way

    def asked(self, moment_us: int, cost: int) -> None:
        """Of no matter."""

    def released(self, cost: int) -> None:
        self._under_way -= 1

    def due(self, first_us: int, last_us: int) -> None:
        return None


def rules_of(plan: Plan) -> list[Rule]:
    rules: list[Rule] = [] if plan.rate is None else [BucketRule(plan.rate)]
    rules += [WindowRule(window) for window in plan.windows]
    rules += [QuotaRule(quota) for quota in plan.quotas]
    return rules if plan.concurrency is None else [*rules, UnderWayRule(plan.concurrency)]


@dataclass
class Verdict:
    """About one subject. `broken` counts the calls that broke a limit, `findings` tells the first of them."""

    subject: Subject
    rules: list[Rule]
    asked: int = 0
    admitted: int = 0
    first_us: int = 0
    last_us: int = 0
    broken: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def due(self) -> float | None:
        """What the tightest limit gives a caller that always asks for far more."""
        if self.subject.rests:
            return None
        dues = [due for rule in self.rules if (due := rule.due(self.first_us, self.last_us)) is not None]
        return min(dues, default=None)

    @property
    def share(self) -> float:
        """Admitted, of what was due. 1 where that can't be said."""
        return 1.0 if not self.due else self.admitted / self.due

    @property
    def demand(self) -> float:
        """How often what was due was asked for."""
        return self.asked / (self.due or self.admitted or 1)

    def hear(self, entry: Entry) -> None:
        moment_us, event, _, cost = entry
        if event is Event.RELEASED:
            for rule in self.rules:
                rule.released(cost)
            return
        self.first_us = self.first_us or moment_us
        self.last_us = moment_us
        self.asked += cost
        for rule in self.rules:
            rule.asked(moment_us, cost)
        if event is not Event.ALLOWED:
            return
        self.admitted += cost
        for rule in self.rules:
            counts = rule.allowed(moment_us, cost)
            rule.most = max(rule.most, counts)
            if counts > rule.bound:
                self._found(f"{self.subject.name}: {counts:.10g} of {rule.name} at {moment_us}")

    def _found(self, finding: str) -> None:
        self.broken += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)

    def line(self) -> str:
        most = "   ".join(f"at most {rule.most:.10g} of {rule.name}" for rule in self.rules)
        share = "" if self.due is None else f"   {self.share:.2%} of what was due"
        return f"{self.subject.name:12} asked {self.asked:9}   admitted {self.admitted:8}{share}   {most}"


def verify(entries: Iterable[Entry], subjects: Sequence[Subject]) -> list[Verdict]:
    """One verdict a subject; entries name subjects by their place."""
    verdicts = [Verdict(subject, rules_of(subject.plan)) for subject in subjects]
    for entry in entries:
        verdicts[entry.subject].hear(entry)
    return verdicts
