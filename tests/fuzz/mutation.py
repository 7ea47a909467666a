"""Spoils messages: bytes, tokens, lines, sizes; and cuts them into reads. One source of chance: a seed repeats it all."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

# What parsers trip over: ends of lines and what may be taken for them, separators, signs, digits of other scripts.
TOKENS: Sequence[bytes] = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\r\n",
    b"\0",
    b"\t",
    b" ",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xa0",
    b":",
    b";",
    b",",
    b"=",
    b'"',
    b"\\",
    b"#",
    b"?",
    b"%",
    b"%00",
    b"%2f",
    b"%2e",
    b"..",
    b"/../",
    b"//",
    b"*",
    b"+",
    b"-",
    b"_",
    b"0x",
    b"0",
    b"00",
    b"1",
    b"5",
    b"a",
    b"f",
    b"ffffffffffffffff",
    b"99999999999999999999",
    b"\xd9\xa5",
    b"chunked",
    b"gzip",
    b"identity",
    b"close",
    b"keep-alive",
    b"100-continue",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"http://a.test/",
    b"@",
    b"[::1]",
    b"a.test",
    b"b.test",
)
LINES: Sequence[bytes] = (
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length:5",
    b"Content-Length: 100",
    b"content-length: 05",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked",
    b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Host: b.test",
    b"Host: a.test",
    b"Host:",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Content-Length, Host",
    b"Expect: 100-continue",
    b"Expect: x",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"TE: trailers",
    b"Trailer: X",
    b"X-Forwarded-For: 1.2.3.4",
    b"X-Ostiary-Key: k",
    b"x_ostiary_key: k",
    b"X-Empty:",
    b"X-Fold: a\r\n b",
    b"NoColon",
    b": empty",
    b"X-Obs: \xe9",
    b"Via: 1.1 x",
    b"Range: bytes=0-",
    b"Date: x",
    b"Keep-Alive: timeout=1",
)
_number = re.compile(rb"[0-9]+")
_header = re.compile(rb"(?<=\r\n)[A-Za-z-]+(?=:)")


class Mutator:
    """`others` are messages to splice with."""

    def __init__(self, chance: Random, others: Sequence[bytes]) -> None:
        self._chance = chance
        self._others = others
        self._ways: Sequence[Callable[[bytes], bytes]] = (
            self._flip,
            self._insert_token,
            self._insert_token,
            self._delete,
            self._repeat,
            self._add_line,
            self._add_line,
            self._add_line,
            self._move_line,
            self._drop_line,
            self._number,
            self._number,
            self._case,
            self._rename,
            self._splice,
            self._cut,
            self._grow,
        )

    def spoil(self, data: bytes) -> bytes:
        for _ in range(self._chance.choice((1, 1, 1, 2, 2, 3, 5))):
            data = self._chance.choice(self._ways)(data)
        return data

    def cut(self, data: bytes) -> list[bytes]:
        """The reads in which it arrives."""
        chance = self._chance
        way = chance.random()
        if way < 0.5 or len(data) < 2:
            return [data] if data else []
        if way < 0.6 and len(data) < 400:
            return [data[at : at + 1] for at in range(len(data))]
        places = sorted({chance.randrange(1, len(data)) for _ in range(chance.randint(1, 5))})
        return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]

    def _place(self, data: bytes) -> int:
        """Anywhere; as often as not near the end of a line, where meaning is."""
        if self._chance.random() < 0.5 and (ends := [match.start() for match in re.finditer(rb"\r\n", data[:4096])]):
            return max(0, min(len(data), self._chance.choice(ends) + self._chance.randint(-2, 3)))
        return self._chance.randint(0, min(len(data), 4096))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = min(self._place(data), len(data) - 1)
        return data[:at] + bytes([data[at] ^ (1 << self._chance.randrange(8))]) + data[at + 1 :]

    def _insert_token(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._chance.choice(TOKENS) + data[at:]

    def _delete(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + data[at + self._chance.choice((1, 1, 2, 4, 20)) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self._place(data)
        piece = data[at : at + self._chance.randint(1, 30)]
        return data[:at] + piece * self._chance.choice((2, 2, 3, 10)) + data[at + len(piece) :]

    def _lines(self, data: bytes) -> tuple[list[bytes], bytes]:
        head, _, rest = data.partition(b"\r\n\r\n")
        return head.split(b"\r\n"), rest

    def _add_line(self, data: bytes) -> bytes:
        lines, rest = self._lines(data)
        lines.insert(self._chance.randint(1, len(lines)), self._chance.choice(LINES))
        return b"\r\n".join(lines) + b"\r\n\r\n" + rest

    def _move_line(self, data: bytes) -> bytes:
        lines, rest = self._lines(data)
        lines.insert(self._chance.randrange(len(lines)), lines.pop(self._chance.randrange(len(lines))))
        return b"\r\n".join(lines) + b"\r\n\r\n" + rest

    def _drop_line(self, data: bytes) -> bytes:
        lines, rest = self._lines(data)
        lines.pop(self._chance.randrange(len(lines)))
        return b"\r\n".join(lines) + b"\r\n\r\n" + rest

    def _number(self, data: bytes) -> bytes:
        found = list(_number.finditer(data[:4096]))
        if not found:
            return data
        match = self._chance.choice(found)
        value = int(match[0][:18])
        other = self._chance.choice(
            (
                b"%d" % (value + 1),
                b"%d" % max(0, value - 1),
                b"0",
                b"0" + match[0],
                b"+" + match[0],
                b"-1",
                b"%x" % value,
                b"0x5",
                b"4294967296",
                b"18446744073709551616",
                match[0] + b" ",
                b" " + match[0],
                b"",
            )
        )
        return data[: match.start()] + other + data[match.end() :]

    def _case(self, data: bytes) -> bytes:
        at = self._place(data)
        piece = data[at : at + 20]
        return data[:at] + (piece.swapcase() if self._chance.random() < 0.7 else piece.lower()) + data[at + 20 :]

    def _rename(self, data: bytes) -> bytes:
        found = list(_header.finditer(data[:4096]))
        if len(found) < 2:
            return data
        one, other = self._chance.choice(found), self._chance.choice(found)
        return data[: one.start()] + other[0] + data[one.end() :]

    def _splice(self, data: bytes) -> bytes:
        other = self._chance.choice(self._others)[:4096]
        return data[: self._place(data)] + other[self._place(other) :]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def _grow(self, data: bytes) -> bytes:
        at = self._place(data)
        size = self._chance.choice((100, 300, 1100, 17_000, 70_000)) if self._chance.random() < 0.1 else 40
        return data[:at] + bytes([self._chance.choice(b"aA0 ,;/%x")]) * size + data[at:]
