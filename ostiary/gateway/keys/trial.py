"""Which secret of a key a signature was made with, if any that is in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ostiary.core.signing import Signer
from ostiary.gateway.keys.cache import KnownKey

# In the place of a signer that there is not: a key that is unknown, a secret that can't be opened, a generation before.
NOBODY: Final = Signer(b"nobody" * 8)


class Trial:
    """Of a key as `KeyRing.find` gave it, at one moment (Unix seconds). `first` is the signer of its present generation, or
    NOBODY; `second` that of the one before while it is in force.

    A refusal takes the time of two signatures, whether the key is unknown, has one generation in force or two; and a key with
    two takes that time always. So nobody learns which keys there are, or which of two secrets it was."""

    __slots__ = ("_known", "first", "second")

    def __init__(self, known: KnownKey | None, now: float) -> None:
        self._known = known
        self.first = NOBODY
        self.second: Signer | None = None
        if known is not None:
            signer, previous = known.signer, known.previous
            if signer is not None:
                self.first = signer
            if previous is not None and previous.expires_at > now:
                self.second = previous.signer

    @property
    def signers(self) -> list[Signer]:
        """The two that `proven` may ask for, in order. A message that comes in pieces has to be begun for both: a long one
        is not there to be hashed again when the first does not hold."""
        return [self.first, NOBODY if self.second is None else self.second]

    def proven(self, verify: Callable[[Signer], bool]) -> KnownKey | None:
        """The generation whose signer `verify` holds for; it is asked for NOBODY too."""
        known, second = self._known, self.second
        holds = verify(self.first) and self.first is not NOBODY
        if holds and second is None:
            return known
        held_before = verify(NOBODY if second is None else second) and second is not None
        if holds:
            return known
        return known.previous if held_before and known is not None else None
