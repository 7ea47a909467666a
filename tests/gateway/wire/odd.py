"""Requests that are odd and good: legal HTTP/1.1 that servers and proxies are known to read differently, and what each means.

Whatever stands behind the gateway must get each of them as it is meant: the same method, target, headers and body."""

from __future__ import annotations

from typing import NamedTuple


class Odd(NamedTuple):
    """One request. `headers` are some that must arrive with exactly these values, in this order."""

    name: str
    data: bytes
    method: str = "GET"
    target: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


def _head(method: str, target: str, *lines: bytes, version: bytes = b"1.1") -> bytes:
    start = f"{method} {target} HTTP/".encode() + version
    return b"".join(line + b"\r\n" for line in (start, b"Host: a.test", *lines)) + b"\r\n"


def _get(name: str, target: str, *lines: bytes, **headers: str) -> Odd:
    return Odd(name, _head("GET", target, *lines), "GET", target, tuple(headers.items()))


def _chunked(name: str, coded: bytes, body: bytes, *lines: bytes, method: str = "POST") -> Odd:
    head = _head(method, "/chunked", b"Transfer-Encoding: chunked", *lines)
    return Odd(name, head + coded, method, "/chunked", (), body)


def _length(method: str, body: bytes, *lines: bytes, name: str = "") -> Odd:
    head = _head(method, "/length", b"Content-Length: %d" % len(body), *lines)
    return Odd(name or f"{method} with a body", head + body, method, "/length", (), body)


# What a body would be taken for by a server that misses its end.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"

