"""One installation: configuration, secrets, a database of its own, and the processes of it that a test wants."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import psutil

from ostiary.control_plane.db import migrate
from ostiary.demo.stores import EmbeddedPostgres
from tests.endurance.callers import Stream
from tests.support.gateway_process import DEADLINE_SECONDS, REPOSITORY, GatewayProcess, eventually

# Failed attempts have no bound: a test refuses in a second what would take a caller an hour.
# `roomy` has a limit that no test reaches: Redis is asked for every call, and refuses none.
CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: {workers}}}
  admin: {{host: 127.0.0.1, port: 0}}
  drain: 10s
  failed_attempts: off
control_plane:
  listen: {{host: 127.0.0.1, port: 0}}
  operator_token: file:operator_token
stores:
  redis: {redis}
  redis_deadline: {redis_deadline}
  postgres: {postgres}
  spool: spool
  key_encryption_key: file:key_encryption_key
plans:
  roomy: {{limits: [{{requests: 10000000, per: minute}}]}}
  exact_log: {{limits: [{{requests: 100, per: second}}]}}
  slots: {{limits: [{{requests: 400, per: second}}]}}
  bucket: {{rate: {{requests: 200, per: second, burst: 50}}}}
upstreams:
  origin:
    targets: [{{url: "http://127.0.0.1:{origin}"}}]
routes:
  - {{name: local, match: {{path: /local/**}}, upstream: origin, auth: {{schemes: [bearer, hmac]}}, on_store_failure: local}}
  - {{name: open, match: {{path: /open/**}}, upstream: origin, auth: {{schemes: [bearer]}}, on_store_failure: open}}
  - {{name: closed, match: {{path: /closed/**}}, upstream: origin, auth: {{schemes: [bearer]}}, on_store_failure: closed}}
  - {{name: free, match: {{path: /free/**}}, upstream: origin, auth: {{schemes: [anonymous]}}}}
keys:
  - {{id: key_roomy, secret: file:key_roomy, plan: roomy, environment: live}}
  - {{id: key_exact_log, secret: file:key_exact_log, plan: exact_log, environment: live}}
  - {{id: key_slots, secret: file:key_slots, plan: slots, environment: live}}
  - {{id: key_bucket, secret: file:key_bucket, plan: bucket, environment: live}}
"""
KEYS = ("key_roomy", "key_exact_log", "key_slots", "key_bucket")
ASK_ID = "asked"  # the request id of every call that `ask` makes
_numbers = itertools.count()


