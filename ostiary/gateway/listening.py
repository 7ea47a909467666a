"""Listening sockets: one port, held by the supervisor, served by a socket of each worker.

The kernel spreads new connections over the workers' sockets (SO_REUSEPORT), so workers share no lock and no queue, and a
worker that dies takes its own socket along: new connections go to the others at once."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys

# How long after the last SYN was let in the final ACK of a handshake may take: a round trip of a far client.
HANDSHAKE_SECONDS = 0.1

# What the kernel takes of an answer before it can be sent. Its own bound grows to 4 MiB a connection: answers to a thousand
# clients that read slowly were copied into 500 MB of its memory, and letting go of it took a worker two thirds of its time,
# while others waited 25 ms. With 128 KiB a client that reads fast costs an eighth more for a MiB, with 256 nothing.
UNSENT_BYTES_MAX = 256 * 1024

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it
# Classic BPF over a TCP segment (socket(7)): load the flags (byte 13), drop it if SYN is set, else pass it whole.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class CannotListen(Exception):
    """The address can't be used; the text says which, why, and what to do."""


def reserve(host: str, port: int) -> socket.socket:
    """A socket that holds the address for as long as it is open, and serves nothing. With port 0 the kernel chooses.

    The bind is exclusive, so an address that someone else uses is an error here, before any worker starts; then the
    socket is opened to others of this user that say SO_REUSEPORT, which are the workers. Raises CannotListen."""
    sock = _socket(host, port)
    try:
        # Connections of a predecessor in TIME_WAIT must not keep the address (SO_REUSEADDR while binding); a second
        # gateway that does the same must be refused even before our workers listen (off again once bound).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(_address(host, port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        sock.close()
        raise CannotListen(_explain(host, port, error)) from error
    return sock


def inherited(descriptor: int) -> socket.socket:
    """A socket that the program before had bound by `reserve`, and left open (see `handover`)."""
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    return sock


def bind_shared(host: str, port: int) -> socket.socket:
    """A worker's own socket on the reserved address: bound, not listening yet. Raises CannotListen."""
    sock = _socket(host, port)
    try:
        # Accepted connections inherit it: those that outlive this gateway don't keep its successor from the address. A
        # socket that listens still does (socket(7)).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)  # inherited, too
        sock.bind(_address(host, port))
    except OSError as error:
        sock.close()
        raise CannotListen(_explain(host, port, error)) from error
    sock.setblocking(False)
    return sock


def refuse_new_connections(sock: socket.socket) -> bool:
    """From now on no new handshake begins on this listening socket; those under way come to their end, and accepted
    connections are not touched. After `HANDSHAKE_SECONDS` its queue can be emptied and the socket closed without a
    client that had been let in seeing a reset, as happens to those queued when a listening socket is closed.

    A client turned away sends its SYN again after a second, when another socket of the port takes it, or none is left
    and it is refused. False where the kernel can't do it (not Linux): then closing may reset a few."""
    if not sys.platform.startswith("linux"):
        return False
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _DROP_SYN))
    try:
        sock.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_DROP_SYN), ctypes.addressof(program))
        )
    except OSError:
        return False
    return True


def _socket(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    except OSError as error:
        raise CannotListen(
            f"can't listen on {authority(host, port)}: {host!r} is not an address of this machine"
        ) from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        # `::` is every address of this machine, IPv4 too, whatever the system's default is (net.ipv6.bindv6only); its IPv4
        # clients are shown as such (wire/room.py).
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock


def _address(host: str, port: int) -> tuple[str, int]:
    return host, port


def _explain(host: str, port: int, error: OSError) -> str:
    mend = {
        errno.EADDRINUSE: "another process uses it; stop that one or choose another port",
        errno.EACCES: "ports below 1024 need the capability CAP_NET_BIND_SERVICE; choose a higher port or grant it",
        errno.EADDRNOTAVAIL: "this machine has no such address; listen on 0.0.0.0 for all",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"can't listen on {authority(host, port)}: {mend}"


def authority(host: str, port: int) -> str:
    """`host:port`, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
