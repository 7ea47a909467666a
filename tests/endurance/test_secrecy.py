"""A secret is in one answer and nowhere else, whatever goes wrong around it."""

from __future__ import annotations

import base64
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from ostiary.core.credentials import generate_secret
from ostiary.core.model import Environment
from ostiary.core.signing import sign_request
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.conftest import MakeSite
from tests.endurance.origin import OriginProcess
from tests.endurance.secrecy import command_lines, files, leaks, postgres_text, redis_text
from tests.endurance.signing_in import misused, signed_in, used_twice
from tests.endurance.site import ControlPlane, Site
from tests.support.certificates import issue
from tests.support.gateway_process import DEADLINE_SECONDS, REPOSITORY, GatewayProcess, eventually
from tests.support.vault_server import VaultServer

TARGET, TEMPLATE = "/local/secrecy", "/local/**"


def test_no_secret_shows_anywhere_whatever_goes_wrong(
    make_site: MakeSite,
    own_postgres: EmbeddedPostgres,
    own_valkey: EmbeddedValkey,
    origin: OriginProcess,
    vault: VaultServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 132: whoever may read a log, a metric, a table, a list of processes, an error or a core dump would have the
    customers' keys."""
    redis_password, postgres_password = (f"canary{secrets.token_hex(16)}" for _ in range(2))
    with redis.Redis.from_url(own_valkey.url()) as client:
        client.config_set("requirepass", redis_password)
    redis_url = own_valkey.url().replace("redis://", f"redis://:{redis_password}@")
    site = make_site(workers=2, postgres=own_postgres, redis=redis_url, postgres_password=postgres_password)
    canaries = site.secrets | {"redis password": redis_password, "postgres password": postgres_password}
    canaries |= more_secrets(site, vault, monkeypatch) | sent_secrets()
    shown: dict[str, bytes] = {}
    allow_core_dumps()

    with site.control_plane() as control_plane, site.gateway() as gateway:
        made, canaries["secret of an idempotent create"] = made_keys(control_plane)
        canaries["made key"] = str(made["secret"])
        canaries["hmac signature"] = signature_of(made["key_id"], canaries["made key"])
        canaries |= signed_in(site, control_plane)
        assert len(canaries) >= 30
        answers = session(gateway, made["key_id"], canaries)
        assert [status_of(answer) for answer in answers[:4]] == [200, 200, 200, 200]
        assert {status_of(answer) for answer in answers[4:]} == {400, 401}
        answers.append(refused_by_the_control_plane(control_plane, canaries["mistyped bearer"]))
        answers.append(refused_repetition(control_plane, made["app_id"]))
        answers += misused(control_plane, canaries)
        answers.append(used_twice(control_plane, canaries))
        crash(gateway)
        refuse_a_file(gateway, site, canaries)
        shown["config check"] = checked(site, canaries)
        shown["rewrap"] = command(site, "keys", "rewrap", "-c", str(site.path))
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
        answers += session(gateway, made["key_id"], canaries)
        answers.append(refused_by_the_control_plane(control_plane, site.secrets["operator_token"]))
        answers += misused(control_plane, canaries)
        gateway.wait_for_log("usage_ship_failed")
        shown["spool"] = files(site.directory / "spool")
        shown["reconcile"] = (books := site.reconcile()).stdout.encode() + books.stderr.encode()
        shown["rewrap without Postgres"] = command(site, "keys", "rewrap", "-c", str(site.path), "--check")
        shown["command lines"] = command_lines()
        shown |= pages(gateway, "with the stores away")
        gateway.signal(signal.SIGTERM)
        gateway.wait()
        assert resource.prlimit(control_plane.pid, resource.RLIMIT_CORE)[0] == 0
        os.kill(control_plane.pid, signal.SIGSEGV)

    assert core_dumps() == []
    shown["answers"] = b"\n".join(answers)
    shown["standard error"] = "".join(gateway.text).encode()
    shown["standard output"] = (site.directory / "gateway.out").read_bytes()
    shown["control plane's log"] = (site.directory / "control-plane.log").read_bytes()
    shown["what the upstream got"] = origin.heads()
    shown["postgres' log"] = own_postgres.log.read_bytes()
    shown["valkey's log"] = own_valkey.log.read_bytes()
    shown["vault's log"] = (vault.directory / "vault.log").read_bytes()
    assert leaks(canaries, shown) == []

    # The search would find them, and what was searched is what it is said to be.
    assert leaks(site.secrets, {"their file": files(site.directory)}) == [
        f"{name} in their file" for name in site.secrets
    ]
    for place, content in {
        "standard error": b"credentials_invalid",
        "control plane's log": b"refresh_token_reused",
        "config check": b"a secret, not shown",
        "rewrap": b"Every data key is under the current key-encryption key",
        "rewrap without Postgres": b"can't be used",
        "postgres": made["key_id"].encode(),
        "redis": b"nonce",
        "spool": TEMPLATE.encode(),
        "command lines": str(site.path).encode(),
        "what the upstream got": TARGET.encode(),
        "/metrics with the stores away": b"rate_limit_store_failures_total",
        "vault's log": b"transit",
    }.items():
        assert content in shown[place], f"{place} is not what was to be searched: {shown[place][:2000]!r}"


# --- the secrets ------------------------------------------------------------------------------------------------------


def more_secrets(site: Site, vault: VaultServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of the configuration: KEKs from a file, from the environment and kept by Vault; a private key for an upstream."""
    from_environment, token = secrets.token_hex(32), vault.narrow_token()
    monkeypatch.setenv("CANARY_KEK", from_environment)
    (site.directory / "vault-token").write_text(token)
    shown = issue(site.directory, "canary.example")
    private = "".join(shown.key.read_text().splitlines()[2:-1])  # the first line is the same of all such keys
    kept = f'{{address: "{vault.address}", key: ostiary, token: file:vault-token}}'
    keks = (
        "  key_encryption_keys: {current: vault, keys: {file: {secret: file:key_encryption_key}, "
        f'environment: {{secret: "${{CANARY_KEK}}"}}, vault: {{vault: {kept}}}}}}}'
    )
    secure = (
        '  secure:\n    targets: [{url: "https://127.0.0.1:9"}]\n'
        f"    tls: {{cert: {shown.cert.name}, key: {shown.key.name}}}\nroutes:\n"
    )
    lines = [keks if "key_encryption_key" in line else line for line in site.text.splitlines()]
    site.text = "\n".join(lines).replace("routes:\n", secure, 1) + "\n"
    site.write(site.text)
    return {"KEK of the environment": from_environment, "vault token": token, "private key": private}


def sent_secrets() -> dict[str, str]:
    """Of clients: each is sent where it is no credential, or none that holds."""

    def canary(prefix: str = "") -> str:
        return f"{prefix}canary{secrets.token_hex(20)}"

    claims = base64.urlsafe_b64encode(f'{{"sub":"{canary()}"}}'.encode()).decode().rstrip("=")
    return {
        "wrong bearer": generate_secret(Environment.LIVE),
        "mistyped bearer": canary(),
        "jwt": f"eyJhbGciOiJIUzI1NiJ9.{claims}.{secrets.token_urlsafe(32)}"[21:],
        "basic password": canary(),
        "cookie": canary("session="),
        "secret in the query": canary(),
        "secret in the path": canary(),
        "key with a control character": canary(),
        "typed into another field": canary(),
    }


def signature_of(key_id: str, secret: str) -> str:
    return sign_request(key_id=key_id, secret=secret.encode(), method="GET", target=TARGET)["X-API-Key"].partition(":")[
        2
    ]


def made_keys(control_plane: ControlPlane) -> tuple[dict[str, Any], str]:
    """A key, and the secret of another one that was made by an idempotent call."""
    (key,) = control_plane.make_keys(1)
    return key, str(idempotent_create(control_plane, key["app_id"])["secret"])


def idempotent_create(control_plane: ControlPlane, app_id: str) -> dict[str, Any]:
    found: dict[str, Any] = control_plane.call(
        "POST", f"/apps/{app_id}/keys", {"name": "once"}, headers={"Idempotency-Key": "once"}
    )
    return found


# --- what is done -----------------------------------------------------------------------------------------------------


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
        {"Authorization": f"Basic {base64.b64encode(b'user:' + canaries['basic password'].encode()).decode()}"},
        {"Authorization": f"Bearer eyJhbGciOiJIUzI1NiJ9.{canaries['jwt']}"},
        {"X-API-Key": f"{key_id}:{made}"},
        {"X-API-Key": f"key_roomy:{roomy}"},
        {"X-API-Key": f"{canaries['key with a control character']}\x01"},
        {"Cookie": canaries["cookie"]},
        {"X-API-Key": f"{key_id}:{canaries['hmac signature']}", "X-Timestamp": "1000000000", "X-Nonce": "n" * 16},
        signed[1] | {"X-Timestamp": roomy},
        signed[1] | {"X-Nonce": made},
    ]
    answers = [talk(gateway, TARGET, headers) for headers in (*right, *wrong)]
    query, path = canaries["secret in the query"], canaries["secret in the path"]
    return [*answers, talk(gateway, f"{TARGET}?api_key={query}", {}), talk(gateway, f"/local/{path}", {})]


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


def refused_repetition(control_plane: ControlPlane, app_id: str) -> bytes:
    with pytest.raises(urllib.error.HTTPError) as refused:
        idempotent_create(control_plane, app_id)
    assert refused.value.code == 409
    return refused.value.read()


def allow_core_dumps() -> None:
    """As a machine that keeps them would."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def core_dumps() -> list[Path]:
    return [path for path in REPOSITORY.glob("core*") if path.is_file()]


def crash(gateway: GatewayProcess) -> None:
    """SIGABRT and SIGSEGV, whose handler writes where the process was; no memory left; and SIGKILL."""
    for number in (signal.SIGABRT, signal.SIGSEGV, None, signal.SIGKILL):
        victim = gateway.worker_pids()[0]
        assert resource.prlimit(victim, resource.RLIMIT_CORE)[0] == 0
        if number is None:
            resource.prlimit(
                victim, resource.RLIMIT_DATA, (1 << 20, 1 << 20)
            )  # less than it has: nothing more is given
            for _ in range(20):
                try:
                    talk(gateway, TARGET, {"X-API-Key": "x" * 30_000})
                except OSError:
                    break
            number = signal.SIGKILL
        os.kill(victim, number)
        gateway.wait_for_workers(without=victim)


def refuse_a_file(gateway: GatewayProcess, site: Site, canaries: Mapping[str, str]) -> None:
    """A reload whose mistakes are all in secrets; then the right file again."""
    secret = site.directory / "key_bucket"
    secret.write_text(f"{canaries['key_bucket']} and a blank\n")
    site.write(mistaken(site, canaries))
    gateway.signal(signal.SIGHUP)
    gateway.wait_for_log("reload_refused")
    secret.write_text(canaries["key_bucket"] + "\n")
    site.write(site.text)
    gateway.signal(signal.SIGHUP)
    gateway.wait_for_log("reloaded")


def mistaken(site: Site, canaries: Mapping[str, str]) -> str:
    """One of a key that is no secret, one that two keys share, URLs that are none, and two in fields that are for others."""
    text = site.text.replace("redis://:", "redis:/:").replace("@/", "@nowhere:not-a-port/")
    text = text.replace("drain: 10s", f"drain: {canaries['typed into another field']}")
    text = text.replace("redis_deadline: 1s", f"redis_deadline: {canaries['operator_token']}")
    return text.replace("file:key_slots", canaries["key_exact_log"])


def checked(site: Site, canaries: Mapping[str, str]) -> bytes:
    path = site.directory / "mistaken.yaml"
    path.write_text(mistaken(site, canaries))
    try:
        return command(site, "config", "check", str(path))
    finally:
        path.unlink()


def command(site: Site, *arguments: str) -> bytes:
    """All that a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "ostiary", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return done.stdout


def pages(gateway: GatewayProcess, when: str) -> dict[str, bytes]:
    return {f"{path} {when}": gateway.admin(path)[1].encode() for path in ("/metrics", "/status", "/readyz")}
