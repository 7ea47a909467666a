"""What one process knows of the keys in Postgres: keys it has seen and, for a short time, keys it knows to be absent.

Both are bounded: the first gives up what was not used lately, the second what is oldest. Nothing here waits."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from ostiary.core.model import Key
from ostiary.core.signing import Signer

if TYPE_CHECKING:
    from ostiary.gateway.keys.opening import Openings

# What a look-up asks by: a key id, or the SHA-256 of a bearer secret.
Question = str | bytes

# A flood of made-up keys ends here at about 3 MB; what falls out is asked again, in batches.
ABSENT_CAPACITY = 16_384
# The change feed removes an answer that has become wrong; this bounds how long one could live that the feed missed.
ABSENT_SECONDS = 10.0
# How many used entries are passed over in the search for an unused one, so that one insertion has a bounded cost.
_SECOND_CHANCES = 16


class SealedSecret:
    """A signing secret whose data key a service has to unwrap, and what came of that. Times are monotonic seconds.

    `signer` is there once it was opened, and may be used until `good_until`; from `ask_at` on the service is to be asked
    (again). Without a signer and good all the same: it can't be opened, and that is known."""

    __slots__ = ("ask_at", "good_until", "key_id", "openings", "sealed", "signer", "wrapped")

    def __init__(self, key_id: str, sealed: bytes, wrapped: bytes, openings: Openings) -> None:
        self.key_id = key_id
        self.sealed = sealed
        self.wrapped = wrapped
        self.openings = openings
        self.signer: Signer | None = None
        self.good_until = 0.0
        self.ask_at = 0.0


class KnownKey:
    """One generation of a key with what the request path needs ready: its signer, when it ends, and what the request path has
    worked out for it under the present snapshot, by place (`prepared`).

    `signer` is None where the secret can't be recovered, or where a service has still to open it (`sealed`). `expires_at`
    is Unix seconds, `inf` for never. `revision` is the row's in Postgres, 0 for a key of the configuration file. `previous`
    is the generation before, also past its end; None if there was none. One object belongs to one snapshot: after a swap a
    `find` gives another, so a request that is still under way keeps what was prepared for its own."""

    __slots__ = (
        "_last",
        "_last_place",
        "_prepared",
        "_signer",
        "epoch",
        "expires_at",
        "key",
        "previous",
        "revision",
        "sealed",
        "used",
    )

    def __init__(
        self,
        key: Key,
        *,
        signer: Signer | None,
        revision: int,
        epoch: int,
        sealed: SealedSecret | None = None,
        previous: KnownKey | None = None,
    ) -> None:
        # What each call asks stands first (docs/decisions/0042-cold-routes.md).
        self.epoch = epoch
        self.expires_at = math.inf if key.expires_at is None else key.expires_at
        self.used = False
        # Most keys call one place, and have no dictionary.
        self._last_place: object = None
        self._last: object = None
        self._prepared: dict[object, object] | None = None
        self.key = key
        self._signer = signer
        self.sealed = sealed
        self.previous = previous
        self.revision = revision

    def __repr__(self) -> str:
        return f"KnownKey({self.key.id!r})"

    def prepared(self, place: object) -> object:
        """What was prepared there; None if nothing was."""
        if place is self._last_place:
            return self._last
        if self._prepared is None:
            return None
        found = self._prepared.get(place)
        if found is not None:
            self._last_place, self._last = place, found
        return found

    def prepare(self, place: object, what: object) -> None:
        """Keeps it as long as this object."""
        if self._last is None:
            self._last_place, self._last = place, what
            return
        if self._prepared is None:
            self._prepared = {self._last_place: self._last}
        self._prepared[place] = what

    def renewed(self, epoch: int) -> KnownKey:
        """The same key for another snapshot, with nothing prepared."""
        previous = self.previous
        return KnownKey(
            self.key,
            signer=self._signer,
            revision=self.revision,
            epoch=epoch,
            sealed=self.sealed,
            previous=None if previous is None else previous.renewed(epoch),
        )

    @property
    def signer(self) -> Signer | None:
        return self._signer if self.sealed is None else self.sealed.signer

    def sealed_secrets(self) -> tuple[SealedSecret, ...]:
        """Those that a signature may be verified with."""
        generations = (self, self.previous)
        return tuple(each.sealed for each in generations if each is not None and each.sealed is not None)


class Changes:
    """What changed while a query was under way: its answer may be older than the change that was announced."""

    __slots__ = ("everything", "ids")

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.everything = False

    def __bool__(self) -> bool:
        return self.everything or bool(self.ids)


