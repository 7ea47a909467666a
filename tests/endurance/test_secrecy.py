"""A secret is in one answer and nowhere else, whatever goes wrong around it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import urllib.error
from collections.abc import Mapping

import pytest
import redis

from ostiary.core.credentials import generate_secret
from ostiary.core.model import Environment
from ostiary.core.signing import sign_request
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.conftest import MakeSite
from tests.endurance.origin import OriginProcess
from tests.endurance.secrecy import command_lines, files, leaks, postgres_text, redis_text
from tests.endurance.site import ControlPlane, Site
from tests.support.gateway_process import GatewayProcess, eventually

TARGET, TEMPLATE = "/local/secrecy", "/local/**"


def test_no_secret_shows_anywhere_whatever_goes_wrong(
    make_site: MakeSite, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, origin: OriginProcess
) -> None:
    """Row 132: whoever may read a log, a metric, a table, a list of processes or an error would have the customers' keys."""
    redis_password, postgres_password = (f"canary{secrets.token_hex(16)}" for _ in range(2))
    with redis.Redis.from_url(own_valkey.url()) as client:
        client.config_set("requirepass", redis_password)
    redis_url = own_valkey.url().replace("redis://", f"redis://:{redis_password}@")
    site = make_site(workers=2, postgres=own_postgres, redis=redis_url, postgres_password=postgres_password)
    canaries = site.secrets | {"redis password": redis_password, "postgres password": postgres_password}
    canaries |= {"wrong bearer": generate_secret(Environment.LIVE), "mistyped bearer": f"canary{secrets.token_hex(20)}"}
    shown: dict[str, bytes] = {}

    with site.control_plane() as control_plane, site.gateway() as gateway:
        (key,) = control_plane.make_keys(1)
        canaries["made key"] = str(key["secret"])
        answers = session(gateway, key["key_id"], canaries)
        assert [status_of(answer) for answer in answers[:4]] == [200, 200, 200, 200]
        assert {status_of(answer) for answer in answers[4:]} == {400, 401}
        answers.append(refused_by_the_control_plane(control_plane, canaries["mistyped bearer"]))
        crash(gateway)
        refuse_a_file(gateway, site, canaries)
        eventually(lambda: TEMPLATE.encode() in postgres_text(site.postgres), "usage in Postgres")
        shown["postgres"] = postgres_text(site.postgres)
        shown["redis"] = redis_text(own_valkey.url(), redis_password)
        shown |= pages(gateway, "with all stores there")

        # The stores' own errors, which may quote what they were given.
        own_postgres.pg_ctl("stop", "-m", "immediate")
        with redis.Redis.from_url(own_valkey.url(), password=redis_password) as client:
            client.config_set("requirepass", f"another{secrets.token_hex(8)}")
            client.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: "WRONGPASS" in gateway.admin("/status")[1], "a password that is wrong now")
        answers += session(gateway, key["key_id"], canaries)
        gateway.wait_for_log("usage_ship_failed")
        shown["spool"] = files(site.directory / "spool")
        shown["reconcile"] = (books := site.reconcile()).stdout.encode() + books.stderr.encode()
        shown["command lines"] = command_lines()
        shown |= pages(gateway, "with the stores away")
        gateway.signal(signal.SIGTERM)
        gateway.wait()

    shown["answers"] = b"\n".join(answers)
    shown["standard error"] = "".join(gateway.text).encode()
    shown["standard output"] = (site.directory / "gateway.out").read_bytes()
    shown["control plane's log"] = (site.directory / "control-plane.log").read_bytes()
    shown["what the upstream got"] = origin.heads()
    shown["postgres' log"] = own_postgres.log.read_bytes()
    shown["valkey's log"] = own_valkey.log.read_bytes()
    assert leaks(canaries, shown) == []

    # The search would find them, and what was searched is what it is said to be.
    assert leaks(site.secrets, {"their file": files(site.directory)}) == [
        f"{name} in their file" for name in site.secrets
    ]
    for place, content in {
        "standard error": b"credentials_invalid",
        "control plane's log": b"listening",
        "postgres": key["key_id"].encode(),
        "redis": b"nonce",
        "spool": TEMPLATE.encode(),
        "command lines": str(site.path).encode(),
        "what the upstream got": TARGET.encode(),
        "/metrics with the stores away": b"rate_limit_store_failures_total",
    }.items():
        assert content in shown[place], f"{place} is not what was to be searched: {shown[place][:2000]!r}"


def session(gateway: GatewayProcess, key_id: str, canaries: Mapping[str, str]) -> list[bytes]:
    """Every answer: the first four to calls that are right, the others to calls that carry a secret where it is wrong."""
    made, roomy = canaries["made key"], canaries["key_roomy"]
    signed = [
        sign_request(key_id=name, secret=secret.encode(), method="GET", target=TARGET)
        for name, secret in ((key_id, made), ("key_roomy", roomy))
    ]
    right = [{"Authorization": f"Bearer {made}"}, {"X-API-Key": roomy}, *signed]
    wrong: list[dict[str, str]] = [
        signed[1],  # again
        {"Authorization": f"Bearer {canaries['wrong bearer']}"},
        {"Authorization": f"Bearer {canaries['mistyped bearer']}"},
        {"Authorization": f"Basic {made}"},
        {"X-API-Key": f"{key_id}:{made}"},
        {"X-API-Key": f"key_roomy:{roomy}"},
        {"X-API-Key": f"{roomy}\x01"},
        {"Cookie": f"key={made}"},
        signed[1] | {"X-Timestamp": roomy},
        signed[1] | {"X-Nonce": made},
    ]
    answers = [talk(gateway, TARGET, headers) for headers in (*right, *wrong)]
    return [*answers, talk(gateway, f"{TARGET}?api_key={made}", {}), talk(gateway, f"/local/{made}", {})]


def talk(gateway: GatewayProcess, target: str, headers: Mapping[str, str]) -> bytes:
    """The whole answer, head and body."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n{fields}\r\n".encode())
        answer = b""
        while data := client.recv(65536):
            answer += data
    return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def refused_by_the_control_plane(control_plane: ControlPlane, token: str) -> bytes:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ControlPlane(control_plane.url, token).post("/organizations", {"name": "no one"})
    return refused.value.read()


def crash(gateway: GatewayProcess) -> None:
    """SIGABRT, whose handler writes where the process was, and SIGKILL."""
    for number in (signal.SIGABRT, signal.SIGKILL):
        victim = gateway.worker_pids()[0]
        os.kill(victim, number)
        gateway.wait_for_workers(without=victim)


def refuse_a_file(gateway: GatewayProcess, site: Site, canaries: Mapping[str, str]) -> None:
    """A reload whose mistakes are all in secrets: one of a key that is no secret, one that two keys share, and URLs that are
    none; then the right file again."""
    secret = site.directory / "key_bucket"
    secret.write_text(f"{canaries['key_bucket']} and a blank\n")
    mistaken = site.text.replace("redis://:", "redis:/:").replace("@/", "@nowhere:not-a-port/")
    site.write(mistaken.replace("file:key_slots", canaries["key_exact_log"]))
    gateway.signal(signal.SIGHUP)
    gateway.wait_for_log("reload_refused")
    secret.write_text(canaries["key_bucket"] + "\n")
    site.write(site.text)
    gateway.signal(signal.SIGHUP)
    gateway.wait_for_log("reloaded")


def pages(gateway: GatewayProcess, when: str) -> dict[str, bytes]:
    return {f"{path} {when}": gateway.admin(path)[1].encode() for path in ("/metrics", "/status", "/readyz")}
