"""Requests that must be refused, by row of the failure matrix: what is sent, and which status is right.

MARK stands where a request carries something of its own: it must not come back in any answer."""

from __future__ import annotations

from typing import NamedTuple

MARK = b"mark-7f3a91"


class Bad(NamedTuple):
    row: int
    name: str
    data: bytes
    status: int = 400


def _get(
    *lines: bytes, target: bytes = b"/" + MARK, version: bytes = b"HTTP/1.1", host: bytes = b"Host: a.test\r\n"
) -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def _post(*lines: bytes, body: bytes = b"hello", version: bytes = b"HTTP/1.1") -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"POST /" + MARK + b" " + version + b"\r\nHost: a.test\r\n" + head + b"\r\n" + body


def _chunked(body: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked", body=body)


BAD: list[Bad] = [
    Bad(1, "CL and TE", _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    Bad(1, "TE and CL", _post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n")),
    Bad(2, "two CLs", _post(b"Content-Length: 5", b"Content-Length: 6")),
    Bad(2, "same CL twice", _post(b"Content-Length: 5", b"Content-Length: 5")),
    Bad(2, "CL list", _post(b"Content-Length: 5, 5")),
    *(
        Bad(3, f"CL {value!r}", _post(b"Content-Length: " + value))
        for value in (b"+5", b"-1", b"0x5", b"1_0", b" ", b"", b"5 5", "٥".encode(), b"5.0", b"5;")
    ),
    *(
        Bad(4, f"CL {len(value)} digits", _post(b"Content-Length: " + value))
        for value in (b"9223372036854775808", b"18446744073709551616", b"1" * 400)
    ),
    *(
        Bad(5, f"TE {value!r}", _post(b"Transfer-Encoding: " + value, body=b"0\r\n\r\n"))
        for value in (
            b"xchunked",
            b"identity",
            b"chunked, chunked",
            b"chunked, gzip",
            b"gzip, chunked",
            b"",
            b",chunked",
            b"\x0bchunked",
            b"chunked;q=1",
            b"chunked ,",
            b'"chunked"',
            b"chun ked",
        )
    ),
    Bad(5, "TE twice", _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    Bad(6, "TE in HTTP/1.0", _post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", version=b"HTTP/1.0")),
    Bad(7, "space before colon", _get(b"X-A : " + MARK)),
    Bad(7, "tab before colon", _get(b"X-A\t: " + MARK)),
    Bad(7, "space before colon of CL", _post(b"Content-Length : 5")),
    Bad(7, "leading space on first header", b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n"),
    Bad(8, "obs-fold", _get(b"X-A: 1\r\n " + MARK)),
    Bad(8, "obs-fold with tab", _get(b"X-A: 1\r\n\t" + MARK)),
    Bad(9, "bare LF endings", b"GET / HTTP/1.1\nHost: a.test\n\n"),
    Bad(9, "one bare LF", b"GET / HTTP/1.1\r\nHost: a.test\nX-A: " + MARK + b"\r\n\r\n"),
    Bad(9, "bare CR", b"GET / HTTP/1.1\r\nHost: a.test\rX-A: " + MARK + b"\r\n\r\n"),
    Bad(9, "CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n"),
    Bad(9, "LF LF at the end", b"GET / HTTP/1.1\r\nHost: a.test\r\nX-A: 1\n\n"),
    Bad(10, "NUL in value", _get(b"X-A: a\x00" + MARK)),
    Bad(10, "control in value", _get(b"X-A: a\x01" + MARK)),
    Bad(10, "DEL in value", _get(b"X-A: a\x7f" + MARK)),
    Bad(10, "NUL in X-API-Key", _get(b"X-API-Key: " + MARK + b"\x00")),
    Bad(11, "empty name", _get(b": " + MARK)),
    Bad(11, "no colon", _get(b"X-A " + MARK)),
    Bad(11, "bracket in name", _get(b"X[A: 1")),
    Bad(11, "parenthesis in name", _get(b"X(A: 1")),
    Bad(11, "non-ASCII in name", _get("Xé: 1".encode())),
    *(
        Bad(12, f"chunk size {size!r}", _chunked(size + b"\r\nhello\r\n0\r\n\r\n"))
        for size in (b"0x5", b"-1", b"+5", b"5 ", b" 5", b"\t5", b"_", b"5_0", b"0" * 16 + b"5", b"", b"g", b"5\x00")
    ),
    Bad(13, "bare LF in chunk extension", _chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n")),
    Bad(13, "NUL in chunk extension", _chunked(b"5;a\x00\r\nhello\r\n0\r\n\r\n")),
    Bad(13, "LF ends the size line", _chunked(b"5;\nhello\r\n0\r\n\r\n")),
    Bad(13, "bare CR in chunk extension", _chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n")),
    Bad(14, "64 KiB chunk extension", _chunked(b"5;" + b"a" * 65536 + b"\r\nhello\r\n0\r\n\r\n")),
    Bad(15, "chunk data too long", _chunked(b"5\r\nhello!\r\n0\r\n\r\n")),
    Bad(15, "chunk data without CRLF", _chunked(b"5\r\nhello0\r\n\r\n")),
    Bad(15, "chunk data ended by LF", _chunked(b"5\r\nhello\n0\r\n\r\n")),
    Bad(17, "64 KiB request line", _get(target=b"/" + b"a" * 65536), 414),
    Bad(17, "64 KiB request line, not ended", b"GET /" + b"a" * 65536, 414),
    Bad(18, "one header of 64 KiB", _get(b"X-A: " + b"a" * 65536), 431),
    Bad(18, "10 000 headers", _get(*(b"X-%d: 1" % number for number in range(10_000))), 431),
    Bad(18, "1 000 short headers", _get(*(b"X-%d: 1" % number for number in range(1_000))), 431),
    Bad(18, "1 MiB of headers", _get(*(b"X-%d: " % number + b"a" * 1024 for number in range(1_000))), 431),
    Bad(19, "no Host", _get(host=b"")),
    Bad(19, "two Hosts", _get(b"Host: b.test")),
    Bad(19, "same Host twice", _get(b"Host: a.test")),
    *(
        Bad(19, f"Host {value!r}", _get(host=b"Host: " + value + b"\r\n"))
        for value in (b"", b"###", b"u@h", b"h/p", b"a, b", b"a:99999", b"a:", b"a b", b"[::1", b"a:80:80", b"http://a")
    ),
    *(
        Bad(41, f"target {target!r}", _get(target=target))
        for target in (b"/%00", b"/%0d%0a", b"/%zz", b"/%", b"/%c0%af", b"/%ff", "/é".encode(), b"/a\x01")
    ),
    *(
        Bad(38, f"target {target!r}", _get(target=target))
        for target in (
            b"/a/../b",
            b"/%2e%2e/",
            b"/.%2e/",
            b"/..;/",
            b"/\\..\\",
            b"/a/..",
            b"/a/.",
            b"/./a",
            b"/a/%2E%2E/b",
            b"/a/..%2fb",
            b"/..%5c",
            b"/a%2fb",
            b"/a%5cb",
            b"/%252f",
            b"/%252e%252e/",
            b"//admin",
            b"/a//b",
        )
    ),
    Bad(42, "fragment", _get(target=b"/public#/../admin")),
    Bad(45, "underscore name", _get(b"x_ostiary_key: " + MARK)),
    Bad(24, "HTTP/0.9", b"GET /\r\n\r\n"),
    Bad(24, "HTTP/2.0", _get(version=b"HTTP/2.0"), 505),
    Bad(24, "HTTP/1.2", _get(version=b"HTTP/1.2"), 505),
    Bad(24, "HTTP/9.9", _get(version=b"HTTP/9.9"), 505),
    Bad(24, "tab after version", _get(version=b"HTTP/1.1\t")),
    Bad(24, "no version", b"GET / \r\nHost: a.test\r\n\r\n"),
    Bad(23, "unknown method", b"FOO_BAR / HTTP/1.1\r\nHost: a.test\r\n\r\n", 501),
    Bad(23, "lower-case method", b"get / HTTP/1.1\r\nHost: a.test\r\n\r\n", 501),
    Bad(22, "CONNECT", b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
    Bad(22, "TRACE", b"TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
    Bad(20, "absolute-form for another host", _get(target=b"http://b.test/")),
    Bad(21, "authority-form GET", _get(target=b"a.test:80")),
    Bad(25, "h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Bad(26, "TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))),
    Bad(26, "Redis", b"*1\r\n$4\r\nPING\r\n"),
    Bad(26, "PROXY line", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    Bad(30, "Expect: x", _post(b"Content-Length: 5", b"Expect: x"), 417),
]
