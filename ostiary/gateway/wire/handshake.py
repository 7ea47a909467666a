"""A TLS handshake with a client, before there is a connection for requests.

The loop could do it by itself (`create_server(ssl=…)`); then a certificate could not change without closing the socket, a
client would be counted only after the costly part, and a handshake that fails would be seen by nobody."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import time
from typing import TYPE_CHECKING, Final, cast

from ostiary.gateway.peer_certificate import PeerCertificate, UnreadableCertificate

from .client import ClientConnection
from .pool import as_protocol
from .room import HANDSHAKES_MAX, TOO_MANY_HANDSHAKES, plain_address

if TYPE_CHECKING:
    from .surroundings import HandshakePath

logger: Final = logging.getLogger("ostiary.gateway.wire")

# What a client sends right behind its handshake is one read of the loop at most; it is not read further until it is taken.
EARLY_BYTES_MAX: Final = 256 * 1024

# As a header it must fit in what servers take for a line, 8 KiB; usual certificates are 1 to 2 KiB.
CLIENT_CERTIFICATE_BYTES_MAX: Final = 5 * 1024

OK: Final = "ok"
FAILED: Final = "failed"
TIMED_OUT: Final = "timeout"


class Handshake:
    """One client that is not yet trusted to speak TLS: an asyncio protocol in all but name (see pool.as_protocol), that gives
    its place to a ClientConnection."""

    __slots__ = ("_context", "_early", "_eof", "_lost", "_path", "_peer", "_task")

    def __init__(self, path: HandshakePath, context: ssl.SSLContext) -> None:
        self._path = path
        self._context = context
        self._peer = ""
        self._early = b""
        self._eof = False
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        path, room = self._path, self._path.room
        plain = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = plain_address(peer[0]) if isinstance(peer, tuple) else "unix"
        # Refused without a word: to say why would cost what is saved.
        if len(path.handshakes) >= HANDSHAKES_MAX:
            room.refuse(TOO_MANY_HANDSHAKES)
            plain.abort()
        elif room.enter(self._peer) is not None:
            plain.abort()
        else:
            path.handshakes.add(self)
            self._task = asyncio.get_running_loop().create_task(self._shake(plain))

    async def _shake(self, plain: asyncio.Transport) -> None:
        path = self._path
        loop = asyncio.get_running_loop()
        seconds = path.limits.head_seconds
        result = FAILED
        secured: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(seconds):
                loop.call_soon(self._hand_on, plain)
                secured = await loop.start_tls(
                    plain,
                    as_protocol(self),
                    self._context,
                    server_side=True,
                    ssl_handshake_timeout=seconds + 1,  # ours ends it first
                )
        except TimeoutError:
            result = TIMED_OUT
        except (OSError, ssl.SSLError) as error:
            logger.debug("tls_handshake_failed", extra={"fields": {"ip": self._peer, "reason": _reason(error)}})
        except asyncio.CancelledError:  # the gateway ends
            result = TIMED_OUT
        finally:
            path.handshakes.discard(self)
        line, certificate = None, None
        if secured is not None and not self._lost:
            der = secured.get_extra_info("ssl_object").getpeercert(binary_form=True)
            line = _certificate_line(der)
            if der is not None and line is not None and (certificate := self._accepted(der)) is None:
                line = None
        if secured is None or line is None:
            path.shaken(result)
            path.room.leave(self._peer)
            plain.abort()
            return
        path.shaken(OK)
        self._give_place(secured, certificate, line)

    def _accepted(self, der: bytes) -> PeerCertificate | None:
        """What OpenSSL has verified and is still good here: it asks no revocation list, and verifies nothing anew where a
        session is resumed."""
        try:
            certificate = PeerCertificate(der)
        except UnreadableCertificate as error:
            reason = f"unreadable: {error}"
        else:
            if certificate.expires_at <= time.time():
                reason = "expired"
            elif self._path.snapshot.certificates.is_revoked(certificate):
                reason = "revoked"
            else:
                return certificate
        logger.info("client_certificate_refused", extra={"fields": {"ip": self._peer, "reason": reason}})
        return None

    def _hand_on(self, plain: asyncio.Transport) -> None:
        """What was read before TLS has taken over the transport is for TLS. (No loop keeps a pause made in `connection_made`
        well: uvloop reads on, Python's own up to 3.11 does so and believes it does not.)"""
        data, self._early = self._early, b""
        protocol: object = plain.get_protocol()
        if protocol is self:  # it could not even begin
            return
        tls = cast(asyncio.BufferedProtocol, protocol)
        while data and not plain.is_closing():
            buffer = cast(memoryview, tls.get_buffer(len(data)))
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            tls.buffer_updated(count)
            data = data[count:]

    def _give_place(self, secured: asyncio.Transport, certificate: PeerCertificate | None, line: bytes) -> None:
        client = ClientConnection(self._path)
        client.enter_with(certificate, line)
        secured.set_protocol(as_protocol(client))
        client.connection_made(secured)
        if self._path.draining:
            client.end_soon(self._path.limits)
        if self._early:
            client.data_received(self._early)
        if self._eof and not client.eof_received():
            secured.close()

    def abort(self) -> None:
        """Ends it at once."""
        if self._task is not None:
            self._task.cancel()

    # --- what TLS tells before the connection has its place

    def data_received(self, data: bytes) -> None:
        """Requests that came in one flight with the end of the handshake."""
        self._early += data
        if len(self._early) > EARLY_BYTES_MAX:
            self._lost = True

    def eof_received(self) -> bool:
        self._eof = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


def _certificate_line(certificate: bytes | None) -> bytes | None:
    """The header that tells the upstream of the client's certificate (RFC 9440 §2.1), empty without one; None for a
    certificate that fits in no header."""
    if certificate is None:
        return b""
    if len(certificate) > CLIENT_CERTIFICATE_BYTES_MAX:
        return None
    return b"Client-Cert: :%b:\r\n" % base64.b64encode(certificate)


def _reason(error: Exception) -> str:
    """OpenSSL's name for it; nothing that the client sent."""
    return str(error.reason) if isinstance(error, ssl.SSLError) else type(error).__name__
