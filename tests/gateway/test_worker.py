"""The whole gateway as it is started from a shell: real workers, a real shipper, real stores."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

import ostiary.control_plane.db
from ostiary.demo.stores import EmbeddedValkey
from tests.support.gateway_process import SECRET, GatewayProcess, eventually
from tests.support.samples import samples

CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: 2}}
  admin: {{host: 127.0.0.1, port: 0}}
  drain: 5s
stores:
  redis: {redis}
  redis_deadline: 2s
  postgres: "{postgres}"
  spool: {spool}
plans:
  small:
    limits: [{{requests: 100000, per: hour}}]
upstreams:
  origin:
    targets: [{{url: "http://127.0.0.1:{origin}"}}]
routes:
  - name: everything
    match: {{path: /**}}
    upstream: origin
    auth: {{schemes: [bearer]}}
keys:
  - {{id: canary_key, secret: "${{OSTIARY_TEST_SECRET}}", plan: small, environment: test}}
"""


class Origin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"from the origin"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """The test's output is for the test."""


@pytest.fixture
def origin_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


async def migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for migration in sorted((Path(ostiary.control_plane.db.__file__).parent / "migrations").glob("*.sql")):
            await connection.execute(migration.read_text())
    finally:
        await connection.close()


@pytest.fixture
async def configuration(
    tmp_path: Path, migrated_database: str, valkey_server: EmbeddedValkey, origin_port: int
) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        CONFIGURATION.format(
            redis=valkey_server.url(), postgres=migrated_database, spool=tmp_path / "spool", origin=origin_port
        )
    )
    return path


def without_stores(directory: Path, origin_port: int) -> Path:
    """A configuration whose Redis and Postgres are not there."""
    path = directory / "gateway.yaml"
    path.write_text(
        CONFIGURATION.format(
            redis="redis://127.0.0.1:9/0",
            postgres="postgresql://nobody@127.0.0.1:9/nothing",
            spool=directory / "spool",
            origin=origin_port,
        )
    )
    return path


async def rows(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM usage_events"))
    finally:
        await connection.close()


def calls(gateway: GatewayProcess, count: int) -> None:
    for _ in range(count):
        assert gateway.get("/v1/things", headers={"Authorization": f"Bearer {SECRET}"}) == "from the origin"


def unhurt(worker: dict[str, Any]) -> bool:
    """Whether the worker says of its spool that it may block, has not, and is being written to the disk."""
    spool = (worker["reported"] or {}).get("spool")
    return spool is not None and (spool["blocked"], spool["full"], spool["sync"]["failing"]) == (0, False, False)


async def test_every_call_is_served_limited_counted_and_in_postgres_when_the_gateway_has_ended(
    configuration: Path, migrated_database: str
) -> None:
    """Row 109: the parts of a worker belong together: what it served is metered once, a killed worker's calls included."""
    with configuration.open("a") as file:
        file.write("usage: {spool: {when_full: block, sync: 100ms}}\n")
    gateway = GatewayProcess(["ostiary", "gateway", "-c", str(configuration)])
    try:
        await asyncio.to_thread(gateway.wait_ready)
        await asyncio.to_thread(calls, gateway, 30)
        victim = gateway.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(gateway.wait_for_workers, without=victim)
        await asyncio.to_thread(calls, gateway, 30)

        found = samples(gateway.admin("/metrics")[1])
        assert sum(value for (name, _), value in found.items() if name == "http_requests_total") == 60
        assert found["usage_events_accepted_total", ()] == 60
        assert (found["usage_spool_full", ()], found.get(("usage_calls_blocked_total", ()), 0)) == (0, 0)
        await asyncio.to_thread(
            eventually, lambda: all(map(unhurt, gateway.status()["workers"])), "each tells of its spool"
        )
        assert found["rate_limit_store_duration_seconds_count", ()] > 0
        decisions = {
            dict(labels)["decision"]: value
            for (name, labels), value in found.items()
            if name == "rate_limit_decisions_total"
        }
        assert decisions == {"allowed": 60}
        eventually(lambda: samples(gateway.admin("/metrics")[1])["active_api_keys", ()] == 1, "the key is counted")
        written = "usage_events_written_total", ()
        await asyncio.to_thread(
            eventually, lambda: samples(gateway.admin("/metrics")[1])[written] == 60, "usage in Postgres"
        )

        await asyncio.to_thread(calls, gateway, 7)
        gateway.signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.wait) == 0
        assert await rows(migrated_database) == 67, "what was metered last is shipped before the gateway ends"
        assert SECRET not in "".join(gateway.text)
    finally:
        gateway.stop()


def test_what_is_recorded_of_clients_is_as_the_file_says_and_changes_with_a_reload(
    configuration: Path, migrated_database: str, tmp_path: Path
) -> None:
    """An operator who has promised not to keep addresses would find them in the table."""
    writer = MMDBWriter(database_type="Test-Country")
    writer.insert_network(IPSet(["127.0.0.0/8"]), {"country": {"iso_code": "NL"}})
    writer.to_db_file(str(tmp_path / "countries.mmdb"))
    plain = configuration.read_text()
    record = "usage: {record: {ip: none, user_agent: product}, country_database: countries.mmdb}\n"
    configuration.write_text(plain + record)
    with GatewayProcess(["ostiary", "gateway", "-c", str(configuration)]) as gateway:
        gateway.wait_ready()
        calls(gateway, 5)
        configuration.write_text(plain + "usage: {record: {ip: hashed}}\n")
        gateway.signal(signal.SIGHUP)
        gateway.wait_for_log("reloaded")
        calls(gateway, 20)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0

    async def recorded() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(migrated_database)
        found = await connection.fetch(
            "SELECT country, ip IS NOT NULL AS ip, count(DISTINCT ip_hash) AS hashes, count(*) AS calls FROM usage_events "
            "WHERE user_agent ~ '^[^ ]+$' GROUP BY 1, 2 ORDER BY 1"
        )
        await connection.close()
        return [tuple(row) for row in found]

    assert asyncio.run(recorded()) == [("NL", False, 0, 5), (None, False, 1, 20)]


def test_a_gateway_starts_and_serves_while_its_stores_are_away(tmp_path: Path, origin_port: int) -> None:
    """A restart during an outage of Redis or Postgres must not turn it into an outage of the API."""
    path = without_stores(tmp_path, origin_port)
    gateway = GatewayProcess(["ostiary", "gateway", "-c", str(path)])
    try:
        gateway.wait_ready()
        calls(gateway, 5)
        assert gateway.admin("/readyz")[0] == 200
    finally:
        gateway.stop()


def test_a_spool_that_cannot_be_written_ends_the_start_with_its_mend(tmp_path: Path, origin_port: int) -> None:
    """Serving without metering would lose what the operator bills by."""
    (tmp_path / "spool").write_text("a file where the directory should be")
    with GatewayProcess(["ostiary", "gateway", "-c", str(without_stores(tmp_path, origin_port))]) as gateway:
        assert gateway.wait() == 1
        assert str(tmp_path / "spool") in gateway.text[-1]


def test_a_file_with_mistakes_is_refused_with_all_of_them_and_status_2(tmp_path: Path) -> None:
    """An operator mends all mistakes in one go, and a script can tell them from a failure."""
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nunknown: 1\nroutes:\n  - {name: a, upstream: none}\n")
    with GatewayProcess(["ostiary", "gateway", "-c", str(path)]) as gateway:
        assert gateway.wait() == 2
        text = "".join(gateway.text)
        assert f"{path}:2:" in text
        assert f"{path}:4:" in text
