"""A TCP proxy that does harm, between any two parts: delays, throttles, slices, swallows, resets, closes, refuses.

    async with fault_proxy("127.0.0.1", origin.port) as proxy:
        gateway = ...                                       # with its upstream at proxy.port
        proxy.to_client = Faults(latency_seconds=0.2)       # of what the server says to the client
        proxy.to_server = Faults(ending=Ending.RESET, after_bytes=100)
        proxy.reset()                                       # both directions of every connection, now
        proxy.refuse()                                      # new connections are refused ...
        proxy.accept()                                      # ... and taken again, on the same port

For tests that are no coroutines, `fault_proxy_in_thread` gives the same proxy, on a loop of its own; every method and every
setting may be used from any thread, and has taken effect when it returns.

Faults may be set and changed at any time. They hold for connections that are open too, and for bytes that are already in
the proxy's hands: a blackhole that is lifted gives what it held back. Where the one side ends or resets its connection, so
does the other: a proxy without faults is not to be seen."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto

PIECE_BYTES = 64 * 1024
HELD_BYTES_MAX = 256 * 1024  # of one direction; beyond it the sender waits, as in a network without room
THROTTLED_STEPS_PER_SECOND = 50  # a bandwidth is kept by so many pauses a second
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, for no time


class Ending(Enum):
    """What a direction comes to after a number of bytes."""

    BLACKHOLE = auto()  # nothing more is passed on, not even the end of the connection
    RESET = auto()  # both sides get a reset
    CLOSE = auto()  # both sides see the end; what they still send is taken and dropped
    HALF_CLOSE = auto()  # the receiver sees the end, and the other direction goes on


@dataclass(frozen=True, slots=True)
class Faults:
    """Of one direction. `after_bytes` counts what was passed on since the connection began: 0 is "now"."""

    latency_seconds: float = 0.0
    bytes_per_second: int | None = None
    slice_bytes: int | None = None  # most bytes of one write
    slice_pause_seconds: float = 0.0  # after each slice
    ending: Ending | None = None
    after_bytes: int = 0


class Flow:
    """One direction of one connection. `passed_bytes` is what its receiver was given, in `writes` pieces."""

    def __init__(self, source: socket.socket, sink: socket.socket, link: Link) -> None:
        self.faults = Faults()
        self.passed_bytes = 0
        self.writes = 0
        self._source = source
        self._sink = sink
        self._link = link
        self._loop = asyncio.get_running_loop()
        # With the time of arrival. Empty bytes are the end, None is a reset.
        self._held: deque[tuple[float, bytes | None]] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Event()  # something arrived, something left, or the faults are others
        self._discards = False

    def set_faults(self, faults: Faults) -> None:
        self.faults = faults
        self._changed.set()

    async def run(self) -> None:
        await asyncio.gather(self._take(), self._give())

    async def _take(self) -> None:
        while True:
            while self._held_bytes >= HELD_BYTES_MAX and not self._discards:
                await self._change()
            try:
                data = await self._loop.sock_recv(self._source, PIECE_BYTES)
            except OSError:
                self.hold_reset()
                return
            if not self._discards:
                self._held.append((self._loop.time(), data))
                self._held_bytes += len(data)
                self._changed.set()
            if not data:
                return

    def hold_reset(self) -> None:
        """The sender has reset the connection: its receiver will learn it, after what was said before and like it."""
        self._held.append((self._loop.time(), None))
        self._changed.set()

    async def _give(self) -> None:
        while not self._discards:
            faults = self.faults
            if faults.ending is not None and self.passed_bytes >= faults.after_bytes:
                if faults.ending is not Ending.BLACKHOLE:
                    self._end(faults.ending)
                    return
                await self._change()
            elif not self._held:
                await self._change()
            elif (wait := self._held[0][0] + faults.latency_seconds - self._loop.time()) > 0:
                await self._change(wait)
            elif not await self._pass_on(faults):
                return

    async def _pass_on(self, faults: Faults) -> bool:
        """One write; False when it was the end."""
        arrived, data = self._held.popleft()
        if data is None:
            self._link.reset()
            return False
        if not data:
            with contextlib.suppress(OSError):  # the receiver has gone, which the other direction tells
                self._sink.shutdown(socket.SHUT_WR)
            return False
        size = min(len(data), faults.slice_bytes or len(data))
        if faults.ending is not None:
            size = min(size, faults.after_bytes - self.passed_bytes)
        if faults.bytes_per_second is not None:
            size = min(size, max(1, faults.bytes_per_second // THROTTLED_STEPS_PER_SECOND))
        if size < len(data):
            self._held.appendleft((arrived, data[size:]))
        try:
            await self._loop.sock_sendall(self._sink, data[:size])
        except OSError:  # told once, here or to the other direction
            self._link.opposite(self).hold_reset()
            return False
        self._held_bytes -= size
        self.passed_bytes += size
        self.writes += 1
        self._link.moved()
        self._changed.set()
        pause = faults.slice_pause_seconds if faults.slice_bytes is not None else 0.0
        if faults.bytes_per_second is not None:
            pause = max(pause, size / faults.bytes_per_second)
        until = self._loop.time() + pause
        while (wait := until - self._loop.time()) > 0 and self.faults is faults:
            await self._change(wait)
        return True

    def _end(self, ending: Ending) -> None:
        if ending is Ending.RESET:
            self._link.reset()
        elif ending is Ending.CLOSE:
            self._link.close()
        else:
            self.end_for_receiver()

    def end_for_receiver(self) -> None:
        """The receiver sees the end; what still comes is dropped."""
        self._discards = True
        self._held.clear()
        self._changed.set()
        with contextlib.suppress(OSError):  # it has ended already
            self._sink.shutdown(socket.SHUT_WR)

    async def _change(self, seconds: float | None = None) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


class Link:
    """One connection through the proxy. Without `to_server.passed_bytes` and `to_client.passed_bytes` nothing has passed."""

    def __init__(self, client: socket.socket, server: socket.socket, moved: Callable[[], None]) -> None:
        self.to_server = Flow(client, server, self)
        self.to_client = Flow(server, client, self)
        self.open = True
        self.moved = moved
        self._sockets = (client, server)
        self._reset: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        flows = asyncio.gather(self.to_server.run(), self.to_client.run())
        try:
            await asyncio.wait((flows, self._reset), return_when=asyncio.FIRST_COMPLETED)
        finally:
            flows.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await flows
            finally:
                for sock in self._sockets:
                    if self._reset.done():
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    sock.close()
                self.open = False
                self.moved()

    def opposite(self, flow: Flow) -> Flow:
        return self.to_client if flow is self.to_server else self.to_server

    def reset(self) -> None:
        if not self._reset.done():
            self._reset.set_result(None)

    def close(self) -> None:
        self.to_server.end_for_receiver()
        self.to_client.end_for_receiver()


class FaultProxy:
    """`links` are all its connections, the first first; one stays in the list when it has ended."""

    def __init__(self, host: str, port: int, *, listen_host: str) -> None:
        self._target = (host, port)
        self._family = socket.AF_INET6 if ":" in listen_host else socket.AF_INET
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._to_server = Faults()
        self._to_client = Faults()
        self.links: list[Link] = []
        self._held = self._socket(listen_host, 0)  # keeps the port while nobody listens
        self.port: int = self._held.getsockname()[1]
        self._listen_host = listen_host
        self._accepting: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: set[asyncio.Event] = set()
        self._accept()

    # --- what is set

    @property
    def to_server(self) -> Faults:
        return self._to_server

    @to_server.setter
    def to_server(self, faults: Faults) -> None:
        self._to_server = faults
        self._each(lambda link: link.to_server.set_faults(faults))

    @property
    def to_client(self) -> Faults:
        return self._to_client

    @to_client.setter
    def to_client(self, faults: Faults) -> None:
        self._to_client = faults
        self._each(lambda link: link.to_client.set_faults(faults))

    def blackhole(self) -> None:
        """From now on both directions swallow everything; connections are accepted as before."""
        self.to_server = self.to_client = Faults(ending=Ending.BLACKHOLE)

    def heal(self) -> None:
        """No faults any more."""
        self.to_server = self.to_client = Faults()
        self.accept()

    def reset(self) -> None:
        """Resets every open connection, both ways."""
        self._each(Link.reset)

    def close(self) -> None:
        """Ends every open connection in order, both ways."""
        self._each(Link.close)

    def refuse(self) -> None:
        """New connections are refused; those that are open go on."""
        self._in_loop(self._refuse)

    def accept(self) -> None:
        self._in_loop(self._accept)

    # --- what is seen

    async def until(self, holds: Callable[[FaultProxy], bool], *, seconds: float = 5.0) -> None:
        """Waits for something to be so, as `lambda proxy: len(proxy.links) == 2`. Raises TimeoutError."""
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            async with asyncio.timeout(seconds):
                while not holds(self):
                    event.clear()
                    await event.wait()
        finally:
            self._waiters.discard(event)

    def wait_until(self, holds: Callable[[FaultProxy], bool], *, seconds: float = 5.0) -> None:
        """The same from another thread."""
        asyncio.run_coroutine_threadsafe(self.until(holds, seconds=seconds), self._loop).result()

    # --- its life

    async def shut(self) -> None:
        self._refuse()
        self._held.close()
        self.reset()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _each(self, change: Callable[[Link], None]) -> None:
        """Of the connections that are open."""

        def all_of_them() -> None:
            for link in self.links:
                if link.open:
                    change(link)

        self._in_loop(all_of_them)

    def _in_loop(self, change: Callable[[], None]) -> None:
        if threading.get_ident() == self._thread:
            change()
            return
        done: Future[None] = Future()

        def make() -> None:
            try:
                change()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(make)
        done.result(5)

    def _socket(self, host: str, port: int) -> socket.socket:
        sock = socket.socket(self._family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.setblocking(False)
        return sock

    def _accept(self) -> None:
        if self._listener is None:
            self._listener = self._socket(self._listen_host, self.port)
            self._listener.listen(128)
            self._accepting = self._task(self._accept_all(self._listener))

    def _refuse(self) -> None:
        if self._listener is not None and self._accepting is not None:
            self._accepting.cancel()
            self._loop.remove_reader(self._listener)  # a cancelled sock_accept lets go only a turn of the loop later
            self._listener.close()
            self._listener = self._accepting = None

    async def _accept_all(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            self._task(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a slice is a packet
        try:
            await self._loop.sock_connect(server, self._target)
        except OSError:  # nobody is there: the client can't be refused any more, so it is reset
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
            server.close()
            return
        link = Link(client, server, self._moved)
        link.to_server.set_faults(self._to_server)
        link.to_client.set_faults(self._to_client)
        self.links.append(link)
        self._moved()
        await link.run()

    def _task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _moved(self) -> None:
        for event in self._waiters:
            event.set()


@asynccontextmanager
async def fault_proxy(host: str, port: int, *, listen_host: str = "127.0.0.1") -> AsyncIterator[FaultProxy]:
    """A proxy to `host:port`, on a free port of `listen_host`, in this loop."""
    proxy = FaultProxy(host, port, listen_host=listen_host)
    try:
        yield proxy
    finally:
        await proxy.shut()


@contextmanager
def fault_proxy_in_thread(host: str, port: int, *, listen_host: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """The same in a thread of its own."""
    started: Future[tuple[FaultProxy, asyncio.Event]] = Future()

    async def serve() -> None:
        async with fault_proxy(host, port, listen_host=listen_host) as proxy:
            over = asyncio.Event()
            started.set_result((proxy, over))
            await over.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            raise

    thread = threading.Thread(target=run, name="fault-proxy")
    thread.start()
    proxy, over = started.result(5)
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(over.set)
        thread.join(5)


@contextmanager
def unanswered_port() -> Iterator[int]:
    """A port of 127.0.0.1 that takes no new connection and refuses none: a SYN to it is dropped, as by a firewall or by a
    machine that is off. Its listener accepts nothing, and its queue is full."""
    listener = socket.socket()
    waiting: list[socket.socket] = []
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        while True:
            waiting.append(socket.socket())
            waiting[-1].settimeout(0.2)  # a connection that the queue has room for is there at once
            try:
                waiting[-1].connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()[1]
    finally:
        for sock in (*waiting, listener):
            sock.close()
