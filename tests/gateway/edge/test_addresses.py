"""Lists of addresses: before any key, by the address that no one can choose."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.edge import AddressLists
from ostiary.core.model import Network
from ostiary.gateway.edge.addresses import AddressFilter, Networks
from tests.gateway.edge.serving import KEY, served

ROUTES = """
- name: staff
  match: {path: "/staff/**"}
  upstream: origin
  auth: {schemes: [bearer]}
  ip: {allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.66.0.0/16]}
- name: open
  match: {path: "/open/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
"""
SPOOFS = (
    "X-Forwarded-For: 10.1.1.1",
    "Forwarded: for=10.1.1.1",
    "X-Real-IP: 10.1.1.1",
    "X-Forwarded-For: 10.1.1.1, 127.0.0.1",
    "X-Client-IP: 10.1.1.1",
    "True-Client-IP: 10.1.1.1",
)


@pytest.mark.parametrize("spoof", SPOOFS)
async def test_nobody_talks_itself_into_the_list(spoof: str) -> None:
    """Row 46: a client of no trusted proxy writes what it likes; its address is that of its connection."""
    async with served(ROUTES) as site:
        answer = await site.ask("/staff/1", spoof, f"Authorization: Bearer {KEY}")
        assert answer.status == 403
        assert b"ip_not_allowed" in answer.body
        assert site.origin.seen == []


@pytest.mark.parametrize(
    ("chain", "status"),
    [
        ("10.1.1.1", 200),
        ("198.51.100.1, 10.1.1.1", 200),
        ("10.1.1.1, 198.51.100.1", 403),  # the client's own word stands left of the proxy's
        ("10.66.1.1", 403),
        ("::ffff:10.1.1.1", 200),
        ("::ffff:10.66.1.1", 403),
        ("[2001:db8::1]:4711", 200),
        ("2001:db9::1", 403),
        ("unknown", 403),
        (", ".join(["10.1.1.1"] * 1000 + ["198.51.100.1"]), 403),
        (", ".join(["198.51.100.1"] * 1000 + ["10.1.1.1"]), 200),
    ],
)
async def test_behind_a_trusted_proxy_its_client_is_held_to_the_list(chain: str, status: int) -> None:
    """Row 46: read from the right, and an IPv4 address is one however it is written."""
    async with served(ROUTES, gateway="gateway: {trusted_proxies: [127.0.0.1]}") as site:
        forged = ("Forwarded: for=10.1.1.1", "X-Real-IP: 10.1.1.1")
        answer = await site.ask("/staff/1", f"X-Forwarded-For: {chain}", *forged, f"Authorization: Bearer {KEY}")
        assert answer.status == status


async def test_the_list_is_asked_before_the_key() -> None:
    """Row 46: else a stranger could try keys, and learn which are good."""
    async with served(ROUTES) as site:
        for credential in ("Authorization: Bearer wrong", f"Authorization: Bearer {KEY}"):
            assert (await site.ask("/staff/1", credential)).status == 403
        assert site.gateway.count("api_key_auth_attempts_total", scheme="bearer", result="accepted") == 0
        assert (await site.ask("/open/1")).status == 200


async def test_the_gateways_own_list_holds_for_every_request() -> None:
    """Row 46: also for paths of no route, whose answers would tell what there is."""
    async with served(ROUTES, gateway="gateway: {ip: {deny: [127.0.0.0/8]}}") as site:
        for target, method in (("/open/1", "GET"), ("/nothing", "GET"), ("*", "OPTIONS")):
            assert (await site.ask(target, method=method)).status == 403
        assert site.origin.seen == []


def test_what_is_no_address_passes_no_list() -> None:
    """A connection over a unix socket has none: it must not be let in because it can't be found."""
    assert not AddressFilter(AddressLists(deny=(ip_network("10.0.0.0/8"),))).allows("unix")
    assert not AddressFilter(AddressLists(allow=(ip_network("0.0.0.0/0"),))).allows("unix")


_FOUR = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda at: IPv4Network(at, strict=False))
_SIX = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda at: IPv6Network(at, strict=False))
_NETWORKS: st.SearchStrategy[list[Network]] = st.lists(st.one_of(_FOUR, _SIX), max_size=8)


@given(_NETWORKS, st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1), st.integers(0, 99), st.integers(-1, 1))
def test_networks_hold_what_ipaddress_says_they_do(
    networks: list[Network], four: int, six: int, at: int, step: int
) -> None:
    """The look-up by prefix is a second implementation of `in`; an error of one bit lets a network of strangers in."""
    if networks:  # at the edge of one of them, where an error would show
        near = networks[at % len(networks)]
        edge = int(near.network_address if at % 2 else near.broadcast_address) + step
        four, six = min(max(edge, 0), 2**32 - 1), min(max(edge, 0), 2**128 - 1)
    held = Networks(networks)
    assert held.hold(str(IPv4Address(four))) == any(IPv4Address(four) in network for network in networks)
    address = IPv6Address(six)
    if address.ipv4_mapped is None:
        assert held.hold(str(address)) == any(address in network for network in networks)


def test_a_mapped_network_is_the_network_itself() -> None:
    """Row 46: one who lists `::ffff:10.0.0.0/104` means 10.0.0.0/8, and clients of either family of sockets."""
    held = Networks([ip_network("::ffff:10.0.0.0/104")])
    assert held.hold("10.9.9.9")
    assert held.hold("::ffff:10.9.9.9")
    assert not held.hold("11.0.0.1")
