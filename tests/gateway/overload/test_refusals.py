"""What a caller gets that is refused in overload."""

from __future__ import annotations

import asyncio
import json

import pytest

from ostiary.gateway.overload.pressure import MEMORY_PART_MAX
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.origin import running_origin


async def refused(gateway: RunningGateway, lines: bytes) -> bytes:
    """An answer to a call that the worker has no memory for."""
    shedder = gateway.gateway._overload.shedder
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        while True:  # the sweep finds out, four times a second, that memory is not short
            shedder.memory_is(MEMORY_PART_MAX[-1])
            shedder.beat()
            writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n" + lines + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answer = head + await reader.readexactly(length)
            if b" 503 " in answer[:13]:
                return answer
    finally:
        writer.close()


@pytest.mark.parametrize("request_id", [b"", b"X-Request-Id: 7\r\n", b"X-Request-Id: a-longer.id_of-the-client\r\n"])
async def test_a_refusal_names_its_request_and_says_when_to_come_back(request_id: bytes) -> None:
    """Row 115: these answers are rendered ahead, and without their id nobody could ask about one."""
    async with (
        running_origin() as origin,
        running_gateway(configuration([upstream(origin.port)], [route()])) as gateway,
    ):
        head, _, body = (await refused(gateway, request_id)).partition(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    problem = json.loads(body)
    assert problem["code"] == "overloaded"
    assert problem["request_id"] == lines[b"X-Request-Id"].decode() != ""
    assert lines[b"Retry-After"] in (b"2", b"3", b"4")
    if request_id:
        assert problem["request_id"] in request_id.decode()
