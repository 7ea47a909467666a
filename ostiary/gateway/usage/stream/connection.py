"""A connection to NATS: publishing with acknowledgement, JetStream's API, and pulling from a consumer.

Through `nats-py`, without its reconnecting: after a reconnection a pull is never answered (nats-io/nats.py#504), and a caller
that retries wants to know. A connection that fails is closed, and its owner makes another, with its own back-off."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from ostiary.core.usage import NatsStream
from ostiary.gateway.target_tls import client_context
from ostiary.gateway.usage.sink import SinkFailed
from ostiary.gateway.usage.stream.fitness import unfit_stream

try:
    import nats.errors
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    _FAILURES: tuple[type[Exception], ...] = (nats.errors.Error, OSError, ValueError)
    _missing: str | None = None
except ImportError as error:  # it is an extra; whoever configures a stream is told (ClientMissing)
    _missing = str(error)

CONNECT_SECONDS: Final = 5.0
# What a server may take for an answer, fsyncs and replicas included; one that takes longer hangs.
ANSWER_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 1.0
_STREAM_NOT_FOUND: Final = 10059
_CONSUMER_NOT_FOUND: Final = 10014
# "maximum bytes exceeded", "maximum messages exceeded", and no more storage for the account or the server.
_FULL: Final = frozenset((10023, 10047, 10077, 10110))

T = TypeVar("T")


class ClientMissing(Exception):
    """`nats-py` is not installed."""


def require_client() -> None:
    """Raises ClientMissing, which names the mend."""
    if _missing is not None:
        raise ClientMissing(f"usage.sink.nats needs the client of NATS: pip install 'ostiary[nats]' ({_missing})")


class StreamRefused(SinkFailed):
    """The stream, or its consumer, would lose usage, or is not there. The text names the mend."""

    def __init__(self, text: str) -> None:
        super().__init__("stream_refused", "StreamRefused", text)


class ApiError(SinkFailed):
    """JetStream said no."""

    def __init__(self, code: int, description: str) -> None:
        kind = "stream_full" if code in _FULL else "unavailable"
        super().__init__(kind, "ApiError", f"JetStream refused: {description} ({code})")
        self.code = code


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the stream. `reply` is where it is acknowledged."""

    subject: str
    payload: bytes
    reply: str
    sequence: int


