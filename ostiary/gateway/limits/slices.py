"""What a worker holds of leased limits: taken of Redis at once, spent call by call, given back where it is not spent.

A caller that calls often gets a slice of all its limits together, as one call that costs so much (lua/decide.lua, all or
nothing). It holds what the caller needs for a tenth of a second, at most a part of what is left that leaves as much to each
other worker, and lasts until the slot of Redis's clock ends that it was taken in (core/slicing.py). Whoever finds none, or
too little, asks Redis as ever; so near the end of a limit, and for callers that call now and then, every call is decided
there.

No I/O and no clock in here: the limiter sends what stands in `wanted` and `returned`, and tells what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ostiary.gateway.limits import script
from ostiary.gateway.limits.connection import RedisConnection
from ostiary.gateway.limits.decision import Decision, LimiterObserver, Outcome
from ostiary.gateway.limits.policy import LimitPolicy
from ostiary.gateway.limits.settling import Charge
from ostiary.gateway.limits.slicing import Slicing

_ALLOWED: Final = Outcome.ALLOWED  # a look-up for each call otherwise

# What a slice is to last for: a dozen questions a second of each worker for a caller, however often it calls. When a quarter
# is left, the next one is asked for: 25 ms ahead, where Redis answers in one.
AIM_SECONDS: Final = 0.1
LOW_PART: Final = 4

# A smaller slice is no gain over asking for each call. A caller with under 80 calls a second at this worker gets none; with
# under half of that, and silent at that, it is not worth looking at.
CALLS_MIN: Final = 8
RATE_MIN: Final = CALLS_MIN / AIM_SECONDS / 2

# How often it is looked at how often callers call; who has not called in between gives its slice back.
SWEEP_SECONDS: Final = 0.05
SMOOTHING: Final = 0.3

# After a slice was refused, or not answered.
RETRY_SECONDS: Final = 0.02
# After one that would have been partly past a quota: which of its calls are, only Redis can say.
OVERAGE_SECONDS: Final = 1.0

# Of what is left, all workers together hold at most half.
HELD_PART: Final = 2

# A slice lasts so much shorter than its slot: two clocks differ in their rates by less (NTP corrects by 0.0005 at most).
CLOCK_RATE: Final = 0.999

# Callers that are looked at at once. More are decided in Redis, call by call, until others have gone silent.
# A caller takes some 600 bytes.
SLICES_MAX: Final = 4096


class Slice:
    """Of one caller's limits: how often it calls here, and what is held for it. `place` is the slot of a Redis Cluster; below
    zero where there are several, and no slice can be taken. Times are monotonic seconds; `ends_us` and `taken_us` Redis's."""

    __slots__ = (
        "calls",
        "connection",
        "ends_at",
        "ends_us",
        "index",
        "is_asked",
        "left",
        "low",
        "names",
        "place",
        "rate",
        "remaining",
        "reset",
        "retry_at",
        "room",
        "slicing",
        "taken_us",
    )

    def __init__(self, slicing: Slicing, names: list[str], place: int) -> None:
        self.slicing = slicing
        self.names = names
        self.place = place
        # How it is called: since the last sweep, and a second.
        self.calls = 0
        self.rate = 0.0
        # What is held, until when, and of whom.
        self.left = 0
        self.ends_at = 0.0
        self.ends_us = 0
        self.taken_us = 0
        self.connection: RedisConnection | None = None
        # What the client is told, beside what is left here: of the limit nearest to running out when Redis was last asked.
        self.index = 0
        self.remaining = 0
        self.reset = 0
        # Asking for more: at how many left, not before when, and of how much.
        self.low = 0
        self.is_asked = False
        self.retry_at = 0.0
        self.room = 0


class SliceRequest:
    """A `script.Request`: for `calls` calls of cost 1 at once. `policy` is that of the call that it is asked for with."""

    __slots__ = ("calls", "names", "nonce", "policy", "slice", "specification")

    def __init__(self, held: Slice, calls: int, policy: LimitPolicy) -> None:
        self.slice = held
        self.policy = policy
        self.calls = calls
        self.names = held.names
        self.nonce: str | None = None
        self.specification = held.slicing.asking_for(calls)


