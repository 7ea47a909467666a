from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.phases import LimitPhase, Line, caller_lines, drive, memory_path, subject_of, text
from benchmarks.statistics import Spread
from benchmarks.timing import cost_us
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Limiter, UnobservedLimiter


def spin(seconds: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def test_the_cost_of_a_call_is_its_cpu_in_microseconds() -> None:
    """Every figure of the phases rests on this."""
    cost = cost_us(lambda: spin(0.002), batch_seconds=0.01, batches=3)
    assert 2000 <= cost.least <= cost.median < 3000


def test_waiting_is_no_cost() -> None:
    """Time that others have the core must not be counted."""
    assert cost_us(lambda: time.sleep(0.001), batch_seconds=0.001, batches=3).median < 500


async def test_every_phase_of_a_signed_request_can_be_measured(tmp_path: Path) -> None:
    """A phase that has changed its shape is noticed here, not when someone needs its figure."""
    called = 0

    def once(call: Callable[[], object]) -> Spread:
        nonlocal called
        called += 1
        call()
        return Spread(1.0, 2.0, 3.0)

    async with subject_of(tmp_path) as subject:
        lines = list(subject.lines(once, many_routes=False))
        assert subject.verify()
        assert subject.spool.accepted > 0
    names = [line.name for line in lines if line.counts]
    assert called == len(lines)
    for phase in ("admit", "match", "authenticate", "authorize", "prepare", "respond", "open and record"):
        assert phase in names


async def test_callers_by_key_and_by_token_are_measured_when_they_are_let_in(tmp_path: Path) -> None:
    """A 401 would look cheap."""

    def once(call: Callable[[], object]) -> Spread:
        call()
        return Spread(1.0, 2.0, 3.0)

    assert [line.name.partition(":")[0] for line in caller_lines(tmp_path, once)] == [
        *("bearer", "jwt, remembered", "bearer", "jwt, remembered", "jwt, verified anew (RS256)")
    ]


async def test_limits_are_measured_by_decisions_of_redis(tmp_path: Path, valkey_server: EmbeddedValkey) -> None:
    """Decisions taken without Redis would look cheap."""
    limiter = Limiter(url=valkey_server.url(), deadline_seconds=5.0, workers=1, observe=UnobservedLimiter())
    async with subject_of(tmp_path) as subject:
        await limiter.start()
        try:
            phase = LimitPhase(subject, limiter)
            await phase.tick()
            await phase.tick()
            assert limiter.status()["state"] == "connected"
            assert limiter.status()["decided_without_store"] == 0
        finally:
            await limiter.close()


async def test_the_path_without_sockets_is_the_real_one(tmp_path: Path) -> None:
    """A short cut would be measured in place of the path."""
    path = memory_path(tmp_path)
    for _ in range(3):
        path.call()
        asked, answered = path.upstream_side.written, path.client_side.written
        assert asked.startswith(b"GET /v1/clients?limit=10 HTTP/1.1\r\nHost: 127.0.0.1:19000\r\n")
        assert b"\r\nVia: 1.1 ostiary\r\n" in asked
        assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answered.endswith(b"\r\n\r\n" + b"x" * 121)
        path.client_side.written = path.upstream_side.written = b""


def test_a_phase_that_waits_is_refused() -> None:
    """Half a phase would be measured as a whole one."""

    class Waiting:
        def __await__(self):  # type: ignore[no-untyped-def]  # yields whatever
            yield None

    async def waits() -> None:
        await Waiting()

    with pytest.raises(RuntimeError, match="waits"):
        drive(waits())


def test_parts_are_not_added_again() -> None:
    """A sum that counts parts twice has no meaning."""
    lines = [Line("match", Spread(1.0, 2.0, 3.0)), Line("of it: a part", Spread(1.0, 1.5, 2.0), counts=False)]
    printed = text(lines).splitlines()
    assert printed[-1].split() == ["sum", "of", "the", "phases", "2.00"]
    assert printed[2].startswith("  of it: a part")
