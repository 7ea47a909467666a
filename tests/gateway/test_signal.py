"""A request path is run by hand, not by a task: it goes on exactly when its signal is set, and ends exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ostiary.gateway.signal import Drive, Signal, in_task


class Gone(Exception):
    """What is thrown into a request path whose client has gone."""


class Path:
    """A driven coroutine, and all that happened."""

    def __init__(self, run: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
        self.signal: Signal[int] = Signal()
        self.heard: list[object] = []
        self.failures: list[BaseException] = []
        self.drive = Drive(run(self), self.failures.append)


async def hear(path: Path) -> None:
    try:
        path.heard.append(await path.signal)
    except Gone:
        path.heard.append("gone")
        raise


def test_a_value_resumes_the_waiting_path_before_set_returns() -> None:
    """A loop turn between a reply and its request would cost microseconds on each."""
    path = Path(hear)
    assert path.signal.awaited
    path.signal.set(7)
    assert (path.heard, path.drive.finished, path.failures) == ([7], True, [])


def test_a_value_that_is_there_already_is_taken_without_waiting() -> None:
    """An answer may come before anybody asks for it."""

    async def late(path: Path) -> None:
        path.signal.set(1)
        path.heard.append(await path.signal)

    path = Path(late)
    assert (path.heard, path.drive.finished) == ([1], True)


@pytest.mark.parametrize("again", [lambda signal: signal.set(2), lambda signal: signal.fail(ValueError())])
def test_what_comes_after_the_first_value_is_dropped(again: Callable[[Signal[int]], None]) -> None:
    """A reply that comes late must neither change a decision nor resume a path that has moved on."""
    path = Path(hear)
    path.signal.set(1)
    again(path.signal)
    assert (path.heard, path.failures) == ([1], [])


def test_a_failure_is_raised_where_the_path_waits() -> None:
    """An upstream that breaks must be handled by the phase that asked it."""
    path = Path(hear)
    error = ValueError("broken")
    path.signal.fail(error)
    assert path.drive.finished
    assert path.failures == [error]


def test_throw_reaches_the_waiting_path_and_a_reply_after_it_does_nothing() -> None:
    """A client that goes away ends its request; the reply still under way must not resume what has ended."""
    path = Path(hear)
    path.drive.throw(Gone())
    assert (path.heard, path.drive.finished, path.failures) == (["gone"], True, [])
    assert not path.signal.awaited
    path.signal.set(1)
    assert path.heard == ["gone"]


def test_a_path_that_answers_a_throw_may_wait_again() -> None:
    """A body that turns out bad is thrown into the request path, which then waits for the end of its answer."""
    other: Signal[int] = Signal()

    async def stubborn(path: Path) -> None:
        try:
            await path.signal
        except Gone:
            path.heard.append(await other)

    path = Path(stubborn)
    path.drive.throw(Gone())
    path.signal.set(1)  # the one that it no longer waits for
    assert (path.heard, path.drive.finished) == ([], False)
    other.set(2)
    assert (path.heard, path.drive.finished) == ([2], True)


def test_throw_has_no_effect_on_a_path_that_has_ended() -> None:
    """A connection is lost after its last answer every time."""
    path = Path(hear)
    path.signal.set(1)
    path.drive.throw(Gone())
    assert (path.heard, path.failures) == ([1], [])


def test_throw_has_no_effect_on_a_path_that_is_running() -> None:
    """A path whose own write finds the client gone is told by itself; a coroutine can't be entered twice."""

    async def throws_at_itself(path: Path) -> None:
        await path.signal
        path.drive.throw(Gone())
        path.heard.append("went on")

    path = Path(throws_at_itself)
    path.signal.set(1)
    assert (path.heard, path.failures) == (["went on"], [])


def test_another_exception_than_the_thrown_one_is_reported() -> None:
    """A programming error in the handling of a lost client must not vanish with the client."""

    async def clumsy(path: Path) -> None:
        try:
            await path.signal
        except Gone:
            raise KeyError("bug") from None

    path = Path(clumsy)
    path.drive.throw(Gone())
    assert [type(each) for each in path.failures] == [KeyError]
    assert path.drive.finished


async def test_work_in_a_task_resumes_the_path_with_its_result_or_its_error() -> None:
    """Database drivers need a task; the request path that waits for one does not."""
    ended = asyncio.get_running_loop().create_future()

    async def good() -> int:
        await asyncio.sleep(0)
        return 3

    async def bad() -> int:
        raise ValueError("no")

    async def both(path: Path) -> None:
        path.heard.append(await in_task(good()))
        try:
            await in_task(bad())
        except ValueError as error:
            path.heard.append(str(error))
        ended.set_result(None)

    path = Path(both)
    await asyncio.wait_for(ended, 5)
    assert (path.heard, path.drive.finished, path.failures) == ([3, "no"], True, [])
