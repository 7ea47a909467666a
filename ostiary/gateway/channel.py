"""How the supervisor and its children talk: JSON lines over a socket pair, some followed by a payload of bytes.

    supervisor -> child   {"do": "start", …} + payload, {"do": "reload", "generation": n} + payload,
                          {"do": "drain", "deadline": seconds}
    child -> supervisor   {"event": "ready"}, {"event": "failed", "problem": …}, {"event": "reloaded", "generation": n},
                          {"event": "refused", "problem": …}; and every second {"event": "status", "service": {…}}

The payload is the accepted configuration, pickled, less the secrets of the control plane. The pair has no name and no other
end than these two processes, so what is read was written by the other one; and secrets of the configuration are on no disk
and in no argument list. The end of the stream tells each side, whatever happened, that the other one is gone."""

from __future__ import annotations

import asyncio
import copyreg
import io
import json
import pickle
import socket
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ostiary.core.model import Configuration

MESSAGE_BYTES_MAX = 256 * 1024  # a status of a worker; far above what one takes
PAYLOAD_BYTES_MAX = 256 * 1024 * 1024  # a configuration; 10 000 routes take about 5 MB


class ChannelError(Exception):
    """The other side sent something that is no message: a defect, since both sides are this program."""


class Channel:
    """One end. Not safe for two receivers at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """Takes over a connected unix socket."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MESSAGE_BYTES_MAX)
        return cls(reader, writer)

    def send(self, message: Mapping[str, object], payload: bytes = b"") -> None:
        """Queues a message; nothing happens when the other side is gone, which `receive` tells. The queue is bounded by
        what is sent: a start, a reload that waits for its answer, a drain; a status a second, each awaited by `drained`."""
        if self._writer.is_closing():
            return
        line = json.dumps({**message, "payload_bytes": len(payload)} if payload else dict(message), default=str)
        self._writer.write(line.encode("ascii") + b"\n" + payload)

    async def drained(self) -> None:
        """Returns when the other side has taken most of what was sent, or is gone."""
        try:
            await self._writer.drain()
        except ConnectionError:
            pass

    async def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next message and its payload; None when the other side is gone. Raises ChannelError."""
        try:
            line = await self._reader.readuntil(b"\n")
            message = json.loads(line)
            size = message.get("payload_bytes", 0)
            if not 0 <= size <= PAYLOAD_BYTES_MAX:
                raise ChannelError(f"a payload of {size} bytes")
            return message, await self._reader.readexactly(size) if size else b""
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except (asyncio.LimitOverrunError, ValueError, AttributeError) as error:
            raise ChannelError("not a message") from error

    @property
    def settled_descriptor(self) -> int | None:
        """The descriptor of this end, if it is open and all that was sent has left this process."""
        if self._writer.is_closing() or self._writer.transport.get_write_buffer_size():
            return None
        return int(self._writer.get_extra_info("socket").fileno())

    def close(self) -> None:
        self._writer.close()


def pack_configuration(configuration: Configuration) -> bytes:
    """What `unpack_configuration` gives back, in another process of the same program: all but what opens the control plane,
    which a process that strangers talk to has no need to know."""
    control = configuration.control_plane
    control = replace(control, operator_token=None, listen=replace(control.listen, tls=()))
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL)
    # Read-only views of mappings, which the model may hold, are the one thing in it that pickle does not know.
    pickler.dispatch_table = copyreg.dispatch_table.copy() | {MappingProxyType: _reduce_proxy}
    pickler.dump(replace(configuration, control_plane=control))
    return buffer.getvalue()


def unpack_configuration(data: bytes) -> Configuration:
    configuration = pickle.loads(data)  # noqa: S301  written by our own parent, see the top of this file
    if not isinstance(configuration, Configuration):
        raise ChannelError("the payload is not a configuration")
    return configuration


def _reduce_proxy(proxy: MappingProxyType[Any, Any]) -> tuple[type, tuple[dict[Any, Any]]]:
    return MappingProxyType, (dict(proxy),)
