"""What is not HTTP on the HTTP port, and heads that are too large for one route."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.origin import Origin

TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.Random(1).randbytes(506)
FOREIGN = {
    "TLS hello": TLS_HELLO,
    "the first byte of a TLS hello": TLS_HELLO[:1],
    "SSLv2 hello": b"\x80\x2e\x01\x03\x01" + bytes(41),
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "Redis, inline": b"PING\r\n",
    "SMTP": b"EHLO mail.test\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "Postgres": b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    "MySQL": b"\x4a\x00\x00\x00\x0a8.0.36\x00",
    "SOCKS 5": b"\x05\x01\x00",
    "FastCGI": b"\x01\x01\x00\x01\x00\x08\x00\x00",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PROXY 1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "PROXY 2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "JSON": b'{"jsonrpc": "2.0"}\n',
    **{f"1 MiB at random, {seed}": random.Random(seed).randbytes(1 << 20) for seed in range(8)},
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_another_protocol_is_refused_within_a_second(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 26: what will never be a request must not hold a connection until its time is up."""
    try:
        answer = await talk(gateway.port, FOREIGN[name], seconds=1.0, eof=True)
    except BrokenPipeError:
        answer = b""
    assert answer == b"" or answer[9:12] in (b"400", b"414", b"431", b"501", b"505")
    assert origin.seen == []
    assert gateway.gateway.connections == set() or await until_empty(gateway)


async def until_empty(gateway: RunningGateway) -> bool:
    async with asyncio.timeout(3):
        while gateway.gateway.connections:  # noqa: ASYNC110  a set tells nobody
            await asyncio.sleep(0.01)
    return True


@pytest.mark.parametrize("name", [name for name in FOREIGN if "first byte" not in name])
async def test_it_is_refused_without_waiting_for_its_end(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 26: those that wait for an answer now (SMTP, Redis) never close by themselves."""
    try:
        answer = await talk(gateway.port, FOREIGN[name], seconds=4.0)
    except BrokenPipeError:
        answer = b""
    assert not answer.startswith(b"HTTP/1.1 2")
    assert origin.seen == []


async def test_a_head_larger_than_its_route_takes_is_refused(origin: Origin) -> None:
    """A public route may take less than one whose callers send long tokens. The head was whole, so the connection goes on."""
    routes = [route("narrow", "/narrow", head_bytes_max=2000), route("wide", "/wide")]
    async with running_gateway(configuration([upstream(origin.port)], routes)) as gateway:

        def asking(path: bytes, size: int, *, close: bool) -> bytes:
            start = (
                b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n" + (b"Connection: close\r\n" if close else b"") + b"X-A: "
            )
            return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"

        data = await talk(
            gateway.port,
            asking(b"/narrow", 2000, close=False)
            + asking(b"/narrow", 2001, close=False)
            + asking(b"/wide", 2001, close=True),
        )
    statuses = [data[at + 9 : at + 12] for at in range(len(data)) if data.startswith(b"HTTP/1.1 ", at)]
    assert statuses == [b"200", b"431", b"200"]
    assert b'"code": "headers_too_large"' in data
    assert [seen.target for seen in origin.seen] == ["/narrow", "/wide"]
