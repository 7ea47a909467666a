"""A signed body, held back until its signature has verified: the upstream sees nothing of it before that.

It is hashed as it arrives. Up to `MEMORY_BYTES_MAX` it stays in memory; a longer one goes to a file that has no name, so
that nothing is left behind however the process ends. Once verified it streams from there, with the upstream's pace, and may
be sent again should an attempt fail. How much lies on disk is bounded for each worker."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from typing import Final, Protocol

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.signal import Signal

from .request_body import BodyTaker
from .request_head import Framing

MEMORY_BYTES_MAX: Final = 64 * 1024
# Of a file, at a time: some 15 µs to read and to write on. One piece a turn of the loop, so that a fast upstream that takes
# a gigabyte costs the other calls nothing.
_PIECE_BYTES: Final = 64 * 1024
# Room on the disk comes back within seconds, with the bodies that are under way.
_RETRY_SECONDS: Final = "2"


class Hash(Protocol):
    """What a body is hashed by."""

    def update(self, data: bytes, /) -> None: ...


class HeldBodies:
    """What all held bodies of a worker have on disk. `directory` should be on a disk: `/tmp` may be memory."""

    __slots__ = ("bytes_max", "bytes_on_disk", "directory", "failures")

    def __init__(self, directory: str, bytes_max: int) -> None:
        self.directory = directory
        self.bytes_max = bytes_max
        self.bytes_on_disk = 0
        self.failures = 0

    def open(self) -> int:
        """The descriptor of a new file without a name. Raises OSError."""
        directory = self.directory if os.access(self.directory, os.W_OK) else tempfile.gettempdir()
        try:
            return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # a file system that makes no files without a name
            descriptor, name = tempfile.mkstemp(prefix="ostiary-body-", dir=directory)
            os.unlink(name)
            return descriptor


class HeldBody:
    """One body. Fed as a `BodyTaker`; `arrived` is set when it is whole. `framing` is what it is sent on with: its length is
    known by then."""

    __slots__ = (
        "_bodies",
        "_closed",
        "_descriptor",
        "_failed",
        "_hashes",
        "_held",
        "_memory",
        "_sent",
        "_taker",
        "_turn_due",
        "arrived",
        "framing",
        "length",
        "whole",
    )

    def __init__(self, bodies: HeldBodies, hashes: list[Hash], failed: Callable[[GatewayError], None]) -> None:
        """`failed` is told if the file can't be read again."""
        self.arrived: Signal[None] = Signal()
        self.framing = Framing.LENGTH
        self.length = 0
        self.whole = False  # all of it was handed on
        self._bodies = bodies
        self._hashes = hashes
        self._failed = failed
        self._memory = bytearray()
        self._descriptor = -1
        self._taker: BodyTaker | None = None
        self._sent = 0
        self._held = False
        self._turn_due = False
        self._closed = False

    # --- as it arrives

    def take_body(self, piece: bytes) -> None:
        """Raises GatewayError OVERLOADED when there is no room for it on disk."""
        if self._closed:  # the call is over, and the rest of its body of no use
            return
        for each in self._hashes:
            each.update(piece)
        self.length += len(piece)
        if self._descriptor >= 0:
            self._write(piece)
            return
        self._memory += piece
        if self.length > MEMORY_BYTES_MAX:
            try:
                self._descriptor = self._bodies.open()
            except OSError as error:
                raise self._no_room(f"{error.strerror} in {self._bodies.directory}") from error
            memory, self._memory = bytes(self._memory), bytearray()
            self._write(memory)

    def end_body(self) -> None:
        self.arrived.set(None)

    def _write(self, piece: bytes) -> None:
        bodies = self._bodies
        if bodies.bytes_on_disk + len(piece) > bodies.bytes_max:
            raise self._no_room(f"signed bodies take {bodies.bytes_on_disk} bytes of disk already")
        try:
            written = os.write(self._descriptor, piece)
            bodies.bytes_on_disk += written
            while written < len(piece):  # at the edge of a full disk, a part
                more = os.write(self._descriptor, piece[written:])
                bodies.bytes_on_disk += more
                written += more
        except OSError as error:
            raise self._no_room(f"{error.strerror} in {bodies.directory}") from error

    def _no_room(self, reason: str) -> GatewayError:
        self._bodies.failures += 1
        headers = (("Retry-After", _RETRY_SECONDS),)
        return GatewayError(
            ErrorCode.OVERLOADED, f"a signed body can't be held: {reason}", headers=headers, closes=True
        )

    def _unreadable(self, reason: str) -> GatewayError:
        self._bodies.failures += 1
        return GatewayError(ErrorCode.OVERLOADED, f"a signed body can't be read from disk: {reason}")

    # --- once it is verified

    @property
    def in_memory(self) -> bytes | None:
        """The whole body, or None where it is in a file."""
        return bytes(self._memory) if self._descriptor < 0 else None

    def stream_to(self, taker: BodyTaker) -> None:
        """From its beginning, to `taker` alone: a second call is another attempt."""
        self._taker = taker
        self._sent = 0
        self._held = False
        self.whole = False
        self._pump()

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        self._take_turn()

    def _take_turn(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        try:
            self._pump()
        except GatewayError as error:
            self._failed(error)

    def _pump(self) -> None:
        """One piece to the taker; then, if there is more and it is wanted, another turn. Raises GatewayError."""
        taker = self._taker
        if self._held or self.whole or self._closed or taker is None:
            return
        try:
            piece = os.pread(self._descriptor, _PIECE_BYTES, self._sent)
        except OSError as error:
            raise self._unreadable(f"{error.strerror}") from error
        if not piece:
            raise self._unreadable("it has become shorter")
        self._sent += len(piece)
        self.whole = self._sent >= self.length
        taker.take_body(piece)
        if self.whole:
            taker.end_body()
        else:
            self._take_turn()

    def close(self) -> None:
        """Gives back what it holds. A call under way has no further use of it."""
        self._closed = True
        self._taker = None
        self._memory = bytearray()
        if self._descriptor >= 0:
            size = os.fstat(self._descriptor).st_size
            os.close(self._descriptor)
            self._descriptor = -1
            self._bodies.bytes_on_disk -= size
