"""A control plane as an operator runs it, in a process of its own, and the commands against it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result

from ostiary.cli.main import main
from ostiary.control_plane.db import migrate
from ostiary.demo.stores import EmbeddedPostgres

OPERATOR_TOKEN = "operator-token-for-tests-0123456789abcdef"
ENVIRONMENT = {
    "OSTIARY_OPERATOR_TOKEN": OPERATOR_TOKEN,
    "OSTIARY_KEY_ENCRYPTION_KEY": "00" * 32,
}
START_SECONDS = 120.0  # also on a machine where every processor has ten others waiting for it

CONFIGURATION = """
version: 1
routes: []
control_plane:
  listen: {{host: 127.0.0.1, port: 0}}
  operator_token: "${{OSTIARY_OPERATOR_TOKEN}}"
stores:
  postgres: "{postgres}"
  key_encryption_key: "${{OSTIARY_KEY_ENCRYPTION_KEY}}"
plans:
  standard: {{rate: {{requests: 100, per: minute, burst: 600}}}}
"""

Run = Callable[..., Result]


def write_configuration(path: Path, postgres: str) -> Path:
    path.write_text(CONFIGURATION.format(postgres=postgres), encoding="utf-8")
    return path


@dataclass
class Process:
    """`ostiary control-plane` under way. `lines` are those of its log so far."""

    popen: subprocess.Popen[str]
    url: str
    lines: list[str]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        rest, _ = self.popen.communicate(timeout=START_SECONDS)
        self.lines += rest.splitlines()
        return self.popen.returncode


def start(configuration: Path, environment: Mapping[str, str] = ENVIRONMENT) -> Process:
    """Waits until it listens."""
    popen = subprocess.Popen(
        [sys.executable, "-c", "from ostiary.cli.main import main; main()", "control-plane", "-c", str(configuration)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert popen.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and (line := popen.stdout.readline()):
        lines.append(line)
        if line.startswith("{") and json.loads(line)["event"] == "listening":
            return Process(popen, json.loads(line)["url"], lines)
    popen.kill()
    popen.wait()
    raise AssertionError("it did not start:\n" + "".join(lines))


@pytest.fixture(scope="module")
def module_database(postgres_server: EmbeddedPostgres, request: pytest.FixtureRequest) -> str:
    """A migrated database for the commands of one module."""
    name = f"cli_{request.module.__name__.rpartition('.')[2]}"

    async def prepare() -> None:
        admin = await asyncpg.connect(postgres_server.url())
        await admin.execute(f'CREATE DATABASE "{name}"')
        await admin.close()
        await migrate(postgres_server.url(name))

    asyncio.run(prepare())
    return postgres_server.url(name)


@pytest.fixture(scope="module")
def control_plane(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = start(write_configuration(tmp_path_factory.mktemp("cli") / "gateway.yaml", module_database))
    yield process
    assert process.end() == 0


@pytest.fixture
def run(control_plane: Process) -> Run:
    """Runs `ostiary …` against the control plane; `exit_code` is what it must end with, `typed` what is typed into it."""

    def invoke(
        *arguments: str,
        exit_code: int = 0,
        environment: Mapping[str, str] = ENVIRONMENT,
        typed: str | None = None,
    ) -> Result:
        names = {"OSTIARY_URL": control_plane.url, **environment}
        result = CliRunner().invoke(main, arguments, env=names, input=typed)
        assert result.exit_code == exit_code, f"{arguments}: {result.output}{result.stderr}"
        return result

    return invoke
