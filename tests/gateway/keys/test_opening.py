"""Secrets that a service has to open, against a real OpenBao and a real Postgres."""

from __future__ import annotations

import asyncio
import time

import pytest

from ostiary.core.encryption import Envelope, KeyWrappers
from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.keys.opening import BATCH_MAX, UNDER_WAY_SECONDS, WAITING_MAX, Openings
from ostiary.gateway.signal import Signal
from ostiary.key_encryption.vault import VaultKeyWrapper
from tests.gateway.keys.conftest import KeyDatabase, MadeKey, RingMaker, answer, follow, until
from tests.gateway.keys.test_ring import at_once
from tests.support.vault_server import VaultServer


def use_vault(database: KeyDatabase, vault: VaultServer, **settings: object) -> Envelope:
    kek = VaultKeyWrapper("vault", vault.settings(**settings))
    database.envelope = Envelope(KeyWrappers({"vault": kek}, current="vault"))
    return database.envelope


def openings_of(ring: KeyRing) -> Openings:
    (openings,) = ring._openings.values()
    return openings


async def signed(ring: KeyRing, made: MadeKey) -> bool:
    """Whether the key verifies what it signed."""
    known = await answer(ring.find(made.id))
    return known is not None and known.signer is not None and known.signer.verify(b"text", _sign(made))


def _sign(made: MadeKey) -> bytes:
    import hmac

    return hmac.new(made.secret, b"text", "sha256").hexdigest().encode()


async def refused(ring: KeyRing, made: MadeKey) -> GatewayError:
    with pytest.raises(GatewayError) as error:
        await answer(ring.find(made.id))
    assert error.value.code is ErrorCode.KEYS_UNAVAILABLE
    return error.value


async def test_a_bearer_call_asks_no_service_and_a_signed_one_once(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer
) -> None:
    """A bearer secret is known by its hash: a Vault that is away must not stop it."""
    envelope = use_vault(database, vault)
    made = await database.add()
    ring = ring_of(database.url, envelope)
    await follow(ring)
    known = at_once(await answer(ring.find_by_secret(made.secret)))
    assert known.signer is None
    assert openings_of(ring).calls == 0
    assert await signed(ring, made)
    assert not isinstance(ring.find(made.id), Signal)
    assert openings_of(ring).calls == 1


async def test_without_the_service_warm_keys_work_and_cold_ones_are_unavailable(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer
) -> None:
    """Row 118: a Vault that hangs. 503 and not 401: the caller's key is right, and a client that is told otherwise stops."""
    envelope = use_vault(database, vault, timeout_seconds=1.0)
    warm, cold, bearer = [await database.add() for _ in range(3)]
    ring = ring_of(database.url, envelope)
    await follow(ring)
    assert await signed(ring, warm)
    vault.pause()
    try:
        error = await refused(ring, cold)
        assert "does not answer" in error.reason
        assert ("Retry-After", "1") in error.headers
        began = time.monotonic()
        error = await refused(ring, cold)  # now nobody waits
        assert time.monotonic() - began < 1.0
        assert await signed(ring, warm)
        # Another change of the key makes it be read again, and not be opened again.
        await database.connection.execute("UPDATE api_keys SET scopes = '{a}' WHERE id = $1", warm.id)
        await until(lambda: ring.status()["changed"] == 1)
        assert await signed(ring, warm)
        assert at_once(await answer(ring.find_by_secret(bearer.secret))).key.id == bearer.id
    finally:
        vault.resume()
    await until(lambda: time.monotonic() >= openings_of(ring)._retry_at)
    assert await signed(ring, cold)


async def test_a_secret_is_used_for_the_bounded_time_and_no_longer(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer
) -> None:
    """Row 118: whoever takes the KEK away in Vault has taken the signing secrets away, in time."""
    envelope = use_vault(database, vault, timeout_seconds=0.2, cache_seconds=1.0)
    made = await database.add()
    ring = ring_of(database.url, envelope)
    await follow(ring)
    assert await signed(ring, made)
    known = at_once(ring.find(made.id))
    vault.pause()
    try:
        began = time.monotonic()
        while time.monotonic() < began + 0.3:  # while it is asked for in the background, in vain
            assert not isinstance(ring.find(made.id), Signal)
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
        await refused(ring, made)
    finally:
        vault.resume()
    assert known.signer is not None  # a call that is reading its body
    openings = openings_of(ring)
    openings._clock = lambda: time.monotonic() + UNDER_WAY_SECONDS
    openings._sweep()
    assert known.signer is None


