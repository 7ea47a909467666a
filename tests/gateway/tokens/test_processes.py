"""Tokens at a gateway of real processes: workers that share what was fetched, are replaced while the issuer is away, and hear
of keys that have changed in a file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.issuers import claims, document, ec_key, key_server, mint
from tests.support.origin import running_origin

REMOTE, LOCAL, NEXT = ec_key("remote"), ec_key("local"), ec_key("next")

TEXT = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: 2}}
  admin: {{host: 127.0.0.1, port: 0}}
stores: {{spool: spool, state: state}}
upstreams:
  origin: {{targets: [{{url: "http://127.0.0.1:{origin}"}}]}}
issuers:
  remote: {{issuer: "https://remote.example/", audience: api, jwks: "{keys}", environment: live}}
  local: {{issuer: "https://local.example/", audience: api, jwks: {{file: keys.json}}, environment: live}}
routes:
  - name: all
    match: {{path: "/**"}}
    upstream: origin
    auth: {{schemes: [jwt], issuers: [remote, local]}}
"""


def token(key: object, issuer: str) -> str:
    said = claims(iss=f"https://{issuer}.example/", aud="api", exp=int(time.time()) + 600)
    return mint(key, said=said)  # type: ignore[arg-type]  # a key of joserfc


@pytest.fixture
def gateways() -> Iterator[list[GatewayProcess]]:
    started: list[GatewayProcess] = []
    yield started
    for gateway in started:
        gateway.stop()


def status_of(gateway: GatewayProcess, sent: str) -> int:
    try:
        gateway.get("/", {"Authorization": f"Bearer {sent}"})
    except urllib.error.HTTPError as error:
        return error.code
    return 200


async def test_workers_share_keys_survive_the_issuer_and_hear_of_files(
    tmp_path: Path, gateways: list[GatewayProcess]
) -> None:
    """Row 117: a worker that dies while the issuer is away comes back knowing its keys; a rotation by file needs no
    signal."""
    (tmp_path / "keys.json").write_bytes(document(LOCAL))
    async with running_origin() as origin, key_server(REMOTE) as server:
        path = tmp_path / "gateway.yaml"
        path.write_text(TEXT.format(origin=origin.port, keys=server.url))
        gateway = GatewayProcess(["ostiary", "gateway", "-c", str(path)])
        gateways.append(gateway)
        await asyncio.to_thread(gateway.wait_ready)

        def issuers() -> list[dict[str, dict[str, object]]]:
            reported = [worker["reported"] for worker in gateway.status()["workers"]]
            return [each["gateway"]["tokens"]["issuers"] for each in reported if each]

        def all_know() -> bool:
            found = issuers()
            return len(found) == 2 and all(each["remote"]["keys"] == 1 for each in found)

        await asyncio.to_thread(eventually, all_know, "both workers know the keys")
        assert len(server.asked) == 1
        remote, local = token(REMOTE, "remote"), token(LOCAL, "local")
        answers = [await asyncio.to_thread(status_of, gateway, each) for each in (remote, local) * 3]
        assert answers == [200] * 6
        metrics = (await asyncio.to_thread(gateway.admin, "/metrics"))[1]
        assert 'token_key_fetches_total{issuer="remote",result="ok"} 1.0' in metrics

        server.status = 503
        pids = gateway.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(
            eventually, lambda: len(set(gateway.worker_pids()) - set(pids)) == 2, "the workers are replaced"
        )
        assert [await asyncio.to_thread(status_of, gateway, remote) for _ in range(6)] == [200] * 6
        (record,) = (tmp_path / "state").glob("*.json")
        assert json.loads(record.read_bytes())["version"] == 1

        following = token(NEXT, "local")
        assert await asyncio.to_thread(status_of, gateway, following) == 401
        fresh = tmp_path / "keys.new"
        fresh.write_bytes(document(NEXT))
        fresh.replace(tmp_path / "keys.json")
        await asyncio.to_thread(
            eventually, lambda: status_of(gateway, following) == 200, "the new key of the file is in force"
        )
        await asyncio.to_thread(
            eventually, lambda: status_of(gateway, local) == 401, "the old key of the file is gone in every worker"
        )
    log = "".join(gateway.text)
    assert remote.rpartition(".")[2] not in log
    assert "user-1" not in log
