"""Names to addresses, without holding up the event loop and without an end of threads.

The system's resolver is asked, in threads: it alone knows /etc/hosts, search domains and the like, and it can't be
interrupted. While it hangs, a connect gives up at its own deadline and the look-up goes on by itself; so there is one of a
name at a time, which all who ask for that name wait for, and a bounded number altogether. uvloop's own look-ups have two
threads for the whole process and a queue without end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, NamedTuple

# Threads of one worker. One that hangs for a name takes none from the others until so many hang.
LOOK_UPS_MAX: Final = 16


class Address(NamedTuple):
    """`host` is an IP address as text, with the zone of a link-local one."""

    family: int
    host: str


LookUp = Callable[[str], list[Address]]  # raises OSError or UnicodeError; runs in a thread


def system_look_up(name: str) -> list[Address]:
    """As the system orders them (RFC 6724), each once. Raises OSError (gaierror), UnicodeError for what can't be a name."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(Address(family, str(where[0])) for family, _, _, _, where in found))


class Resolver:
    """For all targets of a worker. A literal address is no look-up."""

    def __init__(self, *, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._free = asyncio.Semaphore(LOOK_UPS_MAX)
        self._under_way: dict[str, asyncio.Task[list[Address] | Exception]] = {}

    async def addresses(self, name: str) -> list[Address]:
        """At least one. Raises OSError or UnicodeError; waits for as long as the system's resolver does."""
        try:
            literal = ip_address(name)
        except ValueError:
            pass
        else:
            return [Address(socket.AF_INET6 if literal.version == 6 else socket.AF_INET, name)]
        task = self._under_way.get(name)
        if task is None:
            task = self._under_way[name] = asyncio.get_running_loop().create_task(self._run(name))
            task.add_done_callback(lambda _: self._under_way.pop(name))
        result = await asyncio.shield(task)
        if isinstance(result, Exception):
            raise result
        return result

    async def _run(self, name: str) -> list[Address] | Exception:
        """The exception is a value: nobody may be left who wants it."""
        async with self._free:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[list[Address] | Exception] = loop.create_future()

            def deliver(result: list[Address] | Exception) -> None:
                if not done.done():
                    done.set_result(result)

            def work() -> None:
                try:
                    result: list[Address] | Exception = self._look_up(name) or OSError("the name has no address")
                except (OSError, UnicodeError) as error:
                    result = error
                try:
                    loop.call_soon_threadsafe(deliver, result)
                except RuntimeError:  # the loop has ended meanwhile
                    pass

            # A daemon: an executor's threads are waited for at the end of the process, however long they hang.
            threading.Thread(target=work, name="look-up", daemon=True).start()
            return await done
