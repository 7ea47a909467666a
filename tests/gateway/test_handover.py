"""What one program leaves to the next: the record, and what does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from ostiary.gateway.handover import (
    FORMAT,
    SIGNALS,
    VARIABLE,
    HandedProcess,
    Handover,
    HandoverError,
    HeldSocket,
    become,
    rehearse,
    take_handover,
)
from ostiary.gateway.slot import Slot, State
from ostiary.gateway.spawn import spawn

RECORD = Handover(
    listen=HeldSocket("127.0.0.1", 0, 5),
    admin=HeldSocket("127.0.0.1", 9090, 6),
    generation=7,
    processes=(
        HandedProcess("worker-0", 100, True, 11, 12, None),
        HandedProcess("spare", 101, False, None, None, 1234.5),
    ),
    regions=(13, 14),
    node=15,
)


def test_a_record_is_read_as_it_was_written() -> None:
    """Row 110: a descriptor that is lost is a socket that closes."""
    assert Handover.decode(RECORD.encode()) == RECORD
    assert RECORD.descriptors() == [5, 6, 13, 14, 15, 11, 12]
    assert RECORD.rehearsed().descriptors() == [5, 6]
    assert RECORD.rehearsed().rehearsal


def test_what_a_later_version_adds_is_left_alone_and_another_format_is_refused() -> None:
    """Row 110: an upgrade must be possible from, and back to, a version that knows more or less."""
    found = json.loads(RECORD.encode())
    found["added"] = found["listen"]["added"] = found["processes"][0]["added"] = "later"
    assert Handover.decode(json.dumps(found).encode()) == RECORD
    with pytest.raises(HandoverError, match=f"in format {FORMAT + 1}"):
        Handover.decode(json.dumps(found | {"format": FORMAT + 1}).encode())
    del found["node"]
    assert Handover.decode(json.dumps(found).encode()).node is None, "a version before had none"
    for broken in (b"", b"[]", b"{}", RECORD.encode()[:-10]):
        with pytest.raises(HandoverError):
            Handover.decode(broken)


def test_the_record_is_taken_once_and_no_child_sees_it() -> None:
    """A child that finds the variable would think that it takes over."""
    assert take_handover({}) is None
    reading, writing = os.pipe()
    os.write(writing, RECORD.encode())
    os.close(writing)
    os.close(reading)
    environment = {VARIABLE: str(reading), "OTHER": "1"}
    with pytest.raises(HandoverError, match=f"{VARIABLE}={reading} names no record"):
        take_handover(environment)
    assert environment == {"OTHER": "1"}


def test_a_program_that_cannot_be_started_leaves_everything_as_it_was() -> None:
    """Row 110: an installation that removed the interpreter must not end the gateway, nor leave it deaf to signals."""
    sockets = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    held = Handover(
        listen=replace(RECORD.listen, descriptor=sockets[0]),
        admin=replace(RECORD.admin, descriptor=sockets[1]),
        generation=1,
    )
    with pytest.raises(FileNotFoundError):
        become(held, ["/nowhere/python", "gateway"])
    assert not any(map(os.get_inheritable, sockets))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & SIGNALS
    assert VARIABLE not in os.environ
    for descriptor in sockets:
        os.close(descriptor)


# A program that has threads at work and a child, as a supervisor has, becomes another one; a signal came in between.
FOLLOWED = """
import asyncio, os, signal, sys
from ostiary.gateway.handover import keep_signals_from_threads, signals_wait

async def run():
    loop = asyncio.get_running_loop()
    keep_signals_from_threads(loop)
    loop.add_signal_handler(signal.SIGHUP, lambda: print("heard by the first", flush=True))
    await asyncio.to_thread(int)
    child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
    os.kill(os.getpid(), signal.SIGHUP)
    async with signals_wait():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        next = "import signal; print(*sorted(each.name for each in signal.sigpending()))"
        os.execv(sys.executable, [sys.executable, "-c", next])

asyncio.run(run())
"""


def test_signals_that_come_while_the_program_changes_wait_for_the_next_one() -> None:
    """Row 110: a SIGTERM that nobody hears leaves a gateway running that its operator has ended; a SIGHUP, one with the
    configuration of before."""
    ran = subprocess.run([sys.executable, "-c", FOLLOWED], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.stdout.splitlines(), ran.stderr) == (["heard by the first", "SIGHUP SIGTERM"], "")


async def test_a_rehearsal_tells_in_the_programs_own_words_why_it_would_not_start() -> None:
    """Row 110: a reason is what the operator needs, and the gateway that runs is the only one to tell it."""
    failing = [sys.executable, "-c", "import sys; sys.exit('no module of that name')"]
    assert await rehearse(RECORD, failing) == "no module of that name"
    assert await rehearse(RECORD, [sys.executable, "-c", ""]) is None
    assert await rehearse(RECORD, ["/nowhere/python"]) == "/nowhere/python: No such file or directory"


async def test_a_child_of_another_version_does_not_start_and_says_what_to_do() -> None:
    """Row 110: after an installation without the signal, a replaced worker would run new code with a configuration that was
    pickled by the old: a route could lose its checks."""
    slots: list[Slot] = []

    def changed(slot: Slot) -> None:
        if slot.problem is not None and slot.state is State.STARTING:
            slot.drain(0.0)

    slot = Slot(
        name="worker-0",
        obtain=lambda: spawn("tests.support.tiny_service:build", [slots[0].region]),
        greeting=lambda name: ({"version": "0.0.0-before", "generation": 1, "listen": None}, b"never unpickled"),
        changed=changed,
    )
    slots.append(slot)
    await slot.run()
    assert slot.state is State.STOPPED
    assert slot.problem is not None
    assert "the supervisor runs version 0.0.0-before" in slot.problem
    assert slot.problem.endswith("send it SIGUSR2")
    assert slot.pid is None
