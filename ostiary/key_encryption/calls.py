"""Calls that wait for a service, made from an event loop: in threads of their own, few at once, and given up in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ostiary.core.encryption import KeyServiceUnavailable

T = TypeVar("T")


class BoundedCalls:
    """At most `at_once` calls are under way. Who waits for its turn, and for its answer, does so `deadline_seconds` in all;
    then it is refused, and the thread, which can't be stopped, keeps its place until it has ended: a service that hangs costs
    `at_once` threads and no more."""

    def __init__(self, *, at_once: int, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._places = asyncio.Semaphore(at_once)
        self._executor = ThreadPoolExecutor(at_once, thread_name_prefix="key-service")

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Raises KeyServiceUnavailable when that takes too long."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self._places.acquire()
                try:
                    future = asyncio.get_running_loop().run_in_executor(self._executor, call)
                except BaseException:
                    self._places.release()
                    raise
                future.add_done_callback(self._ended)
                return await asyncio.shield(future)
        except TimeoutError:
            pass
        raise KeyServiceUnavailable(
            f"the service that holds the key-encryption key did not answer within {self._deadline_seconds:g} s"
        )

    def close(self) -> None:
        """Does not wait: a call that hangs ends by its own time-outs."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ended(self, future: asyncio.Future[T]) -> None:
        self._places.release()
        if not future.cancelled():
            future.exception()  # whoever waited may have left
