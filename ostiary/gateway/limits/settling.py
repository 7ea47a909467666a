"""What a call turned out to cost: told by its upstream when it answers, settled with whoever decided the call."""

from __future__ import annotations

from collections.abc import Sequence

from ostiary.gateway.limits.policy import LimitPolicy
from ostiary.gateway.limits.script import ALWAYS_US


class Charge:
    """What a call was charged before it was forwarded; a `script.Settlement` once `difference` is known.

    `names` are those of `policy.names`; `taken_us` is when it was charged, by the clock of whoever decided it: Redis, or this
    worker if `alone`. `skipped` are the places of limits, in shadow, that did not count it. `others`: the same call, in other
    slots of a Redis Cluster; `crossing`: it was refused there."""

    __slots__ = ("alone", "crossing", "difference", "names", "others", "policy", "skipped", "taken_us")

    def __init__(
        self, policy: LimitPolicy, names: list[str], taken_us: int, *, alone: bool, skipped: Sequence[int] = ()
    ) -> None:
        self.policy = policy
        self.names = names
        self.taken_us = taken_us
        self.alone = alone
        self.skipped = skipped
        self.crossing = False
        self.difference = 0
        self.others: list[Charge] = []

    @property
    def ends_us(self) -> int:
        return ALWAYS_US

    @property
    def specification(self) -> bytes:
        if self.skipped or self.crossing:
            return self.policy.specification_without(self.skipped, crossing=self.crossing)
        return self.policy.specification(0)