async def test_a_key_in_use_is_opened_anew_before_its_time_is_over_and_nobody_waits(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer
) -> None:
    """Row 118: a call that waits for Vault every so often would be a call that fails every so often."""
    envelope = use_vault(database, vault, cache_seconds=10.0)
    made = await database.add()
    ring = ring_of(database.url, envelope)
    await follow(ring)
    assert await signed(ring, made)
    secret = at_once(ring.find(made.id)).sealed
    assert secret is not None
    good_until = secret.good_until
    secret.ask_at = time.monotonic()
    for _ in range(1000):
        assert not isinstance(ring.find(made.id), Signal)
    await until(lambda: secret.good_until > good_until)
    assert openings_of(ring).calls == 2


async def test_a_thousand_callers_of_cold_keys_are_a_few_calls(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer
) -> None:
    """Row 118: a restart must not be a flood for Vault, and one call at a time is what a slow one can bear."""
    envelope = use_vault(database, vault)
    made = [await database.add() for _ in range(BATCH_MAX + 20)]
    ring = ring_of(database.url, envelope)
    await follow(ring)
    callers = await asyncio.gather(*(signed(ring, made[number % len(made)]) for number in range(1000)))
    assert all(callers)
    assert openings_of(ring).calls <= 3
    assert openings_of(ring).waiting == 0


async def test_callers_that_wait_for_a_slow_service_are_bounded(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer
) -> None:
    """Row 118: no pile-up."""
    envelope = use_vault(database, vault, timeout_seconds=5.0)
    made = await database.add()
    ring = ring_of(database.url, envelope)
    await follow(ring)
    at_once(await answer(ring.find_by_secret(made.secret)))
    vault.pause()
    try:
        waiting = [ring.find(made.id) for _ in range(WAITING_MAX)]
        assert openings_of(ring).waiting == WAITING_MAX
        await refused(ring, made)
    finally:
        vault.resume()
    for found in waiting:
        assert await answer(found) is not None
    assert openings_of(ring).calls == 1


async def test_a_key_that_is_revoked_while_it_is_opened_is_not_let_in(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer
) -> None:
    """Row 70: what was read before the revocation must not count after it."""
    envelope = use_vault(database, vault, timeout_seconds=5.0)
    made = await database.add()
    ring = ring_of(database.url, envelope)
    await follow(ring)
    at_once(await answer(ring.find_by_secret(made.secret)))
    vault.pause()
    try:
        found = ring.find(made.id)
        assert isinstance(found, Signal)
        await database.revoke(made)
        await until(lambda: ring.status()["changed"] == 1)
    finally:
        vault.resume()
    assert await answer(found) is None


async def test_a_key_that_is_changed_while_it_is_opened_is_read_anew(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer
) -> None:
    """Row 118: its caller has done nothing wrong, and Vault is there. Rewrapping changes every key of a gateway that may have
    started a moment ago."""
    envelope = use_vault(database, vault, timeout_seconds=5.0)
    made = await database.add()
    ring = ring_of(database.url, envelope)
    await follow(ring)
    at_once(await answer(ring.find_by_secret(made.secret)))
    sealed, wrapped = envelope.seal(made.secret, key_id=made.id)
    vault.pause()
    try:
        found = ring.find(made.id)
        assert isinstance(found, Signal)
        await database.connection.execute(
            "UPDATE api_keys SET secret_sealed = $2, data_key_wrapped = $3 WHERE id = $1", made.id, sealed, wrapped
        )
        await until(lambda: ring.status()["changed"] == 1)
    finally:
        vault.resume()
    known = await answer(found)
    assert known is not None
    assert known.signer is not None
    assert known.signer.verify(b"text", _sign(made))
    assert openings_of(ring).calls == 2


async def test_what_vault_can_not_open_is_named_and_not_asked_for_again_and_again(
    database: KeyDatabase, ring_of: RingMaker, vault: VaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One altered row must not become a call to Vault for each of its caller's."""
    envelope = use_vault(database, vault)
    other = await database.add()
    _, wrapped = envelope.seal(b"another", key_id=other.id)
    made = await database.add(data_key_wrapped=wrapped)
    ring = ring_of(database.url, envelope)
    await follow(ring)
    for _ in range(3):
        assert not await signed(ring, made)
    assert await signed(ring, other)
    assert openings_of(ring).calls == 2
    (fields,) = (record.__dict__["fields"] for record in caplog.records if record.message == "key_cannot_sign")
    assert fields["key_id"] == made.id
    assert "belongs to another key id" in fields["reason"]
