"""`ostiary usage stream` and `consume`, and `reconcile` with a stream, as an operator and a script see them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner

from ostiary.cli.main import main
from ostiary.core.config import load_file
from ostiary.core.usage import NatsStream
from ostiary.gateway.usage import Spool
from ostiary.gateway.usage.shipper import Shipper
from ostiary.gateway.usage.stream import StreamSink
from tests.gateway.usage.calls import Observed, call
from tests.support.nats_server import NatsServer, ask


@pytest.fixture
async def configuration(migrated_database: str, nats_server: NatsServer, tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "version: 1\nroutes: []\n"
        f"stores: {{postgres: '{migrated_database}', spool: {tmp_path / 'spool'}}}\n"
        f"usage: {{sink: {{nats: {{servers: ['nats://127.0.0.1:{nats_server.port}'], stream: cli_{uuid4().hex}, "
        f"quarantine: {tmp_path / 'quarantine'}}}}}}}\n"
    )
    return path


def _settings(configuration: Path) -> NatsStream:
    sink = load_file(configuration).usage.sink
    assert sink is not None
    return sink


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["usage", *arguments])
    return result.exit_code, result.output


async def _ship(configuration: Path, calls: int) -> None:
    directory = configuration.parent / "spool"
    spool = Spool(directory=directory, worker="0", bytes_max=1 << 30)
    for number in range(calls):
        spool.append(call(f"req-{number}"))
    spool.close()
    shipper = Shipper(directory=directory, sink=StreamSink(_settings(configuration)), observe=Observed())
    assert await shipper.ship() == calls
    await shipper.close()


async def _all(configuration: Path, *arguments: str) -> tuple[int, str]:
    """In a thread: commands have a loop of their own."""
    return await asyncio.to_thread(_run, *arguments, "-c", str(configuration))


def _consumer(configuration: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ostiary", "usage", "consume", "-c", str(configuration)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


async def test_the_stream_is_made_looked_at_and_brought_to_postgres(configuration: Path) -> None:
    """Without it: the way to a stream that the documentation shows does not lead there."""
    status, output = await _all(configuration, "stream")
    assert status == 1
    assert "ostiary usage stream --create" in output
    status, output = await _all(configuration, "stream", "--create", "--max-gib", "1")
    assert (status, output.splitlines()[0].split(": ")[1]) == (0, "0 messages, 0 bytes")
    assert (await _all(configuration, "stream", "--create"))[0] == 0  # to repeat it does no harm
    await _ship(configuration, 7)
    status, output = await _all(configuration, "stream", "--json")
    document = json.loads(output)
    assert (status, document["messages"], document["consumed"]) == (0, 2, False)
    status, output = await _all(configuration, "reconcile")
    assert status == 0, output
    assert "7 calls; 2 messages" in output
    all_line = next(line for line in output.splitlines() if line.startswith("all "))
    assert all_line.split() == ["all", "7", "0", "0", "7", "0", "0", "0", "0"]

    consumer = _consumer(configuration)
    deadline = time.monotonic() + 60
    while json.loads((await _all(configuration, "stream", "--json"))[1])["messages"]:
        assert time.monotonic() < deadline, "the consumer takes nothing"
        assert consumer.poll() is None
    consumer.send_signal(signal.SIGTERM)
    _, told = consumer.communicate(timeout=60)
    assert consumer.returncode == 0, told
    last = json.loads(told.splitlines()[-1])
    assert (last["event"], last["rows"], last["lost"]) == ("usage_consumed", 7, 0), told
    status, output = await _all(configuration, "reconcile", "--json")
    assert status == 0, output
    (run,) = json.loads(output)["runs"]
    assert (run["accepted"], run["written"], run["streamed"]) == (7, 7, 0)


async def test_a_call_that_is_gone_from_the_stream_is_missing(configuration: Path) -> None:
    """Row 94, of a stream: somebody purged it. Without it: a green check over lost usage."""
    await _all(configuration, "stream", "--create")
    await _ship(configuration, 7)
    settings = _settings(configuration)
    await ask(settings, f"STREAM.PURGE.{settings.stream}", {"filter": f"{settings.stream}.*.portion.>"})
    status, output = await _all(configuration, "reconcile", "--json")
    assert status == 1
    document = json.loads(output)
    assert document["holds"] is False
    assert [(run["accepted"], run["missing"]) for run in document["runs"]] == [(7, 7)]


def test_without_a_stream_the_commands_say_what_to_set(tmp_path: Path) -> None:
    """Without it: a traceback."""
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nroutes: []\n")
    for command in ("stream", "consume"):
        status, output = _run(command, "-c", str(path))
        assert status == 2
        assert "set usage.sink.nats.servers" in output


@pytest.mark.parametrize("command", [["consume"], ["stream"], ["reconcile"]])
def test_without_the_client_the_commands_say_what_to_install(tmp_path: Path, command: list[str]) -> None:
    """Without it: an ImportError that names a module."""
    path = tmp_path / "gateway.yaml"
    (tmp_path / "spool").mkdir()
    path.write_text(
        f"version: 1\nroutes: []\nstores: {{postgres: 'postgresql:///x', spool: {tmp_path / 'spool'}}}\n"
        "usage: {sink: {nats: {servers: ['nats://127.0.0.1:1']}}}\n"
    )
    # A package of that name that can't be imported: as if it were not installed.
    hidden = tmp_path / "hidden" / "nats"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not installed')\n")
    result = subprocess.run(
        [sys.executable, "-m", "ostiary", "usage", *command, "-c", str(path)],
        env=os.environ | {"PYTHONPATH": f"{hidden.parent}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2, result
    assert "pip install 'ostiary[nats]'" in result.stderr
    assert "Traceback" not in result.stderr
