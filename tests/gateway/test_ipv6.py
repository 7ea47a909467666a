"""IPv6: clients, proxies, hosts, and sockets for both."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from ostiary.core.model import Configuration, Network
from ostiary.gateway.listening import bind_shared, reserve
from ostiary.gateway.phases.admit import client_address
from tests.support.gateway import configuration, route, running_gateway, upstream
from tests.support.gateway_process import TinyGateway
from tests.support.origin import Origin


@asynccontextmanager
async def listening(settings: Configuration, host: str) -> AsyncIterator[int]:
    """The port of a gateway that listens on `host` as its workers do."""
    held = reserve(host, 0)
    port = int(held.getsockname()[1])
    try:
        async with running_gateway(settings, sock=bind_shared(host, port)):
            yield port
    finally:
        held.close()


async def ask(host: str, port: int, *headers: str, authority: str = "a.test") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    lines = "".join(f"{header}\r\n" for header in headers)
    writer.write(f"GET / HTTP/1.1\r\nHost: {authority}\r\n{lines}Connection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("host", "client", "shown", "node"),
    [
        ("::", "::1", "::1", '"[::1]"'),
        ("::", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1", '"[::1]"'),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ],
)
async def test_a_client_is_shown_as_what_it_is(origin: Origin, host: str, client: str, shown: str, node: str) -> None:
    """`::` is for both; an upstream, a log or a list that reads `::ffff:127.0.0.1` takes it for somebody else."""
    settings = configuration([upstream(origin.port)], [route()])
    async with listening(settings, host) as port:
        assert (await ask(client, port)).startswith(b"HTTP/1.1 200")
    (seen,) = origin.seen
    assert seen.one("x-forwarded-for") == shown
    assert f"for={node};" in seen.one("forwarded")


@pytest.mark.parametrize("host", ["[::1]", "[2001:DB8::1]:8080"])
async def test_an_address_in_brackets_is_a_host(origin: Origin, host: str) -> None:
    """RFC 3986 §3.2.2: the brackets belong to it."""
    settings = configuration([upstream(origin.port)], [route()])
    async with listening(settings, "127.0.0.1") as port:
        assert (await ask("127.0.0.1", port, authority=host)).startswith(b"HTTP/1.1 200")
    (seen,) = origin.seen
    assert seen.one("x-forwarded-host") == host
    assert f'host="{host}"' in seen.one("forwarded")


@pytest.mark.parametrize(
    "host", ["[:::1]", "[1]", "[::g]", "[1.2.3.4]", "[fe80::1%eth0]", "::1", "[::1]]", "[::12345]"]
)
async def test_what_looks_like_an_address_and_is_none_is_refused(origin: Origin, host: str) -> None:
    """Row 19: two servers would read two hosts in it."""
    settings = configuration([upstream(origin.port)], [route()])
    async with listening(settings, "127.0.0.1") as port:
        assert (await ask("127.0.0.1", port, authority=host)).startswith(b"HTTP/1.1 400")
    assert origin.seen == []


PROXIES: tuple[Network, ...] = (ip_network("::1"), ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("::1", "2001:db9::7", "2001:db9::7"),
        ("::1", "[2001:db9::7]:443", "2001:db9::7"),
        ("::1", "2001:DB9:0:0::7, [2001:db8::1]:80", "2001:db9::7"),
        ("::1", "192.0.2.1, ::ffff:10.0.0.1", "192.0.2.1"),  # a proxy that listens on both
        ("::1", "::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "192.0.2.9, fe80::1%eth0", "::1"),  # means nothing here
        ("::1", '192.0.2.9, fe80::1%"', "::1"),
        ("::1", "unknown", "::1"),
        ("2001:db9::7", "192.0.2.1", "2001:db9::7"),  # not trusted
        ("10.0.0.1", "2001:db9::7", "2001:db9::7"),
    ],
)
def test_a_proxy_names_its_client_in_any_spelling(peer: str, forwarded_for: str, client: str) -> None:
    """An address in two spellings is two clients to every limit by address."""
    assert client_address(peer, forwarded_for.encode(), PROXIES) == client


def test_the_admin_listener_and_the_port_are_told_with_brackets(tmp_path: Path) -> None:
    """`:::8080` can't be pasted anywhere."""

    class OnIpv6(TinyGateway):
        def configuration(self, *routes: str, **changes: object) -> str:
            return super().configuration(*routes, **changes).replace("host: 127.0.0.1", 'host: "::1"')

    with OnIpv6(tmp_path).wait_ready() as gateway:
        started = gateway.wait_for_log("started")
        assert started["listen"] == f"[::1]:{gateway.port}"
        assert started["admin"] == f"[::1]:{gateway.admin_port}"
        with socket.create_connection(("::1", gateway.admin_port), timeout=5) as sock:
            sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["ready"] is True
