"""One pipelining connection to Redis: commands out in order, replies back in order, nothing between them and the loop.

redis-py's asyncio client costs many times as much a command (docs/decisions/0003-limits.md has the figures). What a reply
means, deadlines and reconnecting are the limiter's."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import hiredis

from ostiary.gateway.limits.redis_url import read_redis_url
from ostiary.tls import context_towards_servers

# A reply to a batch of 256 is under 4 KB; what grows past this without an end is no reply of ours.
REPLY_BYTES_MAX = 1 << 20

OnReply = Callable[[object], None]
Command = tuple[str | bytes | int, ...]


# The stubs of hiredis know tuples of one element only.
_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)


class ConnectionLost(ConnectionError):
    """The connection ended, or what came over it was no RESP."""


class ReplyRefused(Exception):
    """Redis answered with an error. `kind` is its first word (OOM, READONLY, NOAUTH ...), a bounded set."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.kind = message.split(" ", 1)[0][:32]


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is and how to be let in. Made from a URL: redis://, rediss:// or unix://. `server_name` is whom its
    certificate must be for where that is not `host`: servers that name each other do so by IP address mostly."""

    host: str
    port: int
    path: str | None
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    database: int
    tls: ssl.SSLContext | None = field(repr=False)
    server_name: str | None = None

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ValueError for a URL that is not Redis's, OSError for a certificate file that can't be read."""
        said = read_redis_url(url)
        return cls(
            host=said.host,
            port=said.port,
            path=said.path,
            username=said.username,
            password=said.password,
            database=said.database,
            tls=_tls(said.options) if said.tls else None,
            server_name=said.options.get("ssl_server_name"),
        )

    def __str__(self) -> str:
        return self.path if self.path is not None else f"{self.host}:{self.port}"


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    context = context_towards_servers(options.get("ssl_ca_certs"))
    if options.get("ssl_check_hostname", "true").lower() in {"false", "0", "no"}:
        context.check_hostname = False
    if options.get("ssl_cert_reqs") in {"none", "optional"}:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context


class RedisConnection(asyncio.Protocol):
    """`lost` is called once, when the connection has ended for whatever reason; unanswered commands get no reply then."""

    def __init__(self, lost: Callable[[RedisConnection], None]) -> None:
        self._lost = lost
        self._waiting: deque[OnReply] = deque()
        self._reader = hiredis.Reader()
        self._unfinished_bytes = 0
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, address: Address, lost: Callable[[RedisConnection], None]) -> RedisConnection:
        """Connected and let in, on the right database. Raises OSError, ssl.SSLError, ReplyRefused; bound it in time."""
        loop = asyncio.get_running_loop()
        connection = cls(lost)
        if address.path is not None:
            await loop.create_unix_connection(lambda: connection, address.path)
        else:
            await loop.create_connection(
                lambda: connection,
                address.host,
                address.port,
                ssl=address.tls,
                server_hostname=(address.server_name or address.host) if address.tls is not None else None,
            )
        try:
            if address.password is not None:
                named = (address.username,) if address.username is not None else ()
                await connection.ask(("AUTH", *named, address.password))
            if address.database:
                await connection.ask(("SELECT", address.database))
        except BaseException:
            connection.abort()
            raise
        return connection

    def send(self, command: Command, on_reply: OnReply) -> None:
        """`on_reply` gets the reply, an error of Redis as hiredis.ReplyError; it must not raise."""
        if self._transport is None:
            on_reply(ConnectionLost())
            return
        self._waiting.append(on_reply)
        self._transport.write(_pack(command))

    async def ask(self, command: Command) -> object:
        """One command off the hot path. Raises ReplyRefused, and ConnectionLost when the connection ends first."""
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def settle(value: object) -> None:
            if reply.done():
                return
            if isinstance(value, hiredis.ReplyError):
                reply.set_exception(ReplyRefused(str(value)))
            elif isinstance(value, Exception):
                reply.set_exception(value)
            else:
                reply.set_result(value)

        self.send(command, settle)
        return await reply

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def abort(self) -> None:
        """Ends the connection now; `lost` follows on the next loop turn."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            self._unfinished_bytes += len(data)
            while (reply := reader.gets()) is not False:
                self._unfinished_bytes = 0
                if not waiting:  # a reply that nobody asked for: this is not Redis
                    self.abort()
                    return
                waiting.popleft()(reply)
        except hiredis.ProtocolError:
            self.abort()
        if self._unfinished_bytes > REPLY_BYTES_MAX:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        waiting, self._waiting = self._waiting, deque()
        self._lost(self)
        for on_reply in waiting:
            on_reply(ConnectionLost())
