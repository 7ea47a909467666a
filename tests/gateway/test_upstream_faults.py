"""What upstreams and the way to them do wrong, and exactly what a client gets then. Whatever a client gets is read by h11."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import h11
import pytest

from ostiary.core.upstream import Target, Timeouts
from ostiary.gateway.usage import NOTHING_TOLD
from ostiary.gateway.usage.segment import scan
from tests.support.fault_proxy import Ending, FaultProxy, Faults, fault_proxy
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.messages import parse, request
from tests.support.origin import OK, Answer, Origin, Seen, answer_ok, answer_with
from tests.support.waiting import MACHINE_SECONDS

QUICK = Timeouts(connect_seconds=1.0, first_byte_seconds=0.3, idle_seconds=0.3)
SWEEPS_SECONDS = 0.5 + MACHINE_SECONDS  # how late a deadline may be met: two sweeps


@pytest.fixture
async def proxy(origin: Origin) -> AsyncIterator[FaultProxy]:
    """Between gateway and origin."""
    async with fault_proxy("127.0.0.1", origin.port) as proxy:
        yield proxy


@pytest.fixture
async def gateway(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    settings = configuration([upstream(proxy.port)], [route()])
    async with running_gateway(settings, spool_directory=tmp_path / "spool") as gateway:
        yield gateway


@pytest.fixture
async def impatient(proxy: FaultProxy, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """One that gives up soon."""
    settings = configuration([upstream(proxy.port, timeouts=QUICK)], [route()])
    async with running_gateway(settings, spool_directory=tmp_path / "spool") as gateway:
        yield gateway


def incomplete(directory: Path) -> list[bool]:
    """Of each call metered so far, whether it was metered as incomplete."""
    records = [each for path in sorted((directory / "spool").iterdir()) for each in scan(path.read_bytes())[0]]
    return [record.removesuffix(NOTHING_TOLD)[-1] == 0 for record in records]  # `complete` stands before what is told


def logged(caplog: pytest.LogCaptureFixture) -> tuple[str, str]:
    """Code and reason of the one failure in the log."""
    ((code, reason),) = [
        (fields["code"], fields["reason"])
        for record in caplog.records
        if record.name == "ostiary.gateway.request" and (fields := getattr(record, "fields", None))
    ]
    return code, reason


def assert_problem(data: bytes, status: int, code: str, method: bytes = b"GET") -> None:
    response, body = parse(data, method)
    assert response.status_code == status
    assert dict(response.headers)[b"content-type"] == b"application/problem+json"
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)


def assert_broken_off(data: bytes) -> None:
    with pytest.raises((h11.RemoteProtocolError, AssertionError)):
        parse(data)


@contextmanager
def takes(seconds: float) -> Iterator[None]:
    """At least so long, and not much longer."""
    began = time.monotonic()
    yield
    assert seconds <= time.monotonic() - began <= seconds + SWEEPS_SECONDS


# --- no connection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Target("http", "127.0.0.1", 1), "ConnectionRefusedError while connecting"),
        (Target("http", "no-such-host.invalid", 80), "gaierror while looking the name up"),
        (Target("unix", "/no/such/socket", 0), "FileNotFoundError while connecting"),
    ],
)
async def test_a_target_that_is_not_there_is_502_at_once(
    target: Target, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 95: within the time to connect, with the step that failed in the log and nothing of it in the answer."""
    async with running_gateway(configuration([upstream(targets=(target,))], [route()])) as gateway:
        began = time.monotonic()
        data = await talk(gateway.port, request())
        assert time.monotonic() - began < 1.0 + SWEEPS_SECONDS
    assert_problem(data, 502, "upstream_unreachable")
    assert target.host.encode() not in data
    code, why = logged(caplog)
    assert code == "upstream_unreachable"
    assert why.startswith(f"upstream origin: {reason}: ")


# --- silence ----------------------------------------------------------------------------------------------------------


