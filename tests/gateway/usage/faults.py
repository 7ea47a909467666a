"""Faults of the disk under a worker's spool, under the shipper and under Postgres, made by `strace`; and what must hold after
each: every call is a row, or was told to its worker as dropped, and the counters say which.

These are the system calls that a worker's spool really makes: once a record is accepted it is a copy into a mapped file with
its blocks reserved, with no call that could fail. (An error of the disk when the kernel writes such a page back is not told
to anybody who does not ask by fsync, and no record depends on it before the machine itself goes down: decision 0005.)"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ostiary.demo.stores import EmbeddedPostgres
from ostiary.gateway.usage.directory import QUARANTINE, look
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.reconcile import count_by_request_id, reconcile, spooled_by_request_id
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import Observed, call, open_spool, spool_calls
from tests.support.gateway_process import eventually
from tests.support.strace import Injection, injecting

CALLS = 1500  # of a worker's life: six of the smallest segments
_PAUSE_EVERY, _PAUSE_SECONDS = 50, 0.02  # so that a spool that looks for room four times a second finds it again

# Each call with the errors that a disk, a file system or an administrator may give it, and how often a life makes it.
OF_A_WORKER = (
    ("openat", ("ENOSPC", "EIO", "EROFS", "EACCES", "EMFILE", "EDQUOT"), 16),
    ("fallocate", ("ENOSPC", "EIO", "EDQUOT"), 4),
    ("madvise", ("EIO", "ENOMEM"), 4),
    ("rename", ("ENOSPC", "EIO", "EROFS"), 5),
    ("unlink", ("EIO", "EROFS"), 1),
    ("getdents64", ("EIO",), 16),
    ("newfstatat", ("EIO", "EACCES"), 30),
    ("close", ("EIO",), 16),
)
OF_THE_SHIPPER = (
    ("openat", ("EIO", "EMFILE", "EACCES"), 20),
    ("read", ("EIO",), 20),
    ("unlink", ("EIO", "EROFS"), 6),
    ("getdents64", ("EIO",), 10),
    ("newfstatat", ("EIO",), 20),
)
# What Postgres must never take for done: an fsync that failed once and works when it is tried again has lost the pages.
OF_POSTGRES = (
    ("fdatasync", ("EIO", "ENOSPC"), 2),
    ("pwrite64", ("ENOSPC", "EIO"), 6),
)


def chosen(kinds: tuple[tuple[str, tuple[str, ...], int], ...], number: int, chance: random.Random) -> Injection:
    """The kinds in turn, at a random call; half of them from there on, half only that once."""
    name, errors, calls = kinds[number % len(kinds)]
    return Injection(name, chance.choice(errors), f"{chance.randint(1, calls)}{chance.choice(('', '+'))}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failures` is what must not be; `injected` how many calls failed."""

    injected: int
    accepted: int
    dropped: int
    failures: list[str]


# --- a worker ---------------------------------------------------------------------------------------------------------


def live(directory: Path, name: str) -> None:
    """A worker's life in a process of its own: ready, then told to go on; prints what became of each call."""
    spool = open_spool(directory, worker=name[:8])
    print("ready", flush=True)
    sys.stdin.readline()
    taken = []
    raised = []
    for number in range(CALLS):
        try:
            taken.append(spool.append(call(f"{name}-{number}")))
            if number % 170 == 0:
                spool.seal()
        except Exception as error:
            raised.append(repr(error))
        if number % _PAUSE_EVERY == 0:
            time.sleep(_PAUSE_SECONDS)  # a worker's calls take their time
    try:
        spool.close()
    except Exception as error:
        raised.append(repr(error))
    told = {"taken": taken, "accepted": spool.accepted, "dropped": spool.dropped, "raised": raised[:3]}
    print(json.dumps(told), flush=True)