class StreamConnection:
    """For one task, but for `publish`, of which several may run at once."""

    def __init__(self, client: Client, settings: NatsStream, lost: asyncio.Event) -> None:
        self._client = client
        self._settings = settings
        self._lost = lost
        self._arrived: deque[Msg] = deque()
        self._arriving = asyncio.Event()
        self._pulls: str | None = None

    @classmethod
    async def open(cls, settings: NatsStream, *, name: str) -> StreamConnection:
        """`name` is what NATS shows of the connection. Raises SinkFailed, ClientMissing, CertificateRefused."""
        require_client()
        only_tls = settings.tls is not None or any(url.startswith("tls:") for url in settings.servers)
        lost = asyncio.Event()
        client = _client(only_tls)
        last: list[Exception] = []

        async def failed(error: Exception) -> None:
            last.append(error)

        async def closed() -> None:
            lost.set()

        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await client.connect(
                    servers=[_without_user(url) for url in settings.servers],
                    name=name,
                    error_cb=failed,
                    closed_cb=closed,
                    disconnected_cb=closed,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=1,
                    connect_timeout=int(CONNECT_SECONDS),
                    tls=client_context(settings.tls, alpn=()) if only_tls else None,
                    tls_hostname=settings.tls.server_name if settings.tls is not None else None,
                    **_credentials(settings),
                    inbox_prefix=f"_INBOX_{settings.stream}",
                )
        except _FAILURES as error:
            await _abandon(client)
            why = last[-1] if last else error
            if isinstance(why, PlainText):
                raise SinkFailed("unavailable", "PlainText", str(why)) from error
            raise SinkFailed(
                "unavailable", type(why).__name__, "no connection to NATS: " + _plain_words(why)
            ) from error
        except BaseException:
            await _abandon(client)
            raise
        return cls(client, settings, lost)

    @property
    def payload_bytes_max(self) -> int:
        return min(self._settings.message_bytes_max, int(self._client.max_payload))

    async def close(self) -> None:
        await _abandon(self._client)

    async def flush(self) -> None:
        """Returns when the server has everything that was sent. Raises SinkFailed."""
        with _failures():
            await self._unless_lost(self._client.flush(timeout=int(ANSWER_SECONDS)))

    # --- JetStream's API ----------------------------------------------------------------------------------------------

    async def call(self, operation: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises ApiError and SinkFailed."""
        body = b"" if request is None else json.dumps(request).encode()
        with _failures():
            answer = await self._answer(f"$JS.API.{operation}", body, {})
        return _told(answer.data)

    async def stream(self) -> dict[str, Any]:
        """What the server tells of the stream. Raises StreamRefused if it is not there, or would lose usage; and
        SinkFailed."""
        try:
            told = await self.call(f"STREAM.INFO.{self._settings.stream}")
        except ApiError as error:
            if error.code == _STREAM_NOT_FOUND:
                raise StreamRefused(
                    f"there is no stream {self._settings.stream}; make it: ostiary usage stream --create -c FILE"
                ) from error
            raise
        if problems := unfit_stream(self._settings, told["config"]):
            raise StreamRefused(f"the stream {self._settings.stream} is refused: {'; '.join(problems)}")
        return told

    async def exists(self) -> bool:
        """Raises SinkFailed."""
        try:
            await self.call(f"STREAM.INFO.{self._settings.stream}")
        except ApiError as error:
            if error.code == _STREAM_NOT_FOUND:
                return False
            raise
        return True

    async def consumer(self, name: str) -> dict[str, Any] | None:
        """What the server tells of a consumer; None if there is none of that name. Raises SinkFailed."""
        try:
            return await self.call(f"CONSUMER.INFO.{self._settings.stream}.{name}")
        except ApiError as error:
            if error.code == _CONSUMER_NOT_FOUND:
                return None
            raise

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, subject: str, payload: bytes, message_id: str) -> bool:
        """Returns once the stream has stored it; False if it knew this id already. Raises ApiError and SinkFailed."""
        headers = {"Nats-Msg-Id": message_id, "Nats-Expected-Stream": self._settings.stream}
        with _failures():
            answer = await self._answer(subject, payload, headers)
        told = _told(answer.data)
        if told.get("stream") != self._settings.stream:
            raise SinkFailed("stream_refused", "PubAck", "another stream took it")
        return not told.get("duplicate", False)

    async def _answer(self, subject: str, payload: bytes, headers: dict[str, str]) -> Msg:
        return await self._unless_lost(
            self._client.request(subject, payload, timeout=ANSWER_SECONDS, headers=headers or None)
        )

    async def _unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives, unless the connection is lost before: nats-py leaves some of those who wait waiting, and cancels
        others, which is not to be taken for our own end."""
        working = asyncio.ensure_future(work)
        losing = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait({working, losing}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() or working.cancelled():
                raise ConnectionResetError("the connection to NATS was lost")
            return working.result()
        finally:
            losing.cancel()
            working.cancel()

    # --- pulling ------------------------------------------------------------------------------------------------------

    async def pull(self, consumer: str, *, count: int, wait_seconds: float | None = None) -> list[Received]:
        """Up to `count` messages: what is there now, or (with `wait_seconds`) what comes until then. Raises SinkFailed."""
        with _failures():
            if self._pulls is None:
                self._pulls = self._client.new_inbox()
                await self._client.subscribe(self._pulls, cb=self._arrive)
            wait: dict[str, Any] = {"no_wait": True} if wait_seconds is None else {"expires": int(wait_seconds * 1e9)}
            await self._client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._settings.stream}.{consumer}",
                json.dumps({"batch": count, **wait}).encode(),
                reply=self._pulls,
            )
            received: list[Received] = []
            # The server ends a pull by itself; that it does not is a connection that hangs.
            async with asyncio.timeout((wait_seconds or 0) + ANSWER_SECONDS):
                while len(received) < count:
                    message = await self._next_arrival()
                    headers = message.headers or {}
                    status = headers.get("Status")
                    if status is None:
                        sequence = message.metadata.sequence.stream
                        received.append(Received(message.subject, message.data, message.reply, sequence))
                    elif status in ("404", "408"):  # the end of a pull: no more messages, or its time is over
                        break
                    elif status != "100":  # a heartbeat
                        if received:
                            break
                        reason = f"NATS ended a pull: {headers.get('Description', '')} ({status})"
                        raise SinkFailed("unavailable", "PullEnded", reason)
        return received

    async def say(self, received: list[Received], word: bytes) -> None:
        """`+ACK`, `-NAK`, `+WPI` (in work) to each. Raises SinkFailed."""
        with _failures():
            for message in received:
                await self._client.publish(message.reply, word)

    async def _arrive(self, message: Msg) -> None:
        self._arrived.append(message)
        self._arriving.set()

    async def _next_arrival(self) -> Msg:
        while not self._arrived:
            self._arriving.clear()
            await self._unless_lost(self._arriving.wait())
        return self._arrived.popleft()


class PlainText(ConnectionError):
    """The server does not offer TLS, which was asked for."""


def _client(only_tls: bool) -> Client:
    """A client. If TLS was asked for and a server does not offer it, it ends before a password is sent: nats-py would go on
    in plain text."""
    client = Client()
    connect: Callable[[], bytes] = client._connect_command

    def checked() -> bytes:
        writer = getattr(client._transport, "_io_writer", None)
        if only_tls and (writer is None or writer.get_extra_info("ssl_object") is None):
            raise PlainText("the server of NATS does not offer TLS; configure its `tls`, or write nats:// without tls:")
        return connect()

    # The last step before credentials are sent; a test holds that it is asked.
    client._connect_command = checked  # type: ignore[method-assign]  # see above
    return client


async def _abandon(client: Client) -> None:
    """Closes; at once if the server hangs. What of the other tasks of the client is under way ends with it."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()
    except _FAILURES:
        pass


def _told(answer: bytes) -> dict[str, Any]:
    try:
        told = json.loads(answer)
    except ValueError as error:
        raise SinkFailed("unavailable", "BadAnswer", "NATS answered what is no JSON") from error
    if "error" in told:
        refusal = told["error"]
        raise ApiError(int(refusal.get("err_code") or refusal.get("code") or 0), str(refusal.get("description", "")))
    return dict(told)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:  # TimeoutError among them
        raise SinkFailed("unavailable", type(error).__name__, _plain_words(error)) from error


def _plain_words(error: Exception) -> str:
    """Without what could hold a password: texts of the system and of the client, which quote no URL."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) if isinstance(error, nats.errors.Error) else type(error).__name__


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _credentials(settings: NatsStream) -> dict[str, Any]:
    """What to sign in with: the file, or what stands in the first URL that has a user. nats-py would take users and
    passwords as they are escaped there, and only for the server they stand beside, not for those it learns of."""
    if settings.credentials is not None:
        return {"user_credentials": settings.credentials}
    for parts in map(urlsplit, settings.servers):
        if parts.username and parts.password is not None:
            return {"user": unquote(parts.username), "password": unquote(parts.password)}
        if parts.username:
            return {"token": unquote(parts.username)}
    return {}
