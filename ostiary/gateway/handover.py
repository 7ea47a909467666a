"""A rolling restart: the supervisor becomes the program that is on disk now, in place, and hands over what must not close.

`exec` keeps the process: its id, its children, and the descriptors it leaves open. So whoever runs the gateway (systemd, a
container, where it is process 1) sees nothing, the port and the admin listener are never closed, and the workers of before
serve on until those of the new program do. Between two versions of the program there is this record, one line to a worker
(`DRAIN_LINE`), and nothing else: no pickled object, no counters whose layout must be the same."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from ostiary.nameless import nameless_memory

FORMAT = 1  # of the record; another one is refused in the rehearsal, while the old program still serves
VARIABLE = "OSTIARY_HANDOVER"  # the descriptor of the record
RECORD_BYTES_MAX = 1024 * 1024  # a process takes some 120 bytes
# The start of a gateway with 10 000 routes takes some 3 s of CPU, on a busy machine several times that.
REHEARSAL_SECONDS = 60.0
PROBLEM_CHARACTERS_MAX = 2000
# A process that was not ready when the program changed has lost its channel, and ends by that.
ORPHAN_SECONDS = 10.0
# The event loop is told of a signal by a pipe: this is many of its turns.
SETTLE_SECONDS = 0.01
# They arrive while neither program listens for them: held back by the one, delivered to the other.
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})


class HandoverError(Exception):
    """The record can't be read, or does not fit this program and its configuration; the text says why."""


@dataclass(frozen=True, slots=True)
class HeldSocket:
    """A socket that stays open. `host` and `port` are as configured: port 0 stays 0."""

    host: str
    port: int
    descriptor: int


@dataclass(frozen=True, slots=True)
class HandedProcess:
    """A child of the program before. `channel` and `region` are descriptors. One without a channel is ending, and killed at
    `kill_at` (monotonic clock, which all processes share)."""

    name: str
    pid: int
    is_worker: bool
    channel: int | None
    region: int | None
    kill_at: float | None


@dataclass(frozen=True, slots=True)
class Handover:
    """What one program leaves to the next. `regions` are descriptors of counters whose processes are gone, `node` is that of
    what the workers share (None from a program that had no such thing). In a rehearsal there are no descriptors: the next
    program is only to find out whether it could start."""

    listen: HeldSocket
    admin: HeldSocket
    generation: int
    processes: tuple[HandedProcess, ...] = ()
    regions: tuple[int, ...] = ()
    rehearsal: bool = False
    node: int | None = None

    def rehearsed(self) -> Handover:
        return Handover(listen=self.listen, admin=self.admin, generation=self.generation, rehearsal=True)

    def descriptors(self) -> list[int]:
        held = [self.listen.descriptor, self.admin.descriptor, *self.regions]
        held += [] if self.node is None else [self.node]
        for process in self.processes:
            held += [each for each in (process.channel, process.region) if each is not None]
        return held

    def encode(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Handover:
        """Raises HandoverError. Fields that this version does not know are left alone: a later one wrote them."""
        try:
            found: dict[str, Any] = json.loads(data)
            if found["format"] != FORMAT:
                raise HandoverError(f"the running gateway hands over in format {found['format']}, this takes {FORMAT}")
            sockets = {
                name: HeldSocket(**{field: found[name][field] for field in HeldSocket.__slots__})
                for name in ("listen", "admin")
            }
            return cls(
                **sockets,
                generation=int(found["generation"]),
                processes=tuple(
                    HandedProcess(**{field: each[field] for field in HandedProcess.__slots__})
                    for each in found["processes"]
                ),
                regions=tuple(found["regions"]),
                rehearsal=bool(found["rehearsal"]),
                node=found.get("node"),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise HandoverError(f"the record of the running gateway can't be read: {error!r}") from error


def take_handover(environment: MutableMapping[str, str]) -> Handover | None:
    """The record that this program was started with, if it takes over from another; taken out of `environment`, so that no
    child sees it. Raises HandoverError."""
    number = environment.pop(VARIABLE, None)
    if number is None:
        return None
    try:
        with os.fdopen(int(number), "rb") as file:
            file.seek(0)
            data = file.read(RECORD_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise HandoverError(f"{VARIABLE}={number} names no record; only the gateway itself sets it") from error
    return Handover.decode(data)


async def rehearse(handover: Handover, command: Sequence[str]) -> str | None:
    """Starts `command`, the program on disk, as a process of its own, which loads all that it needs, reads the
    configuration, compares it with what it would take over, and ends. None when it would start; else why not, in its own
    words."""
    record = _record(handover.rehearsed())
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[record],
            env=os.environ | {VARIABLE: str(record)},
            start_new_session=True,
        )
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    finally:
        os.close(record)
    try:
        _, told = await asyncio.wait_for(process.communicate(), REHEARSAL_SECONDS)
    except TimeoutError:
        return f"the program did not load within {REHEARSAL_SECONDS:g} s"
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode == 0:
        return None
    said = told.decode("utf-8", "replace").strip()[-PROBLEM_CHARACTERS_MAX:]
    return said or f"the program ended with exit status {process.returncode}"


def keep_signals_from_threads(loop: asyncio.AbstractEventLoop) -> None:
    """A signal goes to any thread that listens for it. What `loop`, the supervisor's, does beside itself it does in threads
    that never listen, or the signals that `signals_wait` holds back would reach them, and end with this program. Before the
    first thread and the first child."""
    loop.set_default_executor(
        ThreadPoolExecutor(initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, SIGNALS))
    )
    if sys.version_info >= (3, 12):
        return
    # Up to 3.11 asyncio waits for each child in a thread, which listens. Later versions do as this does, where the system
    # has the call; where it has not, their threads listen too, for the milliseconds of `signals_wait`.
    with suppress(OSError):
        os.close(os.pidfd_open(os.getpid()))
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(loop)
        asyncio.set_child_watcher(watcher)


@asynccontextmanager
async def signals_wait() -> AsyncIterator[None]:
    """From here on `SIGNALS` wait for the program that comes next, which unblocks them; or for the end of this context. What
    came before has been answered."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        await asyncio.sleep(SETTLE_SECONDS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def become(handover: Handover, command: Sequence[str]) -> NoReturn:
    """Replaces this program by `command`. Raises OSError when the system can't; then everything is as before."""
    record = _record(handover)
    held = [record, *handover.descriptors()]
    try:
        for descriptor in held:
            os.set_inheritable(descriptor, True)
        os.execve(command[0], list(command), os.environ | {VARIABLE: str(record)})  # noqa: S606  our own command line
    finally:  # still here
        for descriptor in held:
            os.set_inheritable(descriptor, False)
        os.close(record)


def own_command() -> list[str]:
    """The command line that started this program, options of the interpreter included. What its paths lead to now is the
    version that is installed now."""
    return [sys.executable, *sys.orig_argv[1:]]


def _record(handover: Handover) -> int:
    """A descriptor of nameless memory that holds the record."""
    descriptor = nameless_memory("handover")
    os.write(descriptor, handover.encode())
    return descriptor