ODD: list[Odd] = [
    _get("plain", "/"),
    _get("long query", "/q?" + "x" * 8000),
    _get("thousands of parameters", "/q?" + "&".join(f"a={number}" for number in range(1800))),
    _get("order and repeats of parameters", "/q?b=2&a=1&a=1&&=&b;c=3;&a"),
    _get("escapes in a query", "/q?a=%2f%2E%2e%00%0d%0a%zz%&b=/../..//%5c"),
    _get("rare characters in a query", "/q?a={}|^`<>'\"!*()[]~$,;:@/?\\"),
    _get("an absolute URL in a query", "/q?u=http://b.test/x"),
    _get("rare characters in a path", "/-._~!$&'()*+,;=:@/a;b=c,d"),
    _get("escapes in a path", "/%41%c3%a9%20%3f%26%3b"),
    _get("a path that ends in a slash", "/a/b/"),
    _get("a path like a scheme", "/http://b.test".replace("//", "/")),
    _get("a colon first", "/:80/"),
    Odd("absolute-form", _head("GET", "http://a.test/abs?q=1"), target="/abs?q=1"),
    Odd("absolute-form without a path", _head("GET", "http://a.test")),
    Odd("absolute-form, query alone", _head("GET", "http://a.test?q=1"), target="/?q=1"),
    Odd("absolute-form, upper-case scheme and host", _head("GET", "HTTP://A.TEST/abs"), target="/abs"),
    Odd("absolute-form, https", _head("GET", "https://a.test/abs"), target="/abs"),
    Odd("absolute-form in HTTP/1.0 without Host", b"GET http://a.test/abs HTTP/1.0\r\n\r\n", target="/abs"),
    Odd("HTTP/1.0 without Host", b"GET / HTTP/1.0\r\n\r\n"),
    Odd("HTTP/1.0 keep-alive", _head("GET", "/", b"Connection: keep-alive", version=b"1.0")),
    Odd("an empty line before the request", b"\r\n" + _head("GET", "/")),
    Odd("Host without space", b"GET / HTTP/1.1\r\nHost:a.test\r\n\r\n"),
    Odd("Host with tabs", b"GET / HTTP/1.1\r\nHost:\t a.test \t\r\n\r\n"),
    Odd("Host with a port", b"GET / HTTP/1.1\r\nHost: a.test:65535\r\n\r\n"),
    Odd("Host with a dot at its end", b"GET / HTTP/1.1\r\nHost: a.test.\r\n\r\n"),
    Odd("Host that is an address", b"GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n"),
    Odd("Host last, in capitals", b"GET / HTTP/1.1\r\nX-A: 1\r\nHOST: A.TEST\r\n\r\n", headers=(("x-a", "1"),)),
    _get("an empty value", "/", b"X-Empty:", **{"x-empty": ""}),
    _get("spaces around a value", "/", b"X-Odd: \t a  b \t", **{"x-odd": "a  b"}),
    _get("a long value", "/", b"X-Long: " + b"a" * 4000, **{"x-long": "a" * 4000}),
    _get("a name in odd case", "/", b"x-oDd-CAse: v", **{"x-odd-case": "v"}),
    _get("a cookie", "/", b'Cookie: a=b; c="d e"; f', cookie='a=b; c="d e"; f'),
    _get("a range", "/", b"Range: bytes=0-,0-,5-", range="bytes=0-,0-,5-"),
    _get("conditions", "/", b'If-None-Match: W/"a", "b"', **{"if-none-match": 'W/"a", "b"'}),
    _get("a method in a header", "/", b"X-HTTP-Method-Override: DELETE", **{"x-http-method-override": "DELETE"}),
    _get("a URL in a header", "/", b"X-Original-URL: /admin", b"X-Rewrite-URL: /admin", **{"x-original-url": "/admin"}),
    _get(
        "an upgrade to HTTP/2",
        "/",
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABk",
    ),
    _get("Connection names Host", "/", b"Connection: Host"),
    _get("Connection names the framing", "/", b"Connection: Content-Length, Transfer-Encoding"),
    _get(
        "Connection twice", "/", b"Connection: X-A", b"Connection: X-B", b"X-A: 1", b"X-B: 2", b"X-C: 3", **{"x-c": "3"}
    ),
    _get(
        "hop-by-hop headers", "/", b"TE: trailers", b"Trailer: X", b"Keep-Alive: timeout=9", b"Proxy-Connection: close"
    ),
    _get("100 headers", "/", *(b"X-H%d: %d" % (number, number) for number in range(100)), **{"x-h99": "99"}),
    *(_length(method, b"abc" + SMUGGLED) for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
    Odd("a length of nothing", _head("POST", "/", b"Content-Length: 0"), "POST"),
    Odd("POST without a body", _head("POST", "/"), "POST"),
    _length("POST", b"12345", b"Connection: Content-Length", name="Connection names Content-Length"),
    _length("POST", bytes(range(256)), name="every octet"),
    _length("POST", b"\r\n\r\n" + SMUGGLED, name="line ends first in the body"),
    _length("POST", b"0\r\n\r\n" + SMUGGLED, name="a last chunk in a body with a length"),
    _length("POST", b"x" * 200_000, name="a long body"),
    Odd(
        "length with spaces",
        _head("POST", "/length", b"Content-Length: \t 3 \t") + b"abc",
        "POST",
        "/length",
        (),
        b"abc",
    ),
    *(
        _chunked(f"{method} in chunks", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc", method=method)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    ),
    _chunked("no data", b"0\r\n\r\n", b""),
    _chunked("zeros before a size", b"0003\r\nabc\r\n00000\r\n\r\n", b"abc"),
    _chunked("sizes of either case", b"A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n", b"01234567890123456789a"),
    _chunked("extensions", b'3;a=b;c="d;e\\"";f\r\nabc\r\n0;last\r\n\r\n', b"abc"),
    _chunked("an extension with spaces", b"3;\ta = b\r\nabc\r\n0\r\n\r\n", b"abc"),
    _chunked("trailers", b"3\r\nabc\r\n0\r\nX-T: 1\r\nHost: b.test\r\nContent-Length: 9\r\n\r\n", b"abc"),
    _chunked("line ends in a chunk", b"9\r\n\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n\r\n"),
    _chunked("a request in a chunk", b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), SMUGGLED),
    _chunked("the framing named by Connection", b"3\r\nabc\r\n0\r\n\r\n", b"abc", b"Connection: Transfer-Encoding"),
    _chunked("thousands of chunks", b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n", b"x" * 5000),
    Odd("CHUNKED", _head("POST", "/", b"TRANSFER-ENCODING: CHUNKED") + b"1\r\nx\r\n0\r\n\r\n", "POST", "/", (), b"x"),
    Odd(
        "chunked without space",
        _head("POST", "/", b"Transfer-Encoding:chunked") + b"1\r\nx\r\n0\r\n\r\n",
        "POST",
        "/",
        (),
        b"x",
    ),
]
