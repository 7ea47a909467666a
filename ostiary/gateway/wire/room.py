"""Who may connect: so many connections in all, so many of one address, so many handshakes at once.

Counts are kept of what is connected and of nothing else, so a client can't fill them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import IntEnum, auto
from ipaddress import ip_address
from typing import Final

from ostiary.core.model import ClientLimits, Network

# So many refused clients at a time are told why, and may take up to LINGER_SECONDS to read it; the others are just closed. A
# flood costs an accept and a close each, and no descriptors.
TOLD_MAX: Final = 256

# A handshake takes tens of KiB until it ends, and about a millisecond of the processor: at this bound the processor is what
# clients wait for, not the network.
HANDSHAKES_MAX: Final = 2048

TOO_MANY: Final = "connections"
TOO_MANY_OF_ADDRESS: Final = "connections_per_address"
TOO_MANY_HANDSHAKES: Final = "handshakes"

_MAPPED: Final = "::ffff:"


def plain_address(address: str) -> str:
    """An IPv4 client of a socket that listens on both (`::ffff:192.0.2.1`) is an IPv4 client; an interface is no part of an
    address."""
    if ":" not in address:
        return address
    address = address.partition("%")[0]
    return address[len(_MAPPED) :] if address.startswith(_MAPPED) and "." in address else address


def counted_as(address: str) -> str:
    """Whose connections are counted together: those of an address; for IPv6 of a /64, which is what one customer has at
    least (RFC 6177)."""
    if ":" not in address:
        return address
    try:
        return socket.inet_pton(socket.AF_INET6, address)[:8].hex()
    except OSError:
        return address


class Place(IntEnum):
    """Which of the counts a connection is in."""

    OUTSIDE = auto()  # none
    AT_THE_DOOR = auto()  # of the refused, who are told why
    INSIDE = auto()


class Room:
    """The counts of one worker. `refused` is called with the reason of each refusal, for the metrics."""

    def __init__(self, *, limits: ClientLimits, trusted: tuple[Network, ...], refused: Callable[[str], None]) -> None:
        self._limits = limits
        self._trusted = trusted
        self._refused = refused
        self._by_address: dict[str, int] = {}
        self._total = 0
        self._told = 0

    def follow(self, limits: ClientLimits, trusted: tuple[Network, ...]) -> None:
        """Other bounds, for who comes from now on."""
        self._limits = limits
        self._trusted = trusted

    def enter(self, address: str) -> str | None:
        """Counts a connection in, or says why it may not; then it must not `leave`."""
        limits = self._limits
        whose = counted_as(address)
        of_address = self._by_address.get(whose, 0)
        if self._total >= limits.connections:
            return self.refuse(TOO_MANY)
        if of_address >= limits.connections_per_address and not self._is_trusted(address):
            return self.refuse(TOO_MANY_OF_ADDRESS)
        self._total += 1
        self._by_address[whose] = of_address + 1
        return None

    def refuse(self, reason: str) -> str:
        self._refused(reason)
        return reason

    def leave(self, address: str) -> None:
        self._total -= 1
        whose = counted_as(address)
        left = self._by_address[whose] - 1
        if left:
            self._by_address[whose] = left
        else:
            del self._by_address[whose]

    def tell(self) -> bool:
        """Whether one more refused client may be told why; then `told` must follow."""
        if self._told >= TOLD_MAX:
            return False
        self._told += 1
        return True

    def told(self) -> None:
        self._told -= 1

    def _is_trusted(self, address: str) -> bool:
        """A proxy's connections are those of all its clients. Asked at the bound alone."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)

    @property
    def total(self) -> int:
        return self._total

    @property
    def addresses(self) -> int:
        return len(self._by_address)
