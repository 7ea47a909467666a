"""What a client sends is what the upstream gets, and the other way round: byte for byte, re-framed, in order."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import h11
import pytest

from ostiary.core.model import Authentication, Match, Scheme
from ostiary.core.upstream import Retries, Target, Timeouts
from tests.support.gateway import (
    KEY_ID,
    SECRET,
    RunningGateway,
    configuration,
    key,
    route,
    running_gateway,
    talk,
    upstream,
)
from tests.support.messages import parse, request
from tests.support.origin import Origin, Seen, answer_ok, answer_with


async def test_headers_and_target_pass_byte_for_byte(gateway: RunningGateway, origin: Origin) -> None:
    """Row 43: a gateway that rewrites a query or a header's spelling breaks signatures and caches behind it."""
    target = "/v1/clients?b=2&a=1&a=%2f;x=|{}^&&=&q=" + "x" * 8000
    lines = (b"x-MiXed:  spaced\tvalue  ", b"Accept: */*", b"Cookie: a=b; c=d", "X-Latin: é".encode("latin-1"))
    data = await talk(gateway.port, request(target, *lines))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    (seen,) = origin.seen
    assert seen.target == target
    assert b"\r\nx-MiXed:  spaced\tvalue  \r\n" in bytes(origin.raw[0])
    assert seen.one("cookie") == "a=b; c=d"
    assert seen.one("x-latin") == "é"
    assert seen.one("host") == f"127.0.0.1:{origin.port}"
    assert seen.one("x-forwarded-host") == "api.test"
    assert seen.one("x-forwarded-proto") == "http"
    assert seen.one("x-forwarded-for") == "127.0.0.1"
    assert seen.one("forwarded") == 'for=127.0.0.1;host="api.test";proto=http'
    assert seen.one("via") == "1.1 ostiary"


async def test_what_only_the_gateway_may_say_is_removed(gateway: RunningGateway, origin: Origin) -> None:
    """Rows 45, 46, 25: whoever could set these would be anyone, from anywhere."""
    lines = (
        b"X-Ostiary-Key: ak_live_other", b"x-ostiary-KEY: again", b"X-Ostiary-Anything: 1", b"X-Forwarded-For: 1.2.3.4",
        b"Forwarded: for=1.2.3.4", b"X-Real-IP: 1.2.3.4", b"X-API-Key: sk_live_x", b"X-Timestamp: 1", b"X-Nonce: n",
        b"X-Consumer-Id: 1.2.3.4", b"x-consumer-ID: 1.2.3.4", b"X-CONSUMER-Username: again", b"X-Consumer-Groups: again",
        b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__", b"TE: trailers", b"Keep-Alive: timeout=5",
        b"Proxy-Authorization: Basic x", b"Authorization: Bearer sk_live_misplaced",
    )  # fmt: skip
    await talk(gateway.port, request("/", *lines))
    raw = bytes(origin.raw[0]).lower()
    for gone in (
        b"ak_live_other",
        b"again",
        b"anything",
        b"1.2.3.4",
        b"sk_live",
        b"h2c",
        b"http2",
        b"trailers",
        b"timeout=5",
    ):
        assert gone not in raw
    assert origin.seen[0].one("x-forwarded-for") == "127.0.0.1"


async def test_another_authorization_passes_where_keys_are_not_asked_for(
    gateway: RunningGateway, origin: Origin
) -> None:
    """An upstream with its own users behind an open route needs their Authorization."""
    await talk(gateway.port, request("/", b"Authorization: Basic dTpw"))
    assert origin.seen[0].one("authorization") == "Basic dTpw"


