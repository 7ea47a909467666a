"""What a call costs a worker that knows very many keys: scenarios `keys` and `keys-cold`.

A million keys stand in Postgres. Of these a worker of the subject knows a hundred thousand, each from a call before the first
run; a worker of the peer, before the same database, knows a hundred and is called with these. In `keys` the subject is called
with a hundred too: what is measured is how many it knows. In `keys-cold` it is called with all that it knows, equally often,
so that what belongs to a key is in no cache of the processor. Keys that nobody has called are in no worker: they make the
table and its indexes large, which the first call of a key pays for, and no later one. (A worker may know a million; a hundred
thousand, of 1.2 kB each, are already far more than a processor's cache holds.)"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import asyncpg

from benchmarks.contestant import Contestant, Credential, RunningSide
from benchmarks.findings import Bar
from benchmarks.gateway import start_prepared, status
from benchmarks.load import LoadFailed
from benchmarks.measure import Plan, ScenarioResult, measure
from benchmarks.requests import bearer_request
from benchmarks.rig import SMALL_ANSWER_BYTES, Rig
from benchmarks.scenarios import GATEWAY_CPU, OWN_ROW, Comparison, Scenario
from ostiary.core.credentials import generate_key_id, generate_secret, secret_sha256
from ostiary.core.model import Environment

TARGET = "/v1/clients?limit=10"
WARMING_CONNECTIONS = 32
REPORT_SECONDS = 10.0  # workers report once a second

KNOWN = Scenario(
    "keys",
    "very many keys known",
    subject="ostiary-many-keys",
    target=TARGET,
    answer_bytes=SMALL_ANSWER_BYTES,
    with_stores=True,
    comparisons=(Comparison(GATEWAY_CPU, "ostiary-100-keys", Bar(1.1, aim=1.03), "7"),),
    subject_alone_is_metered=False,
)
CALLED = replace(
    KNOWN,
    name="keys-cold",
    title="very many keys called",
    comparisons=(Comparison(GATEWAY_CPU, "ostiary-100-keys", Bar(1.1, aim=1.03), OWN_ROW),),
)


@dataclass(frozen=True, slots=True)
class Keys:
    """How many stand in the database, and how many of them a worker knows, on each side."""

    in_database: int
    many: int
    few: int = 100


KEYS = Keys(in_database=1_000_000, many=100_000)
QUICK_KEYS = Keys(in_database=20_000, many=5_000)


class KeyStore:
    """The keys of one measurement: put into its database before the first gateway starts."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.secrets: list[str] = []

    def fill(self, rig: Rig) -> None:
        if not self.secrets and rig.stores is not None:
            self.secrets = asyncio.run(_fill(rig.stores.postgres_url, self._keys))

    def contestant(self, name: str, title: str, known: int, called: int) -> Contestant:
        """An Ostiary that knows so many keys when it is started, and is called with the first of these."""
        start_gateway = start_prepared("ostiary-keys.yaml", self.fill)

        def start(rig: Rig) -> RunningSide:
            side = start_gateway(rig)
            asyncio.run(_call_each(side.port, self.secrets[:known]))
            _require_known(side, known)
            return side

        return Contestant(name, title, Credential.BEARER, (), start, secrets=lambda: self.secrets[:called])


def measure_keys(scenario: Scenario, keys: Keys, plan: Plan, say: Callable[[str], None]) -> ScenarioResult:
    """`scenario` is KNOWN or CALLED. Raises as `measure`."""
    store = KeyStore(keys)
    called = keys.many if scenario.name == CALLED.name else keys.few
    many = store.contestant(
        scenario.subject, f"Ostiary with {keys.many:,} keys known, {called:,} called", keys.many, called
    )
    few = store.contestant("ostiary-100-keys", f"Ostiary with {keys.few} keys known and called", keys.few, keys.few)
    title = f"{keys.in_database:,} keys in Postgres, {keys.many:,} known to the worker, {called:,} called"
    say(title)
    scenario = replace(scenario, title=f"{title}: bearer, rate + hour + day, usage, against {keys.few} keys")
    return measure(scenario, [many, few], plan, say)


async def _fill(url: str, keys: Keys) -> list[str]:
    """The secrets of the keys that are to be called."""
    secrets = [generate_secret(Environment.TEST) for _ in range(keys.many)]
    connection = await asyncpg.connect(url)
    try:
        app = await connection.fetchval(
            "WITH owner AS (INSERT INTO organizations (name) VALUES ('Many') RETURNING id) "
            "INSERT INTO apps (organization_id, name) SELECT id, 'many' FROM owner RETURNING id"
        )
        # Without triggers, in this session alone: no gateway runs that would have to hear of each, and a million looks for
        # the one app would take longer than the keys.
        await connection.execute("SET session_replication_role = replica")
        sealed, columns = b"\0" * 80, _COLUMNS
        rows = [
            (
                *(generate_key_id(Environment.TEST), app, "called", "test", secret_sha256(secret.encode())),
                *(sealed, sealed, secret[-4:], "standard", ["clients:read"]),
            )
            for secret in secrets
        ]
        await connection.copy_records_to_table("api_keys", records=rows, columns=columns)
        # Guarantees nothing but rows that stand in the table and its indexes as any others: nobody has their secrets.
        await connection.execute(
            f"INSERT INTO api_keys ({', '.join(columns)}) "
            "SELECT 'ak_test_' || lpad(n::text, 22, '0'), $1, 'idle', 'test', sha256(n::text::bytea), $2, $2, '0000', "
            "'standard', ARRAY['clients:read'] FROM generate_series(1, $3::int) AS n",
            app,
            sealed,
            max(0, keys.in_database - keys.many),
        )
        await connection.execute("VACUUM ANALYZE api_keys")
    finally:
        await connection.close()
    return secrets


_COLUMNS = (
    *(
        "id",
        "app_id",
        "name",
        "environment",
        "secret_sha256",
        "secret_sealed",
        "data_key_wrapped",
        "secret_hint",
        "plan",
    ),
    "scopes",
)


async def _call_each(port: int, secrets: Sequence[str]) -> None:
    """One call with each key. Raises LoadFailed when one is refused."""
    left = [bearer_request(TARGET, secret) for secret in secrets]
    random.shuffle(left)

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left:
            writer.write(left.pop())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise LoadFailed(f"a first call of a key was answered with {head[:100]!r}")
            await reader.readexactly(SMALL_ANSWER_BYTES)
        writer.close()

    async with asyncio.TaskGroup() as connections:
        for _ in range(WARMING_CONNECTIONS):
            connections.create_task(one_connection())


def _require_known(side: RunningSide, called: int) -> None:
    """Waits until the worker reports that it knows so many keys. Raises LoadFailed when it does not."""
    assert side.admin_port is not None  # a gateway's
    deadline = time.monotonic() + REPORT_SECONDS
    known = 0
    while known < called:
        if time.monotonic() > deadline:
            raise LoadFailed(f"after a call with each of {called} keys the worker knows {known}")
        time.sleep(0.1)
        (worker,) = status(side.admin_port)["workers"]
        known = int((worker["reported"] or {}).get("keys", {}).get("known_keys", 0))
