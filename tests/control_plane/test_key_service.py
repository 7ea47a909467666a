"""Making keys whose secrets are sealed under a KEK that Vault keeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from ostiary.core.encryption import Envelope, KeyWrappers
from ostiary.core.model import KeyEncryption
from ostiary.key_encryption.vault import VaultKeyWrapper
from tests.control_plane.support import Api, configuration_for, serving
from tests.support.vault_server import VaultServer
from tests.support.waiting import MACHINE_SECONDS

TIMEOUT_SECONDS = 0.3


@pytest.fixture
async def api(migrated_database: str, vault: VaultServer) -> AsyncIterator[Api]:
    configuration = configuration_for(migrated_database)
    kept = KeyEncryption("vault", {"vault": vault.settings(timeout_seconds=TIMEOUT_SECONDS)})
    async with serving(replace(configuration, stores=replace(configuration.stores, key_encryption=kept))) as api:
        yield api


async def test_a_key_is_sealed_under_the_key_that_vault_keeps(
    api: Api, migrated_database: str, vault: VaultServer
) -> None:
    """Whoever has the database, and the control plane's files, must have no secret."""
    app = await api.app()
    made = await asyncio.gather(*(api.key(app, name=f"key {number}") for number in range(20)))
    connection = await asyncpg.connect(migrated_database)
    try:
        rows = await connection.fetch("SELECT id, secret_sealed, data_key_wrapped FROM api_keys")
    finally:
        await connection.close()
    kek = VaultKeyWrapper("vault", vault.settings())
    envelope = Envelope(KeyWrappers({"vault": kek}, current="vault"))
    opened = {row["id"]: envelope.open(*row[1:], key_id=row["id"]).decode() for row in rows}
    assert opened == {key["key_id"]: key["secret"] for key in made}
    assert all(row["data_key_wrapped"].startswith(kek.prefix + b"vault:v") for row in rows)


async def test_without_vault_no_key_is_made_and_the_answer_says_so(
    api: Api, vault: VaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 118: a key without a sealed secret could never sign; and to repeat the call must be safe."""
    app = await api.app()
    vault.pause()
    try:
        began = time.monotonic()
        replies = await asyncio.gather(
            *(api.post(f"/apps/{app}/keys", {"name": "a key"}, idempotency_key=f"once-{number}") for number in range(6))
        )
        took = time.monotonic() - began
        # What needs no key goes on.
        assert (await api.get(f"/apps/{app}/keys")).document["total"] == 0
    finally:
        vault.resume()
    assert {(reply.status, reply.code, reply.headers["Retry-After"]) for reply in replies} == {
        (503, "key_service_unavailable", "2")
    }
    assert took < 10 * TIMEOUT_SECONDS + MACHINE_SECONDS
    reasons = [record.__dict__["fields"]["reason"] for record in caplog.records if record.message == "key_not_made"]
    assert len(reasons) == 6
    reply = await api.post(f"/apps/{app}/keys", {"name": "a key"}, idempotency_key="once-0")
    assert reply.status == 201