@pytest.mark.parametrize(
    "listed",
    [
        "X-API-Key",
        "X-Ostiary-Key",
        "X-Forwarded-For",
        "Authorization",
        "Host",
        "Via",
        "X-Request-Id",
        "X-Consumer-Id",
        "Forwarded",
        "X-Forwarded-Host",
        "x-FORWARDED-proto",
        "Content-Length, Transfer-Encoding",
        "close, host, close",
        ",,host,",
        "Connection",
        "X-Mine;q=1, Host",
    ],
)
async def test_connection_options_remove_the_client_s_headers_and_none_of_the_gateway_s(
    listed: str, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 44: a client must not strip what the upstream trusts (CVE-2022-31813)."""
    lines = (f"Connection: close, X-Mine, {listed}".encode(), b"X-Mine: 1", b"X-Other: 2")
    await talk(gateway.port, request("/", *lines, close=False))
    (seen,) = origin.seen
    assert seen.all("x-mine") == []
    assert seen.one("x-other") == "2"
    for name in (
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "forwarded",
        "via",
        "x-request-id",
    ):
        seen.one(name)


@pytest.mark.parametrize("listed", [b"X-API-Key", b"Authorization", b"X-Ostiary-Key, X-Consumer-Id, Host"])
async def test_connection_options_take_no_key_away_and_none_from_the_upstream(listed: bytes, origin: Origin) -> None:
    """Row 44: naming a credential as hop-by-hop must neither skip the check of it nor the identity that comes of it."""
    bearer = Authentication(schemes=frozenset({Scheme.BEARER}))
    settings = configuration([upstream(origin.port)], [route(authentication=bearer)], keys=[key()])
    async with running_gateway(settings) as gateway:
        options = b"Connection: close, " + listed
        refused = await talk(gateway.port, request("/", options, close=False))
        assert refused.startswith(b"HTTP/1.1 401")
        served = await talk(gateway.port, request("/", options, b"X-API-Key: " + SECRET, close=False))
        assert served.startswith(b"HTTP/1.1 200")
    (seen,) = origin.seen
    assert seen.one("x-ostiary-key") == KEY_ID
    assert seen.all("x-api-key") == []


async def test_a_spoofed_chain_opens_no_list_of_addresses(origin: Origin) -> None:
    """Row 46: only what trusted proxies wrote counts, however long the chain before it, in whatever spelling."""
    bearer = Authentication(schemes=frozenset({Scheme.BEARER}))
    settings = configuration(
        [upstream(origin.port)],
        [route(authentication=bearer)],
        keys=[key(networks=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")))],
        trusted_proxies=(ip_network("127.0.0.0/8"),),
    )
    inside = [b"203.0.113.9", b"6.6.6.6, 203.0.113.9:4711", b"[2001:db8::1]:443", b"1.1.1.1, " * 1000 + b"203.0.113.9"]
    outside = [
        b"203.0.113.9, 6.6.6.6", b"203.0.113.9, unknown", b"203.0.113.9, _hidden", b"203.0.113.9,", b"203.0.113.9, ::1",
        b"203.0.113.9, 1.1.1.1, " + b"127.0.0.1, " * 1000 + b"127.0.0.1", b"203.0.113.009", b"203.0.113.9 6.6.6.6", b"",
        b"203.0.113.9, [::ffff:6.6.6.6]", b"::ffff:203.0.113.9%eth0", b"0xcb007109", b"3405803785",
    ]  # fmt: skip
    async with running_gateway(settings) as gateway:
        for chain, status in [*((chain, b"200") for chain in inside), *((chain, b"403") for chain in outside)]:
            lines = (b"X-Forwarded-For: " + chain, b"X-Real-IP: 203.0.113.9", b"Forwarded: for=203.0.113.9")
            answer = await talk(gateway.port, request("/", b"X-API-Key: " + SECRET, *lines))
            assert answer[9:12] == status, chain[:60]


async def test_headers_that_name_a_method_or_a_url_change_no_policy(origin: Origin) -> None:
    """Row 47: were the route found by X-Original-URL, an open route would open all the others."""
    bearer = Authentication(schemes=frozenset({Scheme.BEARER}))
    routes = [
        route("open", match=Match(path="/open/**", methods=frozenset({"GET"}))),
        route("admin", path="/admin/**", authentication=bearer),
    ]
    async with running_gateway(configuration([upstream(origin.port)], routes, keys=[key()])) as gateway:
        for line in (b"X-Original-URL: ", b"X-Rewrite-URL: ", b"X-Original-URI: ", b"X-Forwarded-Prefix: "):
            assert (await talk(gateway.port, request("/open/x", line + b"/admin/x"))).startswith(b"HTTP/1.1 200")
            assert (await talk(gateway.port, request("/admin/x", line + b"/open/x"))).startswith(b"HTTP/1.1 401")
        for line in (b"X-HTTP-Method-Override: ", b"X-HTTP-Method: ", b"X-Method-Override: "):
            assert (await talk(gateway.port, request("/open/x", line + b"DELETE"))).startswith(b"HTTP/1.1 200")
            refused = await talk(gateway.port, request("/open/x", line + b"GET", method=b"DELETE"))
            assert refused.startswith(b"HTTP/1.1 405")
    assert [(seen.method, seen.target) for seen in origin.seen] == [("GET", "/open/x")] * 7


@pytest.mark.parametrize("name", [b"Cookie", b"Range", b"Accept-Encoding", b"If-None-Match"])
async def test_a_huge_header_is_bounded_and_a_large_one_passes(
    name: bytes, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 48: 16 KiB of ranges are the upstream's to judge, 64 KiB nobody's."""
    value = b"bytes=" + b"0-," * 5000
    await talk(gateway.port, request("/", name + b": " + value))
    assert origin.seen[0].one(name.decode().lower()) == value.decode()
    refused = await talk(gateway.port, request("/", name + b": " + value * 5))
    assert refused.startswith(b"HTTP/1.1 431")
    assert len(origin.seen) == 1


async def test_a_trusted_proxy_s_word_counts_from_right_to_left(origin: Origin) -> None:
    """Row 46: the caller's address is the last one that no trusted proxy vouches for."""
    settings = configuration(
        [upstream(origin.port)], [route()], trusted_proxies=(ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))
    )
    async with running_gateway(settings) as gateway:
        await talk(gateway.port, request("/", b"X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.2.3"))
        await talk(gateway.port, request("/", b"X-Forwarded-For: 6.6.6.6, unknown, 10.1.2.3"))
        await talk(gateway.port, request("/", b"X-Forwarded-For: [2001:db8::1]:443"))
    assert origin.seen[0].one("forwarded").startswith("for=203.0.113.9;")
    assert origin.seen[0].one("x-forwarded-for") == "6.6.6.6, 203.0.113.9, 10.1.2.3, 127.0.0.1"
    assert origin.seen[1].one("forwarded").startswith("for=10.1.2.3;")
    assert origin.seen[2].one("forwarded").startswith('for="[2001:db8::1]";')


