"""README.md, done from its own text: what an operator pastes must work, on real stores, in the order it is written in."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from ostiary.core.config import load_text
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from ostiary.demo.upstream import LIVE_RECORDS, SampleUpstream
from tests.support.gateway_process import eventually
from tests.support.pasting import paste
from tests.support.ports import free_port
from tests.support.waiting import MACHINE_SECONDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLACEHOLDER = re.compile(r"\b(ORGANIZATION_ID|APP_ID|KEY_ID)\b")
DATABASE = "readme"


def block(heading: str, language: str) -> str:
    """The only fenced block of that language in the section under `heading`."""
    section = re.split(r"^#+ ", README.partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]
    (text,) = re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
    return str(text)


def commands(heading: str) -> list[str]:
    """The commands of a section's shell block, without their comments; one that goes on over a line's end is one."""
    lines = block(heading, "bash").replace("\\\n", " ").splitlines()
    return [re.sub(r" +#.*", "", line) for line in lines if line]


class Operator:
    """Someone with a terminal: the README's addresses and paths are those of this test, everything else is as written.
    What `export` sets stays set."""

    def __init__(self, directory: Path, *, postgres: str, redis: str, upstream: str) -> None:
        self.directory = directory
        self.gateway, self.control_plane, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.replaced = {
            "redis://127.0.0.1:6379/0": redis,
            "postgresql://ostiary@127.0.0.1/ostiary": json.dumps(postgres),
            "/var/lib/ostiary": str(directory),
            "/etc/ostiary": str(directory),
            "http://127.0.0.1:9000": upstream,
            "host: 0.0.0.0, port: 8080": f"host: 127.0.0.1, port: {self.gateway.rpartition(':')[2]}",
            "127.0.0.1:8080": self.gateway,
            "127.0.0.1:8081": self.control_plane,
            "127.0.0.1:9090": self.admin,
        }
        self.ids: dict[str, str] = {}
        self._exports: list[str] = []
        self._running: list[subprocess.Popen[bytes]] = []
        program = directory / "bin" / "ostiary"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m ostiary "$@"\n')
        program.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OSTIARY_")}
        self._environment = kept | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}

    def adapted(self, text: str) -> str:
        """`text` with this test's addresses, and what is known by now in place of the README's placeholders."""
        for written, here in self.replaced.items():
            text = text.replace(written, here)
        return PLACEHOLDER.sub(lambda match: self.ids[match[0]], text)

    def run(self, command: str, *, status: int = 0) -> str:
        """What a command prints, errors included."""
        script = "\n".join([*self._exports, self.adapted(command)])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, f"{command}\n{done.stdout}"
        if command.startswith("export "):
            self._exports.append(self.adapted(command))
        return done.stdout

    def start(self, command: str, ready: str) -> subprocess.Popen[bytes]:
        """A command that runs until it is ended; returns when GET `ready` answers 200."""
        with (self.directory / f"{len(self._running)}.log").open("wb") as log:
            process = subprocess.Popen(
                self.adapted(command).split(), cwd=self.directory, env=self._environment, stderr=log, stdout=log
            )
        self._running.append(process)
        eventually(lambda: asked(ready)[0] == 200, f"{command} is ready")
        return process

    def end(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()


def asked(url: str, **headers: str) -> tuple[int, str]:
    """Status and body; 0 while nobody listens."""
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  our own
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  our own
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


@pytest.fixture
def operator(
    postgres_server: EmbeddedPostgres, valkey_server: EmbeddedValkey, tmp_path: Path
) -> Iterator[Callable[[str], Operator]]:
    made: list[Operator] = []

    def make(upstream: str) -> Operator:
        postgres, redis = postgres_server.url(DATABASE), valkey_server.url(7)
        made.append(Operator(tmp_path, postgres=postgres, redis=redis, upstream=upstream))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_what_a_route_may_say_is_what_the_loader_takes() -> None:
    """An example that is refused teaches mistrust."""
    text = "version: 1\n" + block("What a route and an upstream may say besides", "yaml")
    loaded = load_text(text, name="ostiary.yaml", environment={})
    assert [route.name for route in loaded.routes] == ["clients", "feed", "clients-v1"]
    assert loaded.upstreams["clients"].breaker is not None


async def test_an_operator_who_follows_the_readme_arrives(
    operator: Callable[[str], Operator], postgres_server: EmbeddedPostgres
) -> None:
    """The first page that anyone reads, wrong in one command, is the last one that they read."""
    admin = await asyncpg.connect(postgres_server.url())
    await admin.execute(f'CREATE DATABASE "{DATABASE}"')
    await admin.close()
    upstream = SampleUpstream(LIVE_RECORDS)
    await upstream.start()
    try:
        await asyncio.to_thread(follow, operator(upstream.url))
    finally:
        await upstream.stop()


def follow(operator: Operator) -> None:
    put_before_an_api(operator)
    control_plane, gateway = start_both(operator)
    explain_and_compare(operator)
    make_a_key(operator)
    sign_a_call(operator)
    change_limits(operator, gateway)
    read_usage(operator)
    watch(operator)
    revoke(operator)
    for process in (gateway, control_plane):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "it gets SIGTERM … exit 0"


def put_before_an_api(operator: Operator) -> None:
    for name in ("key-encryption-key", "operator-token"):
        (operator.directory / name).write_text(base64.b64encode(secrets.token_bytes(32)).decode())  # openssl rand
    written = operator.adapted(block("Put it before an API", "yaml"))
    # The two ports that the README leaves at their defaults, which something else may use here.
    for section, field, address in (
        ("control_plane", "listen", operator.control_plane),
        ("gateway", "admin", operator.admin),
    ):
        line = f"{section}:\n  {field}: {{port: {address.rpartition(':')[2]}}}\n"
        written = re.sub(rf"^{section}:\n", line, written, flags=re.MULTILINE)
    (operator.directory / "ostiary.yaml").write_text(written)


def start_both(operator: Operator) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    check, migrate, control_plane, gateway = commands("Put it before an API")
    assert operator.run(check).startswith("ok: 1 route, 1 upstream, 1 plan")
    assert "applied 0001_identity" in operator.run(migrate)
    assert "nothing to do" in operator.run(migrate), "safe to run twice"
    return (
        operator.start(control_plane, f"http://{operator.control_plane}/readyz"),
        operator.start(gateway, f"http://{operator.admin}/readyz"),
    )


def explain_and_compare(operator: Operator) -> None:
    explain, diff = commands("Which route takes a call, and why")
    assert operator.run(explain).startswith("clients: ")
    running = (operator.directory / "ostiary.yaml").read_text()
    (operator.directory / "next.yaml").write_text(running.replace("requests: 100,", "requests: 50,"))
    assert "changed plan standard" in operator.run(diff)


def make_a_key(operator: Operator) -> None:
    export, organization, app, create, listing, _ = commands("Make a key")
    operator.run(export)
    operator.ids["ORGANIZATION_ID"] = operator.run(organization).strip()
    operator.ids["APP_ID"] = operator.run(app).strip()
    made = dict(re.findall(r"^(key id|secret) +(\S+)$", operator.run(create), flags=re.MULTILINE))
    # What the README shows of a key, cut short, is how this one begins; then it stands for it.
    for shown, whole in (("ost_ak_live_…", made["key id"]), ("ost_sk_live_…", made["secret"])):
        assert whole.startswith(shown.removesuffix("…"))
        operator.replaced[shown] = whole
    operator.ids["KEY_ID"] = made["key id"]
    assert made["key id"] in operator.run(listing)
    assert made["secret"] not in operator.run(listing)


def sign_a_call(operator: Operator) -> None:
    secret = operator.replaced["ost_sk_live_…"]
    url = f"http://{operator.gateway}/v1/clients"
    assert asked(url, Authorization=f"Bearer {secret}")[0] == 200
    assert asked(url, **{"X-API-Key": secret})[0] == 200
    export, sign = commands("Sign a call")
    operator.run(export)
    line = operator.run(sign)
    assert secret not in line
    if shutil.which("curl"):
        assert '"total"' in operator.run(line)
    else:
        assert paste(re.sub(r"-sS -g --path-as-is -X GET ", "", line)).status == 200
    (operator.directory / "sign.py").write_text(operator.adapted(block("Sign a call", "python")))
    assert operator.run(f"{sys.executable} sign.py").strip() == "201"
    if shutil.which("curl") and shutil.which("openssl"):
        assert operator.run(block("Sign a call", "sh")).count("HTTP/1.1 200") == 1


def change_limits(operator: Operator, gateway: subprocess.Popen[bytes]) -> None:
    """Section "Change limits": by an edit, by a signal, and a mistake changes nothing."""
    path = operator.directory / "ostiary.yaml"
    good = path.read_text()

    def generation() -> int:
        return int(json.loads(asked(f"http://{operator.admin}/status")[1])["generation"])

    def metric(name: str) -> float:
        text = asked(f"http://{operator.admin}/metrics")[1]
        return float(re.findall(rf"^{name} (\S+)$", text, flags=re.MULTILINE)[0])

    assert generation() == 1
    path.write_text(good.replace("requests: 100,", "requests: 99,"))
    eventually(lambda: generation() == 2, "the edit is noticed")
    path.write_text(good)
    gateway.send_signal(signal.SIGHUP)
    eventually(lambda: generation() == 3, "the signal is obeyed")
    (refusals,) = re.findall(r"`(config_reload_failures_total)` rises", README)
    path.write_text(good.replace("upstream: clients", "upstream: customers"))
    eventually(lambda: metric(refusals) == 1, "the mistake is counted")
    last = json.loads(asked(f"http://{operator.admin}/status")[1])["last_reload"]
    assert last["result"] == "refused"
    assert "customers" in last["problems"][0]
    assert "ostiary.yaml:" in last["problems"][0], "what is wrong and where"
    secret = operator.replaced["ost_sk_live_…"]
    assert asked(f"http://{operator.gateway}/v1/clients", **{"X-API-Key": secret})[0] == 200
    path.write_text(good)


def read_usage(operator: Operator) -> None:
    daily, reconcile = commands("Read usage")

    def calls() -> bool:
        return int(operator.run(daily).splitlines()[-1].split()[1]) >= 4

    eventually(calls, "the calls are in the daily sums")
    assert operator.run(reconcile).endswith("Everything is accounted for.\n")


def watch(operator: Operator) -> None:
    section = README.partition("## Watch it\n")[2].partition("\n## ")[0]
    paths = re.findall(r"`(?:http://127\.0\.0\.1:9090)?(/\w+)`", section)
    assert paths == ["/metrics", "/status", "/healthz", "/readyz"]
    for path in paths:
        assert asked(f"http://{operator.admin}{path}")[0] == 200, path
    assert asked(f"http://{operator.control_plane}/docs")[0] == 200


def revoke(operator: Operator) -> None:
    secret = operator.replaced["ost_sk_live_…"]
    operator.run(commands("Make a key")[-1])
    revoked_at = time.monotonic()
    url = f"http://{operator.gateway}/v1/clients"
    eventually(lambda: asked(url, **{"X-API-Key": secret})[0] == 401, "the key is refused", seconds=1 + MACHINE_SECONDS)
    assert time.monotonic() - revoked_at < 1 + MACHINE_SECONDS, "on every gateway within a second"


@pytest.mark.parametrize("line", re.findall(r"^\./scripts/(\w+(?: --\w+)?)", README, flags=re.MULTILINE))
def test_scripts_that_the_readme_shows_have_the_options_it_gives_them(line: str) -> None:
    name, _, option = line.partition(" ")
    shown = subprocess.run([ROOT / "scripts" / name, "--help"], capture_output=True, text=True, check=True).stdout
    assert option in shown