class KeyCache:
    """Known keys by id and by secret, absent ones by question.

    `known` and `by_secret` are read directly on the hot path and written only here; they always hold the same keys, in
    `by_secret` with the generation before, where there is one. What
    `expire` and `following` say decides what may be remembered: nothing when Postgres has been away for too long, and no
    absence while nobody would tell that the key was made."""

    def __init__(self, *, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        if capacity < 1:
            raise ValueError(f"the capacity of the key cache must be at least 1, not {capacity}")
        self.capacity = capacity
        self.known: OrderedDict[str, KnownKey] = OrderedDict()
        self.by_secret: dict[bytes, KnownKey] = {}
        self.evicted = 0
        self.forgotten = 0
        self._clock = clock
        self._absent_ids: OrderedDict[str, float] = OrderedDict()
        self._absent_secrets: OrderedDict[bytes, float] = OrderedDict()
        self._following = False
        self._expired = False
        self._changes: Changes | None = None

    # --- what look-ups bring ----------------------------------------------------------------------------------------

    def watch(self) -> Changes:
        """From now on, until the next call, what changes is noted in the answer. One query watches at a time."""
        self._changes = Changes()
        return self._changes

    def remember(self, known: KnownKey) -> None:
        """Keeps a key that was loaded; at capacity one that was not used lately goes."""
        if self._expired:
            return
        key_id = known.key.id
        self._remove(key_id)
        if len(self.known) >= self.capacity:
            self._evict()
        self._put(known)
        self._absent_ids.pop(key_id, None)
        self._absent_secrets.pop(known.key.secret_sha256, None)
        if known.previous is not None:
            self._absent_secrets.pop(known.previous.key.secret_sha256, None)

    def remember_absent(self, question: Question) -> None:
        """Keeps for ABSENT_SECONDS that no key answers `question`."""
        if not self._following:
            return
        until = self._clock() + ABSENT_SECONDS
        if isinstance(question, str):
            _keep(self._absent_ids, question, until)
        else:
            _keep(self._absent_secrets, question, until)

    def is_absent(self, question: Question) -> bool:
        until = self._absent_ids.get(question) if isinstance(question, str) else self._absent_secrets.get(question)
        return until is not None and until > self._clock()

    def replace(self, known: KnownKey) -> None:
        """Puts `known` in the place of the entry with its id, if there is one."""
        if known.key.id in self.known:
            self._put(known)

    # --- what the change feed says ----------------------------------------------------------------------------------

    def forget(self, key_id: str) -> None:
        """The key was made, changed, revoked or deleted. Which secret it has is not known, so every absence that was found by
        secret is forgotten with it."""
        if self._changes is not None:
            self._changes.ids.add(key_id)
        self._absent_ids.pop(key_id, None)
        self._absent_secrets.clear()
        if self._remove(key_id):
            self.forgotten += 1

    def following(self, now: bool) -> None:
        """Changes are announced from now on (they were not before: queries under way may be out of date), or no longer."""
        self._following = now
        if now:
            self._expired = False
        if self._changes is not None:
            self._changes.everything = True
        self.forget_absent()

    def forget_absent(self) -> None:
        self._absent_ids.clear()
        self._absent_secrets.clear()

    def expire(self) -> None:
        """Postgres was not heard of for too long: nothing is known any more until it is followed again."""
        self._expired = True
        self.known.clear()
        self.by_secret.clear()
        self.forget_absent()

    @property
    def expired(self) -> bool:
        return self._expired

    @property
    def absent(self) -> int:
        return len(self._absent_ids) + len(self._absent_secrets)

    # --- within -----------------------------------------------------------------------------------------------------

    def _put(self, known: KnownKey) -> None:
        self.known[known.key.id] = known
        self.by_secret[known.key.secret_sha256] = known
        if known.previous is not None:
            self.by_secret[known.previous.key.secret_sha256] = known.previous

    def _remove(self, key_id: str) -> bool:
        known = self.known.pop(key_id, None)
        if known is None:
            return False
        self.by_secret.pop(known.key.secret_sha256, None)
        if known.previous is not None:
            self.by_secret.pop(known.previous.key.secret_sha256, None)
        return True

    def _evict(self) -> None:
        """Second chance (CLOCK): what was used since it last came to the front goes to the end once more. Unlike LRU, a hit
        then costs one store and no relinking."""
        for _ in range(_SECOND_CHANCES):
            key_id = next(iter(self.known))
            known = self.known[key_id]
            previous = known.previous
            if not known.used and (previous is None or not previous.used):
                break
            known.used = False
            if previous is not None:
                previous.used = False
            self.known.move_to_end(key_id)
        self._remove(next(iter(self.known)))
        self.evicted += 1


def _keep(absent: OrderedDict[str, float] | OrderedDict[bytes, float], question: Question, until: float) -> None:
    if len(absent) >= ABSENT_CAPACITY:
        absent.popitem(last=False)
    absent[question] = until  # type: ignore[index]  # the caller pairs them
