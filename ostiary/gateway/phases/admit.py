"""admit: a checked head becomes an exchange. Who sends it, under what id, and is its path a plain one?"""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import Network
from ostiary.core.signing import character_table
from ostiary.core.usage import REQUEST_ID_BYTES_MAX
from ostiary.gateway.exchange import Exchange

# `sent.translate(_ID_TABLE) == sent` says whether it has these characters alone.
_ID_TABLE: Final = character_table(b"-._0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
HOPS_MAX: Final = 32
_TWO_DIGITS: Final = tuple(b"%02x" % number for number in range(256))


class RequestIds:
    """Ids for requests that bring none: unique over processes and restarts, and cheap (no call for chance per request)."""

    def __init__(self) -> None:
        self._process = os.urandom(6).hex().encode()
        self._next = time.time_ns() // 1000
        self._prefix = b""  # of the ids of one turn of the last two digits

    def new(self) -> bytes:
        """`<12 hex digits>-<hex number>`."""
        self._next += 1
        low = self._next & 0xFF
        if not low or not self._prefix:
            self._prefix = b"%b-%x" % (self._process, self._next >> 8)
        return self._prefix + _TWO_DIGITS[low]


def choose_request_id(sent: bytes | None, ids: RequestIds) -> bytes:
    """The client's own id if it is well formed, else a new one."""
    if sent is not None and 0 < len(sent) <= REQUEST_ID_BYTES_MAX and sent.translate(_ID_TABLE) == sent:
        return sent
    return ids.new()


def client_address(peer: str, forwarded_for: bytes | None, trusted: tuple[Network, ...]) -> str:
    """Whose call this is: the last address, from right to left, that no trusted proxy vouches for.

    `forwarded_for` is believed as far as trusted proxies wrote it: a name, a malformed entry or more than `HOPS_MAX` entries
    end the walk at the last address that was certain."""
    if not trusted or forwarded_for is None or not is_trusted(peer, trusted):
        return peer
    address = peer
    for entry in reversed(forwarded_for.split(b",")[-HOPS_MAX:]):
        parsed = _parse_address(entry.strip(b" \t"))
        if parsed is None:
            return address
        address = str(parsed)
        if not is_trusted(address, trusted):
            return address
    return address


def _parse_address(entry: bytes) -> IPv4Address | IPv6Address | None:
    """`192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`. An IPv4 address in IPv6's clothes is one; an address
    with an interface (`fe80::1%eth0`) means nothing elsewhere, and the interface may be any text."""
    text = entry.decode("ascii", "replace")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return None
        return parsed.ipv4_mapped or parsed
    return parsed


def is_trusted(address: str, trusted: tuple[Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)


def admit(exchange: Exchange, ids: RequestIds) -> None:
    """Sets `ip` and `request_id`. Raises IP_NOT_ALLOWED."""
    values = exchange.head.values
    exchange.request_id = choose_request_id(values.get(b"x-request-id"), ids)
    peer = exchange.client.peer
    trusted = exchange.snapshot.trusted_proxies
    exchange.ip = client_address(peer, values.get(b"x-forwarded-for"), trusted) if trusted else peer
    addresses = exchange.snapshot.addresses
    if addresses is not None and not addresses.allows(exchange.ip):
        raise GatewayError(
            ErrorCode.IP_NOT_ALLOWED,
            "address not among those of the gateway",
            detail="This gateway can't be called from this address.",
        )
