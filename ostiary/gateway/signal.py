"""How one request is driven: a coroutine run straight from the protocol, resumed straight from the event it waits for.

No task and no loop turn stand between a reply of Redis or an upstream and the code that waits for it. Against one asyncio
task a request this saves 3–4 µs (docs/decisions/0001-engine.md). What needs a task (asyncpg, aiohttp) runs in one
by way of `in_task`, off the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")


class Signal(Generic[T]):
    """A value that comes once; one coroutine may wait for it. Setting it resumes that coroutine before `set` returns.

    Setting a signal twice, or after whoever waited has gone, does nothing: replies may come late."""

    __slots__ = ("_drive", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._drive: Drive | None = None  # of the coroutine that waits
        self._error: BaseException | None = None
        self._value: Any = None  # T once set; a cast on the way out would cost a call

    @property
    def awaited(self) -> bool:
        """Somebody is waiting at this moment."""
        return self._drive is not None

    def set(self, value: T) -> None:
        if self.done:
            return
        self.done = True
        self._value = value
        if (drive := self._drive) is not None:
            self._drive = None
            drive._step()

    def fail(self, error: BaseException) -> None:
        if self.done:
            return
        self.done = True
        self._error = error
        if (drive := self._drive) is not None:
            self._drive = None
            drive._step()

    def __await__(self) -> Generator[Signal[T], None, T]:
        if not self.done:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]  # see _value


ENDED: Final[Signal[None]] = Signal()
"""Never set: a driven coroutine that awaits it as its last act has ended. A return would do as well, and is an exception
(StopIteration) that has to be made and caught: 3 500 instructions of a request's 150 000."""


class Drive:
    """Runs `coroutine` now, up to its first unset signal, and on from there as signals are set.

    `throw` raises in the coroutine at the place where it waits (a client that has gone). A coroutine that ends in an
    exception hands it to `failed`."""

    __slots__ = ("_coroutine", "_failed", "_running", "_waiting")

    def __init__(self, coroutine: Coroutine[Any, None, None], failed: Callable[[BaseException], None]) -> None:
        self._coroutine: Coroutine[Any, None, None] | None = coroutine
        self._failed = failed
        self._waiting: Signal[Any] | None = None
        self._running = False
        self._step()

    @property
    def finished(self) -> bool:
        return self._coroutine is None

    def _step(self) -> None:
        if (coroutine := self._coroutine) is None:
            return
        self._waiting = None
        self._running = True
        try:
            signal = coroutine.send(None)
        except StopIteration:
            self._coroutine = None
        except Exception as error:
            self._coroutine = None
            self._failed(error)
        else:
            self._wait_for(signal)
        finally:
            self._running = False

    def _wait_for(self, signal: Signal[Any]) -> None:
        if signal is ENDED:
            self._coroutine = None
        else:
            self._waiting = signal
            signal._drive = self

    def throw(self, error: Exception) -> None:
        """No effect when the coroutine has ended, or is running this very call (it sees the cause by itself)."""
        if (coroutine := self._coroutine) is None or self._running:
            return
        if self._waiting is not None:
            self._waiting._drive = None
            self._waiting = None
        self._running = True
        try:
            signal = coroutine.throw(error)
        except StopIteration:
            self._coroutine = None
        except Exception as raised:
            self._coroutine = None
            if raised is not error:
                self._failed(raised)
        else:
            self._wait_for(signal)
        finally:
            self._running = False


_tasks: set[asyncio.Task[None]] = set()


def in_task(work: Coroutine[Any, Any, T]) -> Signal[T]:
    """Runs `work` as an asyncio task, for code that needs one; the signal gets its result or its exception."""
    signal: Signal[T] = Signal()

    async def run() -> None:
        try:
            result = await work
        except Exception as error:
            signal.fail(error)
        else:
            signal.set(result)

    task = asyncio.get_running_loop().create_task(run())
    _tasks.add(task)  # the loop holds tasks weakly
    task.add_done_callback(_tasks.discard)
    return signal
