"""What is counted of the calls of a route."""

from __future__ import annotations

import asyncio

from tests.support.gateway import RunningGateway, talk
from tests.support.messages import request
from tests.support.origin import Origin, Seen


async def test_calls_are_counted_by_their_own_method_and_status(gateway: RunningGateway, origin: Origin) -> None:
    """What counted the call before would count this one too: errors would be successes, and writes reads."""

    async def answer_as_asked(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %b X\r\nContent-Length: 0\r\n\r\n" % seen.target.removeprefix("/").encode())

    origin.answer = answer_as_asked
    calls = [("GET", "200"), ("GET", "404"), ("POST", "404"), ("POST", "201"), ("GET", "200"), ("GET", "200")]
    for method, status in calls:
        await talk(gateway.port, request(f"/{status}", method=method.encode()))
    for method, status in set(calls):
        counted = gateway.count("http_requests_total", route="all", method=method, status=status)
        assert counted == calls.count((method, status)), (method, status)
