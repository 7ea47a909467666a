"""Who may call, by address. A thousand networks cost what one does: a look-up for each length of prefix that occurs."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from ostiary.core.edge import AddressLists

_Prefixes = tuple[tuple[int, frozenset[int]], ...]  # bits to drop, and what is left of the networks then
_EVERYWHERE: Final[tuple[IPv4Network | IPv6Network, ...]] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


def _prefixes(networks: Iterable[IPv4Network | IPv6Network]) -> _Prefixes:
    found: dict[int, set[int]] = {}
    for network in networks:
        dropped = network.max_prefixlen - network.prefixlen
        found.setdefault(dropped, set()).add(int(network.network_address) >> dropped)
    return tuple((dropped, frozenset(kept)) for dropped, kept in sorted(found.items()))


class Networks:
    """A set of networks. An IPv4 network written as IPv6 (`::ffff:10.0.0.0/104`) is that IPv4 network, and so is an address:
    a socket that takes both families shows IPv4 clients so (RFC 4291 §2.5.5.2)."""

    __slots__ = ("_four", "_six")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        four: list[IPv4Network | IPv6Network] = []
        six: list[IPv4Network | IPv6Network] = []
        for network in networks:
            mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
            if mapped is not None and network.prefixlen >= 96:
                four.append(IPv4Network((mapped, network.prefixlen - 96)))
            else:
                (four if isinstance(network, IPv4Network) else six).append(network)
        self._four = _prefixes(four)
        self._six = _prefixes(six)

    def hold(self, address: str) -> bool:
        """False for what is no address (a unix socket has none)."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address):
            if (mapped := parsed.ipv4_mapped) is None:
                return _holds(self._six, int(parsed))
            return _holds(self._four, int(mapped))
        return _holds(self._four, int(parsed))


def _holds(prefixes: _Prefixes, number: int) -> bool:
    for dropped, kept in prefixes:  # noqa: SIM110  a generator for any() would cost more than the look-ups
        if (number >> dropped) in kept:
            return True
    return False


class AddressFilter:
    """`AddressLists`, compiled. What is no address passes no filter: it can't be held against a list."""

    __slots__ = ("_allow", "_deny")

    def __init__(self, lists: AddressLists) -> None:
        self._allow = Networks(lists.allow or _EVERYWHERE)
        self._deny = Networks(lists.deny)

    def allows(self, address: str) -> bool:
        return self._allow.hold(address) and not self._deny.hold(address)
