"""A worker before many keys, in small: the real gateway, stores and load."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from benchmarks.gateway import status
from benchmarks.load import LoadFailed
from benchmarks.many_keys import CALLED, TARGET, Keys, KeyStore
from benchmarks.measure import exchange, probe, requests_for, run_once
from benchmarks.requests import bearer_request
from benchmarks.rig import Rig, running_rig

KEYS = Keys(in_database=300, many=100, few=10)

pytestmark = pytest.mark.full


@pytest.fixture
def rig() -> Iterator[Rig]:
    with running_rig(with_stores=True) as rig:
        yield rig


def keys_in_database(rig: Rig) -> int:
    async def count() -> int:
        assert rig.stores is not None
        connection = await asyncpg.connect(rig.stores.postgres_url)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM api_keys"))
        finally:
            await connection.close()

    return asyncio.run(count())


@pytest.mark.parametrize("called", [KEYS.many, KEYS.few])
def test_a_worker_knows_so_many_keys_and_is_called_with_so_many(rig: Rig, called: int) -> None:
    """Keys that are asked for first in a run would be measured on their way to Postgres; a worker that knows few is no
    worker before many."""
    store = KeyStore(KEYS)
    contestant = store.contestant("ostiary-many-keys", "Ostiary", KEYS.many, called)
    side = contestant.start(rig)
    try:
        assert keys_in_database(rig) == KEYS.in_database
        probe(contestant, side.port, CALLED)
        requests = requests_for(contestant, CALLED, rig, 1.0)
        content = requests.path.read_bytes()
        times = [content.count(bearer_request(TARGET, secret)) for secret in store.secrets]
        assert min(times[:called]) > 1
        assert not any(times[called:])
        assert run_once(rig, side, requests, 0.3).requests > 50
        assert exchange(side.port, bearer_request(TARGET, "ost_sk_test_of_nobody"))[0] == 401
        assert side.admin_port is not None
        (worker,) = status(side.admin_port)["workers"]
        assert worker["reported"]["keys"]["known_keys"] == KEYS.many
    finally:
        rig.processes.stop(side.started)


def test_a_first_call_that_is_refused_ends_the_measurement(rig: Rig) -> None:
    """Refusals are cheap: a gateway without its keys would look fast."""
    store = KeyStore(KEYS)
    store.secrets = ["sk_test_of_nobody"]
    with pytest.RaisesGroup(pytest.RaisesExc(LoadFailed, match="401"), allow_unwrapped=True):
        store.contestant("ostiary-many-keys", "Ostiary", 1, 1).start(rig)