class Returned:
    """A `script.Settlement`: what was not spent of a slice. For the connection that took it, and no other: another may lead
    to a replica that was promoted and has never seen it."""

    __slots__ = ("connection", "difference", "ends_us", "names", "place", "specification", "taken_us")

    def __init__(self, held: Slice, calls: int, connection: RedisConnection) -> None:
        self.connection = connection
        self.place = held.place
        self.specification = held.slicing.specification
        self.names = held.names
        self.difference = -calls
        self.taken_us = held.taken_us
        self.ends_us = held.ends_us


class SliceCharge(Charge):
    """A call that was spent of a slice. Redis counted it when the slice was taken."""

    __slots__ = ("slice", "slice_ends_us")

    def __init__(self, policy: LimitPolicy, held: Slice) -> None:
        super().__init__(policy, held.names, held.taken_us, alone=False)
        self.slice = held
        self.slice_ends_us = held.ends_us


class Slices:
    """Those of one worker. `sharers` tells how many workers take slices, those of all nodes; `place_of` is Slice.place of
    names; `flush_soon` is called when `wanted` or `returned` has something to send, `wake` when `sweep` is due in
    SWEEP_SECONDS."""

    def __init__(
        self,
        *,
        sharers: Callable[[], int],
        place_of: Callable[[Sequence[str]], int],
        flush_soon: Callable[[], None],
        wake: Callable[[], None],
        observe: LimiterObserver,
    ) -> None:
        self.wanted: list[SliceRequest] = []
        self.returned: list[Returned] = []
        self.spent = 0
        self._sharers = sharers
        self._place_of = place_of
        self._flush_soon = flush_soon
        self._wake = wake
        self._observe = observe
        self._held: dict[tuple[bytes | str, ...], Slice] = {}
        self._swept_at = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def take_wanted(self) -> list[SliceRequest]:
        wanted, self.wanted = self.wanted, []
        return wanted

    def take_returned(self) -> list[Returned]:
        returned, self.returned = self.returned, []
        return returned

    # --- deciding -----------------------------------------------------------------------------------------------------

    def spend(self, policy: LimitPolicy, slicing: Slicing, names: list[str], now: float) -> Decision | None:
        """One call, if a slice holds enough for it; None says that Redis is to be asked. `names` as `policy.names` gave
        them."""
        held = self._held.get((slicing.specification, *names))
        if held is None:
            self._look_at(slicing, names, now)
            return None
        cost = policy.cost
        held.calls += cost
        left = held.left
        if left < cost or left == 0 or now >= held.ends_at:
            if now >= held.ends_at and left:
                self._give_back(held, left)
            self._ask_for_more(held, policy, now)
            return None
        left -= cost
        held.left = left
        if left < held.low and not held.is_asked:
            self._ask_for_more(held, policy, now)
        self.spent += 1
        headers = policy.labels[held.index].headers(held.remaining + left, held.reset)
        decision = Decision(_ALLOWED, headers, 0, False, None, "none")
        if policy.settles:
            decision.charge = SliceCharge(policy, held)
        return decision

    def told(self, slicing: Slicing, names: list[str], index: int, remaining: int, reset: int) -> None:
        """Redis decided a call by itself. So much is left beside what is held here, of which limit, and when there will be
        more."""
        held = self._held.get((slicing.specification, *names))
        if held is not None:
            held.room = held.remaining = remaining
            held.index, held.reset = index, reset

    def settle(self, charge: SliceCharge, now: float) -> bool:
        """A call that was spent of a slice turned out to cost something else: taken of the slice, or put back into it. False
        if that is over, or holds too little, and Redis is to be told."""
        held = charge.slice
        if now >= held.ends_at or held.ends_us != charge.slice_ends_us or charge.difference > held.left:
            return False
        held.left -= charge.difference
        return True

    def _look_at(self, slicing: Slicing, names: list[str], now: float) -> None:
        if len(self._held) >= SLICES_MAX:
            return
        if not self._held:
            self._swept_at = now
            self._wake()
        self._held[(slicing.specification, *names)] = Slice(slicing, names, self._place_of(names))

    # --- taking -------------------------------------------------------------------------------------------------------

    def _ask_for_more(self, held: Slice, policy: LimitPolicy, now: float) -> None:
        if held.is_asked or now < held.retry_at or held.place < 0:
            return
        seconds = min(AIM_SECONDS, held.slicing.slot_seconds)
        rest = held.ends_at - now
        if rest > 0:
            seconds = min(seconds, rest)
        calls = min(int(held.rate * seconds) - held.left, held.room // (HELD_PART * self._sharers()))
        if calls >= CALLS_MIN:
            held.is_asked = True
            self.wanted.append(SliceRequest(held, calls, policy))
            self._flush_soon()

    def answered(
        self,
        request: SliceRequest,
        answer: tuple[int, int, int, int],
        *,
        taken_us: int,
        sent_at: float,
        now: float,
        connection: RedisConnection | None,
    ) -> None:
        """`sent_at` is a moment before the request was sent, `taken_us` Redis's clock when it answered: that is later. So
        between `sent_at` and the end of the slice lies no more time than between `taken_us` and the end of its slot."""
        held, calls = request.slice, request.calls
        code, index, remaining, reset = answer
        held.is_asked = False
        held.room = remaining
        if code != script.ALLOWED and code != script.OVERAGE:
            held.retry_at = now + RETRY_SECONDS
            self._observe.slice_asked("refused")
            return
        ends_us = held.slicing.ends_us(taken_us)
        if held.left and (held.ends_us != ends_us or held.connection is not connection):
            self._give_back(held, held.left)
        # Of one slot are those that end together: between two that do not, one of the limits began another slot.
        held.left += calls
        held.taken_us, held.ends_us, held.connection = taken_us, ends_us, connection
        held.ends_at = sent_at + (ends_us - taken_us) / 1e6 * CLOCK_RATE
        held.index, held.remaining, held.reset = index, remaining, reset
        if code == script.OVERAGE:
            self._give_back(held, calls)
            held.room, held.retry_at = 0, now + OVERAGE_SECONDS
        elif (excess := calls - (remaining + calls) // (HELD_PART * self._sharers())) >= CALLS_MIN:
            self._give_back(held, excess)  # others took much since it was last known how much is left
        self._observe.slice_asked("taken")

    def unanswered(self, requests: Sequence[SliceRequest], now: float) -> None:
        """They may have been counted, and stay so."""
        for request in requests:
            request.slice.is_asked = False
            request.slice.retry_at = now + RETRY_SECONDS
            self._observe.slice_asked("unanswered")

    # --- giving back --------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Every SWEEP_SECONDS: learns how often callers call, gives back what is too much for that, and forgets who does not
        call."""
        elapsed = max(now - self._swept_at, 1e-3)
        self._swept_at = now
        silent: list[tuple[bytes | str, ...]] = []
        for key, held in self._held.items():
            held.rate += (held.calls / elapsed - held.rate) * SMOOTHING
            enough = int(held.rate * AIM_SECONDS)
            held.low = enough // LOW_PART
            excess = held.left if held.calls == 0 or now >= held.ends_at else held.left - 2 * enough
            if excess > 0:
                self._give_back(held, excess)
            if held.calls == 0 and held.rate < RATE_MIN and not held.is_asked:
                silent.append(key)
            held.calls = 0
        for key in silent:
            self._held.pop(key).ends_at = 0.0
        if self._held:
            self._wake()

    def give_back_all(self) -> None:
        for held in self._held.values():
            if held.left:
                self._give_back(held, held.left)
            held.ends_at = 0.0
        self._held.clear()

    def _give_back(self, held: Slice, calls: int) -> None:
        held.left -= calls
        held.remaining += calls
        connection = held.connection
        if connection is None or not connection.is_open:
            return  # it stays counted until its slot leaves the window
        self.returned.append(Returned(held, calls, connection))
        self._flush_soon()
