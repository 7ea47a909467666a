"""The keys as the request path asks for them: at once when known, by one query when not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from ostiary.core.credentials import checksum_holds, is_key_id
from ostiary.core.encryption import Envelope, RemoteKeyWrapper
from ostiary.core.errors import GatewayError
from ostiary.core.model import Key
from ostiary.core.signing import Signer
from ostiary.gateway.keys.cache import KeyCache, KnownKey
from ostiary.gateway.keys.feed import ChangeFeed
from ostiary.gateway.keys.lookup import Lookup
from ostiary.gateway.keys.opening import Openings
from ostiary.gateway.keys.store import KeyLoader
from ostiary.gateway.keys.trial import Trial
from ostiary.gateway.signal import Signal

if TYPE_CHECKING:
    from ostiary.gateway.failed_attempts import Gate

# 1.4 kB a key (measured): a process that has seen a million different keys has grown by 1.4 GB, and stays there.
CAPACITY = 1_000_000
# No secret is longer (file keys: 256); what is longer need not be hashed.
_SECRET_BYTES_MAX = 256


class KeyRing:
    """Finds keys of the configuration file and of Postgres; the file's come first.

    A find answers a KnownKey, None (refuse: unknown, revoked or expired), or a Signal of either, when Postgres must be
    asked; that fails with GatewayError KEYS_UNAVAILABLE when Postgres can't answer. So does a find by id, which is for a key
    that signs, when a service has to open its secret and can't be asked. What can't be a key of Postgres, by its
    format or its checksum, is refused without asking. Known keys go on working while Postgres is away, for
    `stale_seconds`. `postgres_url` None: only the file's keys exist. `envelope` None: keys of Postgres work as
    bearer keys and have no signer. `capacity` is how many keys of Postgres are remembered. `clock` is Unix seconds. With a
    `gate` nobody is looked up for whoever has failed too often."""

    def __init__(
        self,
        *,
        file_keys: Mapping[str, Key],
        postgres_url: str | None,
        envelope: Envelope | None,
        stale_seconds: float,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.time,
        gate: Gate | None = None,
    ) -> None:
        self._clock = clock
        self._gate = gate
        self._epoch = 0
        self._cache = KeyCache(capacity=capacity)
        self._known = self._cache.known
        self._known_by_secret = self._cache.by_secret
        self._file: dict[str, KnownKey] = {}
        self._file_by_secret: dict[bytes, KnownKey] = {}
        self.replace_file_keys(file_keys)
        self._lookup: Lookup | None = None
        self._feed: ChangeFeed | None = None
        self._openings: dict[RemoteKeyWrapper, Openings] = {}
        if postgres_url is not None:
            services = () if envelope is None else envelope.services
            self._openings = {
                service: Openings(service, cache=self._cache, look_up=self._look_up) for service in services
            }
            self._lookup = Lookup(
                postgres_url=postgres_url,
                loader=KeyLoader(envelope, self._openings),
                cache=self._cache,
                clock=clock,
                epoch=lambda: self._epoch,
            )
            self._feed = ChangeFeed(
                postgres_url=postgres_url,
                cache=self._cache,
                stale_seconds=stale_seconds,
                connected=self._lookup.try_at_once,
            )

    async def start(self) -> None:
        """Begins to follow changes. Does not wait for Postgres, and does not fail because it is away."""
        if self._feed is not None:
            self._feed.start()
        for openings in self._openings.values():
            openings.start()

    async def close(self) -> None:
        """Ends both connections; whoever waits for an answer is refused."""
        if self._feed is not None:
            await self._feed.close()
        if self._lookup is not None:
            await self._lookup.close()
        for openings in self._openings.values():
            await openings.close()

    def find(self, key_id: str, address: str = "") -> KnownKey | Signal[KnownKey | None] | None:
        """The key with this id, for a caller at `address`. Raises Barred when too many attempts from there have failed."""
        known = self._file.get(key_id) or self._known.get(key_id)
        gate = self._gate
        if gate is not None and address:
            if known is None:
                gate.check(address)
            elif gate.watchful:
                gate.check_key(address, key_id)
        if known is None:
            if self._lookup is None or not is_key_id(key_id) or self._cache.is_absent(key_id):
                return None
            return self._lookup.ask(key_id)
        if known.epoch != self._epoch:
            known = self._renew(known)
        if known.expires_at <= self._clock():
            if gate is not None and address:
                gate.check(address)  # as for a key that is unknown, which it must not be told from
            return None
        known.used = True
        if known.sealed is not None or known.previous is not None:
            now = time.monotonic()
            for secret in known.sealed_secrets():
                if secret.ask_at <= now and isinstance(asked := secret.openings.ask(known, secret), Signal):
                    return asked
        return known

    def find_by_secret(self, secret: bytes, address: str = "") -> KnownKey | Signal[KnownKey | None] | None:
        """The key whose whole secret this is, for a caller at `address`. Raises Barred when this process does not know it,
        and too many attempts from there have failed. It is looked up by its SHA-256, so the time it takes says nothing of how
        near a wrong secret is to a right one."""
        if len(secret) > _SECRET_BYTES_MAX:
            return None
        digest = sha256(secret).digest()
        known = self._file_by_secret.get(digest) or self._known_by_secret.get(digest)
        if known is None:
            if self._gate is not None and address:
                self._gate.check(address)
            if self._lookup is None or not checksum_holds(secret) or self._cache.is_absent(digest):
                return None
            return self._lookup.ask(digest)
        if known.epoch != self._epoch:
            known = self._renew(known)
        if known.expires_at <= self._clock():
            return None
        known.used = True
        return known

    def _look_up(self, key_id: str, answer: Signal[KnownKey | None]) -> None:
        assert self._lookup is not None  # noqa: S101  what has to be opened came from there
        self._lookup.ask_for(key_id, answer)

    def trial(self, known: KnownKey | None) -> Trial:
        """By which a signature is checked, of what `find` gave."""
        return Trial(known, self._clock())

    async def has_key(self, key_id: str) -> bool:
        """Whether a key that was there is neither revoked nor expired. While that can't be told it is."""
        found = self.find(key_id)
        try:
            return (await found if isinstance(found, Signal) else found) is not None
        except GatewayError:
            return True

    async def is_in_force(self, known: KnownKey) -> bool:
        """Whether what `find` gave once is neither revoked, expired nor ended, as a secret of its key. While that can't be
        told it is what it was before."""
        secret = known.key.secret_sha256
        found = self.find(known.key.id)
        try:
            now = await found if isinstance(found, Signal) else found
        except GatewayError:
            return known.expires_at > self._clock()
        if now is None or now.key.secret_sha256 == secret:
            return now is not None
        previous = now.previous
        return previous is not None and previous.key.secret_sha256 == secret and previous.expires_at > self._clock()

    def replace_file_keys(self, file_keys: Mapping[str, Key]) -> None:
        """After a reload: these are the file's keys from now on, and no others."""
        self._file = {}
        self._file_by_secret = {}
        for key in file_keys.values():
            self._put_file_key(_of_file(key, self._epoch))

    def _put_file_key(self, known: KnownKey) -> None:
        self._file[known.key.id] = known
        self._file_by_secret[known.key.secret_sha256] = known
        if known.previous is not None:
            self._file_by_secret[known.previous.key.secret_sha256] = known.previous

    def forget_prepared(self) -> None:
        """After a snapshot swap: every find from now on gives a KnownKey with nothing prepared. In constant time: each key is
        renewed when it is next found."""
        self._epoch += 1

    def status(self) -> dict[str, object]:
        """What `/status` shows of the keys: counts, bounds and whether changes are followed; no key's id."""
        status: dict[str, object] = {"file_keys": len(self._file)}
        if self._feed is not None and self._lookup is not None:
            status |= {
                "known_keys": len(self._known),
                "known_keys_max": self._cache.capacity,
                "absent_keys": self._cache.absent,
                "evicted": self._cache.evicted,
                "changed": self._cache.forgotten,
                "following_changes": self._feed.following,
                "silent_seconds": round(self._feed.silent_seconds, 1),
                "stale": self._cache.expired,
                "feed_connects": self._feed.connects,
                "feed_failure": self._feed.failure,
                "look_ups_waiting": self._lookup.waiting,
                "look_up_queries": self._lookup.queries,
                "look_up_failures": self._lookup.failures,
                "look_ups_refused": self._lookup.refused,
                "openings": {service.name: openings.status() for service, openings in self._openings.items()},
            }
        return status

    def _renew(self, known: KnownKey) -> KnownKey:
        """Both generations at once: they stay each other's."""
        key_id = known.key.id
        if self._file_by_secret.get(known.key.secret_sha256) is known:
            renewed = self._file[key_id].renewed(self._epoch)
            self._put_file_key(renewed)
        else:
            renewed = self._known[key_id].renewed(self._epoch)
            self._cache.replace(renewed)
        if renewed.previous is not None and known.key.secret_sha256 == renewed.previous.key.secret_sha256:
            return renewed.previous
        return renewed


def _of_file(key: Key, epoch: int) -> KnownKey:
    previous = None if key.previous is None else _of_file(key.previous, epoch)
    signer = None if key.secret is None else Signer(key.secret)
    return KnownKey(key, signer=signer, revision=0, epoch=epoch, previous=previous)