class Site:
    """`secrets` are those of `KEYS` by id, `operator_token` and `key_encryption_key`: each in a file of its own."""

    def __init__(
        self,
        directory: Path,
        *,
        postgres: str,
        redis: str,
        origin_port: int,
        workers: int,
        redis_deadline: str = "1s",  # a pause of a busy machine is no outage, where a test is not about outages
    ) -> None:
        self.directory = directory
        self.path = directory / "gateway.yaml"
        self.postgres = postgres
        self.secrets = {name: f"canary_{secrets.token_hex(24)}" for name in (*KEYS, "operator_token")}
        self.secrets["key_encryption_key"] = secrets.token_hex(32)
        for name, secret in self.secrets.items():
            (directory / name).write_text(secret + "\n")
        self.text = CONFIGURATION.format(
            postgres=json.dumps(postgres),
            redis=json.dumps(redis),
            redis_deadline=redis_deadline,
            origin=origin_port,
            workers=workers,
        )
        self.write(self.text)

    def write(self, text: str) -> None:
        """Replaces the configuration file, as an editor does."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def bearer(self, key: str) -> tuple[tuple[str, str], ...]:
        return (("Authorization", f"Bearer {self.secrets.get(key, key)}"),)

    # --- processes ----------------------------------------------------------------------------------------------------

    @contextmanager
    def gateway(self) -> Iterator[GatewayProcess]:
        """`ostiary gateway`, ready. What it prints on standard output is in `gateway.out`."""
        with (self.directory / "gateway.out").open("ab") as out:
            gateway = GatewayProcess(["ostiary", "gateway", "-c", str(self.path)], stdout=out)
        try:
            yield gateway.wait_ready()
        finally:
            gateway.stop()

    @contextmanager
    def control_plane(self) -> Iterator[ControlPlane]:
        """`ostiary control-plane`, listening. What it prints is in `control-plane.log`."""
        log = self.directory / "control-plane.log"
        before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "ostiary", "control-plane", "-c", str(self.path)],
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

        def url() -> str | None:
            assert process.poll() is None, log.read_text()
            lines = [
                json.loads(line)
                for line in log.read_bytes()[before:].decode().splitlines(keepends=True)
                if line.endswith("}\n")
            ]
            return next((str(line["url"]) for line in lines if line["event"] == "listening"), None)

        try:
            yield ControlPlane(
                eventually(url, "the control plane listens"), self.secrets["operator_token"], process.pid
            )
        finally:
            process.terminate()
            process.wait(DEADLINE_SECONDS)

    def reconcile(self, *, seconds: float = DEADLINE_SECONDS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ostiary", "usage", "reconcile", "-c", str(self.path)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    # --- usage --------------------------------------------------------------------------------------------------------

    def rows(self, expected: Sequence[str]) -> Counter[str]:
        """How many rows each request id has, once there are as many as `expected` ids; or at the deadline, to see which
        are missing."""
        try:
            eventually(
                lambda: self._value("SELECT count(DISTINCT request_id) FROM usage_events") >= len(expected), "rows", 20
            )
        except AssertionError:
            pass
        return Counter(self.values("SELECT request_id FROM usage_events"))

    def _value(self, statement: str) -> int:
        (value,) = self.values(statement)
        return int(value)

    def values(self, statement: str) -> list[str]:
        async def fetch() -> list[str]:
            connection = await asyncpg.connect(self.postgres)
            try:
                return [str(row[0]) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def assert_each_once(self, answered: Sequence[str], sent: set[str]) -> None:
        """Each call that was answered whole is one row; a call that was not has one or none; there is no other row, but for
        those of `ask`."""
        rows = self.rows(answered)
        del rows[ASK_ID]
        missing = [request_id for request_id in answered if request_id not in rows]
        assert not missing, f"{len(missing)} of {len(answered)} answered calls have no row: {missing[:5]}"
        twice = [request_id for request_id, count in rows.items() if count > 1]
        assert not twice, f"{len(twice)} calls have more than one row: {twice[:5]}"
        unknown = rows.keys() - sent
        assert not unknown, f"{len(unknown)} rows are of no call that was made: {sorted(unknown)[:5]}"


class ControlPlane:
    """The API, as the operator calls it. `pid` is that of its process."""

    def __init__(self, url: str, token: str, pid: int = 0) -> None:
        self.url = url
        self.pid = pid
        self._token = token

    def post(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        return self.call("POST", path, body)

    def call(
        self,
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  our own
            f"{self.url}/api/v1{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json", **headers},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  our own
            found: dict[str, Any] = json.load(answer)
            return found

    def make_keys(self, count: int, **fields: object) -> list[dict[str, Any]]:
        """New live keys of a new app, each with its secret."""
        name = f"endurance {next(_numbers)}"
        organization = self.post("/organizations", {"name": name})
        app = self.post("/apps", {"organization_id": organization["id"], "name": name})
        wanted = {"environment": "live", "plan": "roomy"} | fields
        return [self.post(f"/apps/{app['id']}/keys", {"name": f"key {n}", **wanted}) for n in range(count)]

    def revoke(self, key: dict[str, Any]) -> None:
        self.post(f"/keys/{key['key_id']}/revoke", {"reason": "a test"})


def fresh_database(server: EmbeddedPostgres) -> str:
    """The URL of a new, migrated database."""
    name = f"endurance_{os.getpid()}_{next(_numbers)}"

    async def prepare() -> None:
        admin = await asyncpg.connect(server.url())
        await admin.execute(f'CREATE DATABASE "{name}"')
        await admin.close()
        await migrate(server.url(name))

    asyncio.run(prepare())
    return server.url(name)


def ask(port: int, path: str, headers: Sequence[tuple[str, str]] = (), method: str = "GET") -> tuple[int, str]:
    """Status and body of one call on a connection of its own."""
    fields = dict(headers) | {"X-Request-Id": ASK_ID}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  our own
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def client_ports(pid: int, port: int) -> set[int]:
    """The clients' ends of the connections to `port` that a worker has accepted."""
    try:
        found = psutil.Process(pid).net_connections("tcp4")
    except psutil.NoSuchProcess:
        return set()
    return {each.raddr.port for each in found if each.raddr and each.laddr.port == port}


def wait_until_connected(gateway: GatewayProcess, count: int) -> dict[int, set[int]]:
    """The clients' ports by the pid of the worker that serves them, once there are `count`."""

    def question() -> dict[int, set[int]] | None:
        ports = {pid: client_ports(pid, gateway.port) for pid in gateway.worker_pids()}
        return ports if sum(map(len, ports.values())) >= count else None

    return eventually(question, f"{count} connections")


def stream(name: str, gateway: GatewayProcess, route: str, headers: tuple[tuple[str, str], ...], **more: Any) -> Stream:
    return Stream(name=name, port=gateway.port, path=f"/{route}/{name}", headers=headers, **more)