def worker_under(injection: Injection, directory: Path, name: str) -> Outcome:
    """Its whole life under the fault. Nothing may be raised, and every call is stored or counted."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.usage.faults", str(directory), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    with injecting(process.pid, injection) as injected:
        output, errors = process.communicate("go\n", timeout=180)
    if process.returncode != 0 or not output:
        return Outcome(
            injected.count, 0, 0, [f"{injection}: the worker ended with {process.returncode}: {errors[-2000:]}"]
        )
    told = json.loads(output)
    failures = [f"{injection}: raised {error}" for error in told["raised"]]
    stored = {f"{name}-{number}" for number, taken in enumerate(told["taken"]) if taken}
    if told["accepted"] != CALLS or told["dropped"] != CALLS - len(stored):
        failures.append(
            f"{injection}: {len(stored)} of {CALLS} stored, counted {told['accepted']} and {told['dropped']} dropped"
        )
    return Outcome(
        injected.count, told["accepted"], told["dropped"], failures + _in_spool(injection, directory, name, stored)
    )


def _in_spool(injection: Injection, directory: Path, name: str, stored: set[str]) -> list[str]:
    """What the spool holds of this life is what was told to be stored, each once."""
    found = Counter(
        {each: count for each, count in spooled_by_request_id(directory).items() if each.startswith(f"{name}-")}
    )
    if found == Counter(stored):
        return []
    return [f"{injection}: {len(stored)} calls were told to be stored, and the spool has {found.total()}"]


async def delivered(directory: Path, postgres_url: str) -> list[str]:
    """Ships what is there without any fault; what must not be."""
    spooled = spooled_by_request_id(directory)
    shipper = Shipper(directory=directory, sink=PostgresSink(postgres_url), observe=Observed())
    await shipper.ship()
    await shipper.close()
    failures = []
    rows = await count_by_request_id(directory, postgres_url)
    if missing := spooled - rows:
        failures.append(f"{missing.total()} calls were stored and are no rows: {list(missing)[:3]}")
    if twice := [name for name, count in rows.items() if count > 1]:
        failures.append(f"{len(twice)} calls are there twice: {twice[:3]}")
    books = await reconcile(directory, postgres_url)
    if not books.holds:
        failures.append(f"the books do not balance: {books}")
    return failures


# --- the shipper and Postgres -----------------------------------------------------------------------------------------


@contextmanager
def shipping(directory: Path, postgres_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shipper as a process of its own that has shipped something."""
    spool_calls(directory, [f"before-{os.urandom(6).hex()}"])
    process = subprocess.Popen(
        [sys.executable, "-m", "ostiary.gateway.usage", str(directory)],
        env=os.environ | {"OSTIARY_POSTGRES_URL": postgres_url},
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: not look(directory).runs, "the shipper ships", 120)
        yield process
    finally:
        process.kill()
        process.wait()


def shipped_under(
    injection: Injection,
    directory: Path,
    postgres_url: str,
    names: list[str],
    *,
    postgres: EmbeddedPostgres | None = None,
) -> Outcome:
    """`names` come to the spool while the fault is there, under the shipper or, if it is given, under Postgres and all its
    processes. They may arrive then or once it is over; what can't be read is set aside, whole."""
    failures = []

    def all_shipped() -> bool:
        # One whose recovery met the fault too has ended for good; whoever runs it starts it again.
        if postgres is not None and not postgres.is_running:
            postgres.start_again()
        return not _to_ship(directory)

    with shipping(directory, postgres_url) as process:
        faulty = process.pid if postgres is None else postgres.pid
        with injecting(faulty, injection, follow=postgres is not None) as injected:
            spool_calls(directory, names)
            try:
                eventually(lambda: not _to_ship(directory), "", 1.5)  # or not, if the fault stays
            except AssertionError:
                pass
        if process.poll() is not None:
            failures.append(f"{injection}: the shipper ended with {process.returncode}")
        else:
            eventually(all_shipped, f"{injection}: everything is shipped after it", 120)
    found = asyncio.run(count_by_request_id(directory, postgres_url))
    wrong = [name for name in names if found[name] != 1]
    if wrong:
        failures.append(f"{injection}: {len(wrong)} calls are not there once: {found[wrong[0]]} times {wrong[0]}")
    return Outcome(injected.count, len(names), 0, failures)


def _to_ship(directory: Path) -> bool:
    contents = look(directory)
    return bool(contents.runs) or any(segment.state != QUARANTINE for segment in contents.segments)


if __name__ == "__main__":
    live(Path(sys.argv[1]), sys.argv[2])
