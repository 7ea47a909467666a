"""The demo from start to end: stores, schema, sample upstream, both planes, keys; then it waits, and ends in reverse order.

Whatever was started is ended, whether the end is Ctrl-C, SIGTERM, a child that failed or a mistake halfway up; after a
`kill -9` the guard does it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from ostiary.control_plane.db import migrate
from ostiary.demo.children import Child, ChildFailed
from ostiary.demo.configuration import Addresses, Ports, operator_token_file, write_configuration
from ostiary.demo.guard import Guard
from ostiary.demo.ports import RequestedPorts, choose_ports
from ostiary.demo.provisioning import ControlPlaneClient, DemoKeys
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from ostiary.demo.upstream import LIVE_RECORDS, SANDBOX_RECORDS, SampleUpstream
from ostiary.demo.welcome import Place, welcome

DATABASE = "ostiary"
STORE_POLL_SECONDS = 0.5


class DirectoryRefused(RuntimeError):
    """The --data directory is in use, or holds something else."""


@dataclass(frozen=True, slots=True)
class Options:
    """`data` None: a temporary directory, removed at the end. `started_at` is the user's start, by `time.monotonic`."""

    data: Path | None
    ports: RequestedPorts
    started_at: float


async def run_demo(options: Options, say: Callable[[str], None]) -> None:
    """Returns after SIGINT, SIGTERM or SIGHUP, with nothing left behind.

    `say` gets what the user should read, secrets included. Raises MissingWheels, StoreFailed, ChildFailed, PortTaken,
    DirectoryRefused, ProvisioningFailed; then too nothing is left."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        demo = Demo(options, stack)
        stopped = asyncio.create_task(stop.wait())
        if await _first(demo.bring_up(), stopped):
            say(demo.welcome_text())
            await _first(demo.watch(), stopped)
        say("Stopping.")


class Demo:
    """What is up, each part registered on `stack` before the next is started."""

    def __init__(self, options: Options, stack: AsyncExitStack) -> None:
        self._options = options
        self._stack = stack
        self._children: list[Child] = []
        self._stores: list[EmbeddedPostgres | EmbeddedValkey] = []

    async def bring_up(self) -> None:
        ports, self._notes = choose_ports(self._options.ports)
        guard = self._stack.enter_context(Guard())
        directory = self._open_directory(self._options.data, guard)
        keep = self._options.data is not None
        addresses = await self._start_stores(directory, keep=keep)
        path = write_configuration(directory, ports=ports, addresses=addresses)
        await migrate(addresses.postgres)
        await self._start_planes(path, ports, guard)
        control_plane = f"http://127.0.0.1:{ports.control_plane}"
        token = operator_token_file(directory).read_text().strip()
        async with ControlPlaneClient(control_plane, token) as client:
            self._keys: DemoKeys = await client.make_keys()
        self._place = Place(ports=ports, program=_program(), directory=directory, kept=keep)

    def welcome_text(self) -> str:
        seconds = time.monotonic() - self._options.started_at
        return welcome(self._place, self._keys, seconds=seconds, notes=self._notes)

    async def watch(self) -> None:
        """Never returns. Raises ChildFailed when something that should be running is not."""
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(child.watch())
            group.create_task(self._watch_stores())

    async def _watch_stores(self) -> None:
        while True:
            for store in self._stores:
                if not store.is_running:
                    raise ChildFailed(f"{type(store).__name__} ended. Its log is {store.log}")
            await asyncio.sleep(STORE_POLL_SECONDS)

    def _open_directory(self, data: Path | None, guard: Guard) -> Path:
        # 0711 for root: Postgres runs as another account then, and must get to its own directory inside, which is 0700.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        if data is None:
            directory = Path(tempfile.mkdtemp(prefix="ostiary-demo-")).resolve()
            directory.chmod(mode)
            guard.watch_directory(directory)
            self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        else:
            directory = data.resolve()
            if not directory.exists():
                directory.mkdir(mode=mode, parents=True)
            self._lock(directory)
        (directory / "logs").mkdir(mode=0o700, exist_ok=True)
        return directory

    def _lock(self, directory: Path) -> None:
        mark = directory / "demo.lock"
        if not mark.exists() and any(directory.iterdir()):
            raise DirectoryRefused(f"{directory} holds something else than a demo; name a new or an empty directory")
        lock = self._stack.enter_context(mark.open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryRefused(f"another demo is running in {directory}") from error

    async def _start_stores(self, directory: Path, *, keep: bool) -> Addresses:
        postgres = EmbeddedPostgres(directory / "postgres", keep=keep)
        valkey = EmbeddedValkey(directory / "valkey", keep=keep)
        live, sandbox = SampleUpstream(LIVE_RECORDS), SampleUpstream(SANDBOX_RECORDS)
        for store in (postgres, valkey):
            self._stack.callback(store.stop)
            self._stores.append(store)
        for upstream in (live, sandbox):
            self._stack.push_async_callback(upstream.stop)
            await upstream.start()
        # A group, not `gather`: if one fails, the other's start has ended before anything is stopped.
        async with asyncio.TaskGroup() as group:
            for store in (postgres, valkey):
                group.create_task(_in_thread(store.start))
        connection = await asyncpg.connect(postgres.url())
        try:
            # CREATE DATABASE has no IF NOT EXISTS; the directory's lock makes look-then-create safe.
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()
        return Addresses(redis=valkey.url(), postgres=postgres.url(DATABASE), upstream=live.url, sandbox=sandbox.url)

    async def _start_planes(self, path: Path, ports: Ports, guard: Guard) -> None:
        logs = path.parent / "logs"
        control_plane = Child(
            "ostiary control-plane", ["control-plane", "-c", str(path)], log=logs / "control-plane.log", guard=guard
        )
        gateway = Child("ostiary gateway", ["gateway", "-c", str(path)], log=logs / "gateway.log", guard=guard)
        for child in (control_plane, gateway):
            self._stack.push_async_callback(child.stop)
            self._children.append(child)
            await child.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(control_plane.wait_until_ready(f"http://127.0.0.1:{ports.control_plane}/healthz"))
            group.create_task(gateway.wait_until_ready(f"http://127.0.0.1:{ports.admin}/readyz"))


async def _first(work: Coroutine[Any, Any, None], stopped: asyncio.Task[bool]) -> bool:
    """Whether `work` ended before `stopped`; if not, it is cancelled and has ended too. Raises what `work` raises."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            return False
    try:
        task.result()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return not stopped.done()


async def _in_thread(work: Callable[[], None]) -> None:
    """As `asyncio.to_thread`, but when cancelled it waits for the thread: a server must not start while it is stopped."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _program() -> str:
    """How the user of this installation calls `ostiary`."""
    found = shutil.which("ostiary")
    beside = Path(sys.executable).with_name("ostiary")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "ostiary"
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m ostiary"