async def test_silence_instead_of_a_head_is_504(
    impatient: RunningGateway, proxy: FaultProxy, origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 96: the request arrived, the answer is lost; it may have been done, so it is asked once."""
    proxy.to_client = Faults(ending=Ending.BLACKHOLE)
    with takes(QUICK.first_byte_seconds):
        data = await talk(impatient.port, request())
    assert_problem(data, 504, "upstream_timeout")
    assert logged(caplog) == ("upstream_timeout", "upstream origin: no head of an answer within 0.3 s")
    assert len(origin.seen) == 1
    assert incomplete(tmp_path) == [False]  # of the answer that the gateway gave


async def test_a_head_that_trickles_is_504_at_the_time_for_a_head(
    impatient: RunningGateway, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 102: a byte now and then would keep a caller for ever, were each to begin the time anew."""
    proxy.to_client = Faults(slice_bytes=1, slice_pause_seconds=0.05)  # 3 s for the whole head
    with takes(QUICK.first_byte_seconds):
        data = await talk(impatient.port, request())
    assert_problem(data, 504, "upstream_timeout")


async def test_silence_within_an_upload_is_504(
    impatient: RunningGateway, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 96: what the upstream does not take stays with the client, until the pause is too long."""
    proxy.blackhole()
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    size = 32 << 20  # more than all the system's buffers on the way
    writer.write(request("/", b"Content-Length: %d" % size, method=b"POST", close=False) + bytes(size))
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 504 Upstream timeout\r\n")
    assert b"Connection: close\r\n" in head
    assert logged(caplog) == ("upstream_timeout", "upstream origin: the upload stood still for 0.3 s")
    writer.transport.abort()


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
async def test_silence_within_a_body_breaks_the_answer_off(
    framing: bytes,
    impatient: RunningGateway,
    proxy: FaultProxy,
    origin: Origin,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rows 96, 98: the head has gone out, so all there is to say is that the rest is missing; the log says why."""
    head = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"
    origin.answer = answer_with(head + b"186a0\r\n" * (b"chunked" in framing) + b"x" * 100_000)
    proxy.to_client = Faults(ending=Ending.BLACKHOLE, after_bytes=1000)
    with takes(QUICK.idle_seconds):
        data = await talk(impatient.port, request("/", close=False))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.count(b"x") > 800
    assert_broken_off(data)
    assert logged(caplog) == (
        "upstream_timeout",
        "answer broke off: no more of the body of the answer within 0.3 s",
    )
    assert incomplete(tmp_path) == [True]


# --- broken off -------------------------------------------------------------------------------------------------------

BODIES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1000,
]


@pytest.mark.parametrize(
    ("answer", "cut", "after"),
    [
        (answer, cut, after)
        for answer in BODIES
        for cut in (Ending.RESET, Ending.CLOSE, Ending.HALF_CLOSE)
        for after in (len(answer.partition(b"\r\n\r\n")[0]) + 4, 500, len(answer) - 1)
        if cut is Ending.RESET or b"HTTP/1.0" not in answer  # else that is its end
    ],
    ids=lambda value: value.name if isinstance(value, Ending) else str(value)[:40],
)
async def test_an_answer_that_is_cut_is_cut_for_the_client_and_metered_so(
    answer: bytes,
    cut: Ending,
    after: int,
    gateway: RunningGateway,
    proxy: FaultProxy,
    origin: Origin,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Row 98: by a reset or by an end that comes too soon, right after the head or one byte before the end."""
    origin.answer = answer_with(answer)
    proxy.to_client = Faults(ending=cut, after_bytes=after)
    data = await talk(gateway.port, request("/", close=False))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n") or data == b""  # a reset may overtake what was not read
    assert not data.endswith(b"\r\n0\r\n\r\n")
    assert_broken_off(data)
    code, reason = logged(caplog)
    assert code == "upstream_protocol_error"
    assert reason.startswith("answer broke off: the upstream ")
    assert incomplete(tmp_path) == [True]
    proxy.heal()
    origin.answer = answer_ok
    assert (await talk(gateway.port, request())).startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(proxy.links) == 2


@pytest.mark.parametrize("cut", [Ending.RESET, Ending.CLOSE])
async def test_an_answer_that_is_cut_within_its_head_is_502(
    cut: Ending, gateway: RunningGateway, proxy: FaultProxy, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 97: a part of an answer has come, so the call was done; not even a GET is asked again."""
    proxy.to_client = Faults(ending=cut, after_bytes=20)
    assert_problem(await talk(gateway.port, request()), 502, "upstream_protocol_error")
    assert logged(caplog)[1].endswith("the connection within the head of its answer")
    assert len(origin.seen) == 1


# --- not HTTP ---------------------------------------------------------------------------------------------------------

REFUSED = [
    b"garbage\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n HTTP/1.1 200\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 1000 High\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 20 Short\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 -20 Negative\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 O\x00K\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nX-A: a\nSet-Cookie: b\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nX-A: a\r\r\nSet-Cookie: b\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\tfolded\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello" + OK,
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + OK,
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
]
WHOLE_ALONE = [  # what is refused by more than its head, or is too long for pieces
    b"HTTP/1.1 204 No Content\r\n\r\nhello",
    b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\nhello",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000 + OK,
    b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 257 + b"Content-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
    b"a" * (1 << 20),
]  # fmt: skip


@pytest.mark.parametrize("slice_bytes", [None, 7], ids=["whole", "in pieces"])
@pytest.mark.parametrize("data", REFUSED, ids=lambda data: repr(data)[2:60])
async def test_what_is_not_http_is_502_and_its_connection_is_not_used_again(
    data: bytes, slice_bytes: int | None, gateway: RunningGateway, proxy: FaultProxy, origin: Origin
) -> None:
    """Row 99: two parsers could read it differently; and what comes after it on the same connection is nobody's answer."""
    proxy.to_client = Faults(slice_bytes=slice_bytes, slice_pause_seconds=0.001)
    await assert_refused(data, gateway, origin)


@pytest.mark.parametrize("data", WHOLE_ALONE, ids=lambda data: repr(data)[2:60])
async def test_what_is_too_much_is_502_and_its_connection_is_not_used_again(
    data: bytes, gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 99, 102: bodies where there can be none, heads and interim answers without end."""
    await assert_refused(data, gateway, origin)


async def assert_refused(data: bytes, gateway: RunningGateway, origin: Origin) -> None:
    origin.answer = answer_with(data)
    answer = await talk(gateway.port, request())
    # A 103 before the answer is the client's; h11 skips it, and reads the one answer that follows.
    assert_problem(answer, 502, "upstream_protocol_error")
    assert b"hello" not in answer
    origin.answer = answer_ok
    assert (await talk(gateway.port, request())).startswith(b"HTTP/1.1 200 OK\r\n")
    assert [seen.connection for seen in origin.seen] == [0, 1]


@pytest.mark.parametrize("reset", [False, True])
async def test_no_answer_at_all_is_502(
    reset: bool, gateway: RunningGateway, proxy: FaultProxy, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 99: an upstream that ends the connection instead of answering; a POST is not asked again."""
    proxy.to_client = Faults(ending=Ending.RESET if reset else Ending.CLOSE)
    data = await talk(gateway.port, request("/", b"Content-Length: 0", method=b"POST"))
    assert_problem(data, 502, "upstream_unreachable", b"POST")
    assert len(proxy.links) == 1
    assert logged(caplog)[1] == f"upstream origin: the upstream {'reset' if reset else 'closed'} the connection unasked"


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n", b"-1\r\n", b"0x3\r\nabc\r\n", b"3\r\nabcd\r\n", b"3\nabc\n", b"3 \r\nabc\r\n", b"3\r\nabc0\r\n\r\n",
     b"fffffffffffffffff\r\n", b"3;\x00\r\nabc\r\n", b"0\r\nX: a\x00\r\n\r\n", b"0\r\nno trailer\r\n\r\n", b"\r\n"],
)  # fmt: skip
async def test_a_bad_chunk_breaks_the_answer_off(
    chunks: bytes, gateway: RunningGateway, proxy: FaultProxy, origin: Origin, tmp_path: Path
) -> None:
    """Row 99: the head has gone out when the chunk comes; nothing that follows reaches the client."""
    good = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    origin.answer = answer_with(good + chunks + b"5\r\nnever\r\n0\r\n\r\n")
    data = await talk(gateway.port, request("/", close=False))
    assert b"never" not in data
    assert_broken_off(data)
    assert incomplete(tmp_path) == [True]
    origin.answer = answer_ok
    assert (await talk(gateway.port, request())).startswith(b"HTTP/1.1 200 OK\r\n")
    assert [seen.connection for seen in origin.seen] == [0, 1]


# --- doubt ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"GET", OK + OK),
        (b"GET", OK + b"\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx"),
        (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx"),
        (b"HEAD", OK),
        (b"GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ],
)
async def test_more_than_one_answer_is_one_answer_and_the_end_of_its_connection(
    method: bytes, answer: bytes, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 99: what stands behind an answer would be taken for the answer to the next caller."""
    origin.answer = answer_with(answer)
    for _ in range(2):
        response, body = parse(await talk(gateway.port, request(method=method)), method)
        assert response.status_code == 200
        assert body == (b"ok" if b"ok" in answer and method == b"GET" else b"")
    assert [seen.connection for seen in origin.seen] == [0, 1]


async def test_bytes_that_nobody_asked_for_end_a_kept_connection(
    gateway: RunningGateway, proxy: FaultProxy, origin: Origin
) -> None:
    """Row 99: an answer that comes late, after its request was given up, must find no other request waiting for it."""
    writers: list[asyncio.StreamWriter] = []

    async def remember(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(OK)

    origin.answer = remember
    await talk(gateway.port, request())
    assert proxy.links[0].open
    writers[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    await proxy.until(lambda proxy: not proxy.links[0].open)
    _, body = parse(await talk(gateway.port, request()))
    assert body == b"ok"


async def test_a_server_that_speaks_first_is_no_http_server(caplog: pytest.LogCaptureFixture) -> None:
    """Row 99: a mail server behind a wrong port must not get a request, nor a client its greeting."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test ESMTP\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with running_gateway(configuration([upstream(port)], [route()])) as gateway:
        data = await talk(gateway.port, request())
    assert_problem(data, 502, "upstream_protocol_error")
    assert b"mail.test" not in data
    server.close()


# --- without end ------------------------------------------------------------------------------------------------------


def endless(piece: bytes, sent: list[int], over: asyncio.Event) -> Answer:
    """Sends `piece` for as long as the connection takes it."""

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(piece)
                sent[0] += len(piece)
                await writer.drain()
        except ConnectionError:
            over.set()
            raise

    return answer


async def test_a_head_without_end_is_refused_soon(gateway: RunningGateway, origin: Origin) -> None:
    """Row 102: at 64 KiB; what the system's buffers take besides is no matter of the gateway's memory."""
    sent, over = [0], asyncio.Event()

    async def begin(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await endless(b"X-A: " + b"a" * 8000 + b"\r\n", sent, over)(seen, reader, writer)

    origin.answer = begin
    assert_problem(await talk(gateway.port, request()), 502, "upstream_protocol_error")
    await asyncio.wait_for(over.wait(), 1)
    assert sent[0] < 16 << 20


async def test_a_body_without_end_ends_with_its_client(gateway: RunningGateway, origin: Origin, tmp_path: Path) -> None:
    """Rows 102, 105: an upstream that goes on for a client that has gone costs for ever."""
    sent, over = [0], asyncio.Event()

    async def begin(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await endless(b"x" * 65536, sent, over)(seen, reader, writer)

    origin.answer = begin
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request("/", close=False))
    await asyncio.wait_for(reader.readexactly(1 << 20), 5)
    writer.transport.abort()
    await asyncio.wait_for(over.wait(), 1)
    assert incomplete(tmp_path) == [True]


async def test_a_body_that_trickles_passes_byte_by_byte(impatient: RunningGateway, origin: Origin) -> None:
    """Row 102: each byte is with the client before the next is sent, and as long as some come, no pause is too long."""
    arrived = asyncio.Semaphore(0)

    async def trickle(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for number in range(20):
            writer.write(b"%c" % (97 + number))
            await asyncio.wait_for(arrived.acquire(), 5)
            await asyncio.sleep(0.05)  # the upstream's pace: in all three times the longest pause

    origin.answer = trickle
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(request("/", close=False))
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        for number in range(20):
            assert await reader.readexactly(1) == b"%c" % (97 + number)
            arrived.release()
    writer.close()


# --- headers ----------------------------------------------------------------------------------------------------------


async def test_cookies_keep_their_order_and_what_is_for_this_hop_stays_here(
    gateway: RunningGateway, origin: Origin
) -> None:
    """Row 103: a hundred Set-Cookie are a hundred lines; what `Connection` names, and what is for this hop alone, goes."""
    cookies = [b"c%d=%d; Path=/" % (number, number) for number in range(100)]
    lines = [b"Set-Cookie: " + cookie for cookie in cookies]
    lines[50:50] = [b"X-Between: 1", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers"]
    lines += [
        b"Connection: X-Hop, keep-alive", b"Connection: x-other-hop", b"X-Hop: 1", b"x-other-hop: 2", b"X-Stays: 3",
        b"Trailer: X-T", b"Upgrade: h2c", b"Proxy-Authenticate: Basic", b"Content-Length: 2", b"Date: now",
    ]  # fmt: skip
    origin.answer = answer_with(b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(lines) + b"\r\n\r\nok")
    response, body = parse(await talk(gateway.port, request()))
    headers = list(response.headers)
    assert [value for name, value in headers if name == b"set-cookie"] == cookies
    assert {name for name, _ in headers} == {
        b"set-cookie", b"x-between", b"x-stays", b"content-length", b"date", b"connection", b"x-request-id",
    }  # fmt: skip
    assert body == b"ok"


@pytest.mark.parametrize("listed", [b"Content-Length", b"Date", b"Set-Cookie", b"close, Content-Length"])
async def test_connection_can_t_take_away_what_a_client_needs(
    listed: bytes, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 103: the length is the gateway's own word to the client, and so is the date of an answer without one."""
    origin.answer = answer_with(
        b"HTTP/1.1 200 OK\r\nConnection: " + listed + b"\r\nDate: now\r\nSet-Cookie: a\r\nContent-Length: 2\r\n\r\nok"
    )
    response, body = parse(await talk(gateway.port, request()))
    names = [name for name, _ in response.headers]
    assert names.count(b"content-length") == names.count(b"date") == 1
    assert body == b"ok"
