"""The whole gateway as it is installed: `ostiary gateway` with its workers and its shipper, before real upstreams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from tests.acceptance import httpbin_origin
from tests.support.gateway_process import REPOSITORY, SECRET, GatewayProcess, eventually

KEY_ID = "acceptance_key"
CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: {workers}}}
  admin: {{host: 127.0.0.1, port: 0}}
  drain: 5s
  limits: {{write_timeout: {write_timeout}}}
  failed_attempts: {failed_attempts}
stores:
{stores}
  spool: {spool}
plans:
  whole:
    rate: {{requests: 1000000, per: minute, burst: 1000000}}
    limits: [{{requests: 1000000, per: hour}}]
    quotas: [{{requests: 10000000, per: day}}]
upstreams:
{upstreams}
routes:
{routes}
keys:
  - {{id: acceptance_key, secret: "${{OSTIARY_TEST_SECRET}}", plan: whole, environment: test}}
"""


@contextmanager
def origin_process(command: list[str], port_file: Path, **environment: str) -> Iterator[int]:
    """An upstream as a process of its own; its port."""
    log = port_file.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OSTIARY_TEST_PORT_FILE": str(port_file)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        eventually(lambda: port_file.exists() or process.poll() is not None, "the origin listens")
        assert port_file.exists(), log.read_text()
        yield int(port_file.read_text())
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def httpbin(directory: Path) -> Iterator[int]:
    """Its record is `directory/httpbin.jsonl`."""
    port_file = directory / "httpbin.port"
    record = directory / "httpbin.jsonl"
    with origin_process(httpbin_origin.command(str(port_file)), port_file, OSTIARY_TEST_RECORD=str(record)) as port:
        yield port


@contextmanager
def raw_origin(directory: Path) -> Iterator[int]:
    port_file = directory / "raw.port"
    command = [sys.executable, "-m", "tests.acceptance.raw_origin", str(port_file)]
    with origin_process(command, port_file) as port:
        yield port


@contextmanager
def gateway(
    directory: Path,
    routes: Mapping[str, int],
    *,
    postgres: str | None = None,
    redis: str | None = None,
    workers: int = 2,
    scheme: str = "hmac, bearer",
    write_timeout: str = "60s",
    upstream: str = "{}",
    route: str = "",
    failed_attempts: str = "off",  # whoever measures refusals refuses more in a second than a caller in an hour
) -> Iterator[GatewayProcess]:
    """`routes` is which path goes to which port of this machine. `upstream` are more fields of each upstream, as YAML, and
    `route` of each route, as `, name: value`."""
    # A loaded machine must not turn a call into a refusal: what happens when Redis is slow is another test's question.
    stores = {"redis": redis, "postgres": postgres, "redis_deadline": "5s"}
    fields: dict[str, object] = {} if upstream == "{}" else json.loads(upstream)
    upstreams = {
        f"u{number}": {"targets": [{"url": f"http://127.0.0.1:{port}"}]} | fields
        for number, port in enumerate(routes.values())
    }
    lines = [
        f"  - {{name: r{number}, match: {{path: {json.dumps(path)}}}, upstream: u{number}, "
        f"auth: {{schemes: [{scheme}]}}{route}}}"
        for number, path in enumerate(routes)
    ]
    path = directory / "gateway.yaml"
    path.write_text(
        CONFIGURATION.format(
            workers=workers,
            write_timeout=write_timeout,
            failed_attempts=failed_attempts,
            stores="\n".join(f"  {name}: {json.dumps(value)}" for name, value in stores.items() if value is not None),
            spool=json.dumps(str(directory / "spool")),
            upstreams="\n".join(f"  {name}: {json.dumps(value)}" for name, value in upstreams.items()),
            routes="\n".join(lines),
        )
    )
    process = GatewayProcess(["ostiary", "gateway", "-c", str(path)])
    try:
        yield process.wait_ready()
    finally:
        process.stop()


def reconcile(directory: Path) -> tuple[int, str]:
    """`ostiary usage reconcile` on the gateway of `directory`: exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "ostiary", "usage", "reconcile", "-c", str(directory / "gateway.yaml")],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OSTIARY_TEST_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def usage_rows(connection: asyncpg.Connection[Any], ids: list[str]) -> list[asyncpg.Record]:
    """The usage events of the requests `ids`."""
    return await connection.fetch("SELECT * FROM usage_events WHERE request_id = ANY($1)", ids)