async def test_request_ids_are_kept_when_well_formed_and_made_when_not(gateway: RunningGateway, origin: Origin) -> None:
    """Support finds a call by its id: it must be on the answer, and the same upstream."""
    given, _ = parse(await talk(gateway.port, request("/", b"X-Request-Id: abc.DEF_1-2")))
    made, _ = parse(await talk(gateway.port, request("/", b"X-Request-Id: a b")))
    ids = [dict(answer.headers)[b"x-request-id"].decode() for answer in (given, made)]
    assert ids[0] == "abc.DEF_1-2"
    assert " " not in ids[1]
    assert [seen.one("x-request-id") for seen in origin.seen] == ids


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_pass_with_exact_framing(
    method: bytes, chunked: bool, gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 31, 61: any method may have a body; its bytes and its end are the same on both sides."""
    if chunked:
        sent = request(
            "/",
            b"Transfer-Encoding: chunked",
            method=method,
            body=b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
        )
    else:
        sent = request("/", b"Content-Length: 5", method=method, body=b"abcde")
    answer, body = parse(await talk(gateway.port, sent), method)
    assert (answer.status_code, body) == (200, b"ok")
    (seen,) = origin.seen
    assert (seen.method.encode(), seen.body) == (method, b"abcde")
    assert seen.all("trailer") == []
    assert len(seen.all("content-length")) + len(seen.all("transfer-encoding")) == 1


@pytest.mark.parametrize("name", ["Host", "Content-Length", "X-API-Key", "X-Ostiary-Key", "X-Consumer-Id"])
async def test_trailers_are_dropped(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 16: a trailer merged into the head would be a header that nobody checked."""
    body = b"3\r\nabc\r\n0\r\n" + name.encode() + b": evil\r\n\r\n"
    data = await talk(gateway.port, request("/", b"Transfer-Encoding: chunked", method=b"POST", body=body))
    assert data.startswith(b"HTTP/1.1 200")
    assert b"evil" not in bytes(origin.raw[0])


async def test_pipelined_requests_are_answered_in_order(gateway: RunningGateway, origin: Origin) -> None:
    """Row 27: an answer that overtakes another goes to the wrong question."""

    async def echo(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(seen.target)}\r\n\r\n{seen.target}".encode())

    origin.answer = echo
    count = 1000
    sent = b"".join(request(f"/r{number:04}", close=number == count - 1) for number in range(count))
    data = await talk(gateway.port, sent)
    assert data.count(b"HTTP/1.1 200") == count
    places = [data.index(b"/r%04d" % number) for number in range(count)]
    assert places == sorted(places)


async def test_a_client_that_half_closes_gets_its_answers(gateway: RunningGateway, origin: Origin) -> None:
    """Row 37: FIN says that no more requests come, not that the answers are unwanted."""
    data = await talk(gateway.port, request("/a", close=False) + request("/b", close=False), eof=True)
    assert data.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n", b"abcde"),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            b"x",
        ),
        (b"HTTP/1.1 404 Not Here\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 1\r\n\r\nx", b"x"),
    ],
)  # fmt: skip
async def test_answers_pass_whatever_their_framing(
    answer: bytes, body: bytes, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 100: interim answers are not taken for the answer; a body ends where its framing says."""
    origin.answer = answer_with(answer)
    response, got = parse(await talk(gateway.port, request()))
    assert got == body
    status = answer.split(b"HTTP/1.1 ")[-1].split(b"\r\n")[0]
    assert b"%d %b" % (response.status_code, response.reason) == status


async def test_an_answer_that_ends_with_the_connection_is_chunked_for_the_client(
    gateway: RunningGateway, origin: Origin
) -> None:
    """Without a length the client could not tell the end from a failure."""
    origin.answer = answer_with(b"HTTP/1.0 200 OK\r\n\r\nuntil the end", close=True)
    data = await talk(gateway.port, request("/", close=False) + request())
    assert b"transfer-encoding: chunked" in data.lower()
    assert data.count(b"HTTP/1.1 200") == 2
    old = await talk(gateway.port, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert b"chunked" not in old
    assert old.endswith(b"\r\n\r\nuntil the end")


async def test_head_has_the_head_alone(gateway: RunningGateway, origin: Origin) -> None:
    """A body after a HEAD would be read as the next answer."""
    origin.answer = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    data = await talk(gateway.port, request(method=b"HEAD", close=False) + request(method=b"HEAD"))
    assert data.count(b"HTTP/1.1 200 OK") == 2
    assert data.endswith(b"\r\n\r\n")
    assert data.count(b"Content-Length: 500") == 2
    assert len(origin.raw) == 1  # the connection was kept


async def test_set_cookie_order_and_hop_by_hop_of_answers(gateway: RunningGateway, origin: Origin) -> None:
    """Row 103: each Set-Cookie is a header of its own, in order; what concerns this hop alone stays here."""
    cookies = b"".join(b"Set-Cookie: c%d=%d\r\n" % (number, number) for number in range(100))
    origin.answer = answer_with(
        b"HTTP/1.1 200 OK\r\n"
        + cookies
        + b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n"
    )
    response, _ = parse(await talk(gateway.port, request()))
    got = [value for name, value in response.headers if name == b"set-cookie"]
    assert got == [b"c%d=%d" % (number, number) for number in range(100)]
    assert not {b"x-hop", b"keep-alive"} & {name for name, _ in response.headers}


GARBAGE = [
    b"garbage\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-A: a\x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: a\r\nContent-Type\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 099 Low\r\n\r\n",
    b"HTTP/1.1 1000 High\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 103 Early\r\n\r\n" * 1000,
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:40]))
async def test_an_answer_that_is_not_http_becomes_502(data: bytes, gateway: RunningGateway, origin: Origin) -> None:
    """Rows 99, 102: passing garbage on would let an upstream speak for other upstreams; the connection is thrown away."""
    origin.answer = answer_with(data)
    response, body = parse(await talk(gateway.port, request()))
    assert response.status_code == 502
    assert b"upstream_protocol_error" in body
    await talk(gateway.port, request())
    assert len(origin.raw) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
    ],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_an_answer_that_breaks_off_breaks_off_for_the_client(
    data: bytes, reset: bool, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 98: a short answer that looked whole would be taken for the truth."""
    origin.answer = answer_with(data, close=not reset, reset=reset)
    got = await talk(gateway.port, request("/", close=False))
    with pytest.raises((h11.RemoteProtocolError, AssertionError)):
        parse(got)
    assert not got.endswith(b"\r\n0\r\n\r\n")


async def test_a_reset_get_is_asked_once_more_and_a_post_never(origin: Origin) -> None:
    """Row 97: a POST that may have been done must not be done twice."""
    origin.answer = answer_with(b"", reset=True)
    retries = Retries(attempts=2, on=frozenset({"connect", "reset"}))
    async with running_gateway(configuration([upstream(origin.port, retries=retries)], [route()])) as gateway:
        response, _ = parse(await talk(gateway.port, request("/get")))
        assert response.status_code == 502
        assert [seen.target for seen in origin.seen] == ["/get", "/get"]
        origin.seen.clear()
        sent = request("/post", b"Content-Length: 1", method=b"POST", body=b"x")
        response, _ = parse(await talk(gateway.port, sent))
        assert response.status_code == 502
        assert [seen.target for seen in origin.seen] == ["/post"]


async def test_a_kept_connection_that_its_server_closed_costs_no_error(origin: Origin) -> None:
    """A kept connection may close in the very moment it is used: for a GET that is nobody's failure."""
    settings = configuration([upstream(origin.port, retries=Retries(attempts=1, on=frozenset()))], [route()])
    async with running_gateway(settings) as gateway:
        await talk(gateway.port, request())
        resets = iter([True])
        calls = origin.answer

        async def once(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if next(resets, False):
                writer.transport.abort()
            else:
                await calls(seen, reader, writer)

        origin.answer = once
        response, _ = parse(await talk(gateway.port, request()))
        assert response.status_code == 200


async def test_an_unreachable_target_is_502_and_another_target_is_asked_instead(origin: Origin) -> None:
    """Row 95: nothing was sent, so even a POST may go to the next target."""
    dead = Target("http", "127.0.0.1", 1)
    nameless = Target("http", "no-such-host.invalid", 80)
    for target in (dead, nameless):
        settings = configuration([upstream(targets=(target,))], [route()])
        async with running_gateway(settings) as gateway:
            response, body = parse(await talk(gateway.port, request()))
            assert response.status_code == 502
            assert b"upstream_unreachable" in body
    both = upstream(targets=(dead, Target("http", "127.0.0.1", origin.port)))
    async with running_gateway(configuration([both], [route()])) as gateway:
        for _ in range(4):
            sent = request("/", b"Content-Length: 1", method=b"POST", body=b"x")
            response, _ = parse(await talk(gateway.port, sent))
            assert response.status_code == 200
    assert [seen.body for seen in origin.seen] == [b"x"] * 4


async def test_a_silent_upstream_is_504_at_its_timeout(origin: Origin) -> None:
    """Row 96: a caller must learn in bounded time that no answer comes."""

    async def silent(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    origin.answer = silent
    timeouts = Timeouts(connect_seconds=1, first_byte_seconds=0.2, idle_seconds=0.2)
    async with running_gateway(configuration([upstream(origin.port, timeouts=timeouts)], [route()])) as gateway:
        response, body = parse(await talk(gateway.port, request()))
        assert response.status_code == 504
        assert b"upstream_timeout" in body


async def test_the_time_for_the_first_byte_runs_from_the_end_of_the_request(origin: Origin) -> None:
    """Row 96: an upstream that works on an upload for longer than pauses may be would be given up, and the upload be lost."""
    timeouts = Timeouts(connect_seconds=1, first_byte_seconds=5, idle_seconds=0.2)

    async def works(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1.0)  # its work: longer than a pause may be, and than the sweep that would notice takes
        await answer_ok(seen, reader, writer)

    origin.answer = works
    async with running_gateway(configuration([upstream(origin.port, timeouts=timeouts)], [route()])) as gateway:
        sent = request("/", b"Content-Length: 4", method=b"POST", body=b"")
        response, _ = parse(await talk(gateway.port, sent, b"body"), b"POST")
        assert response.status_code == 200


async def test_an_early_answer_reaches_the_client_and_ends_the_connection(
    gateway: RunningGateway, origin: Origin
) -> None:
    """Row 101: an upstream may refuse a body before it has it all."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(early, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with running_gateway(configuration([upstream(port)], [route()])) as gateway:
        head = request("/", b"Content-Length: 1000000", method=b"POST", close=False)
        response, body = parse(await talk(gateway.port, head + b"x" * 1000))
        assert (response.status_code, body) == (413, b"big")
        assert dict(response.headers)[b"connection"] == b"close"
    server.close()


async def test_expect_100_is_answered_once_the_body_is_wanted(gateway: RunningGateway, origin: Origin) -> None:
    """Row 29: a client that waits for 100 would wait forever; one that is refused need not send its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request("/", b"Content-Length: 5", b"Expect: 100-continue", method=b"POST"))
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    data = await asyncio.wait_for(reader.read(), 2)
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert origin.seen[0].body == b"hello"
    assert origin.seen[0].all("expect") == []
    writer.close()


async def test_connections_to_the_upstream_are_kept(gateway: RunningGateway, origin: Origin) -> None:
    """A connection per request would cost more than the gateway itself."""
    await talk(gateway.port, b"".join(request(close=number == 19) for number in range(20)))
    assert len(origin.seen) == 20
    assert len(origin.raw) == 1
