"""Nonces in the memory of one worker: the only memory while Redis is away, and a shield in front of it otherwise."""

from __future__ import annotations


class NonceMemory:
    """Nonces that are used up, each until its time has passed. Times are monotonic seconds, given by the caller.

    Two generations of at most `generation_max` each: when the younger is full it becomes the older, and what was the older
    is forgotten at once. So at least the last `generation_max` nonces are known, and remembering one costs the same always
    (taking the oldest out of one dict one by one gets slower the more has been taken out). A nonce takes some 250 bytes."""

    __slots__ = ("_generation_max", "_old", "_old_until", "_young", "_young_until")

    def __init__(self, generation_max: int) -> None:
        self._generation_max = generation_max
        self._young: dict[str, float] = {}
        self._old: dict[str, float] = {}
        self._young_until = 0.0
        self._old_until = 0.0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def holds(self, nonce: str, now: float) -> bool:
        until = self._young.get(nonce)
        if until is None:
            until = self._old.get(nonce, 0.0)
        return until > now

    def is_full(self, now: float) -> bool:
        """The next nonce would displace some whose time has not passed."""
        return len(self._young) >= self._generation_max and self._old_until > now

    def remember(self, nonce: str, now: float, life_seconds: float) -> None:
        """Displaces the oldest when there is no room; ask `is_full` first where that must not be."""
        if len(self._young) >= self._generation_max:
            self._old, self._old_until = self._young, self._young_until
            self._young, self._young_until = {}, 0.0
        until = now + life_seconds
        self._young[nonce] = until
        if until > self._young_until:
            self._young_until = until
