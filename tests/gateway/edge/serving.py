"""A gateway whose routes are written as in the file, and requests to it, a header a line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

from ostiary.core.config import load_text
from tests.support.gateway import RunningGateway, running_gateway, talk
from tests.support.origin import Answer, Origin, answer_ok, running_origin

KEY = "sk_test_0123456789abcdef0123456789abcdef"
_FILE = """\
version: 1
{gateway}
plans:
  narrow: {{limits: [{{requests: 1, per: hour}}]}}
upstreams:
  origin: {{targets: [{{url: "http://127.0.0.1:{port}"}}]}}
routes:
{routes}
keys:
  - {{id: ak_test_1, secret: "${{SECRET}}", environment: test}}
  - {{id: ak_test_2, secret: "${{NARROW}}", environment: test, plan: narrow}}
"""
NARROW_KEY = "sk_test_fedcba9876543210fedcba9876543210"


@dataclass
class Answered:
    status: int
    lines: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.lines if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) <= 1, found
        return found[0] if found else None


@dataclass
class Served:
    gateway: RunningGateway
    origin: Origin

    async def ask(self, target: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answered:
        head = [f"{method} {target} HTTP/1.1", "Host: api.test", "Connection: close", *lines]
        if body:
            head.append(f"Content-Length: {len(body)}")
        data = await talk(self.gateway.port, "\r\n".join([*head, "", ""]).encode() + body)
        top, _, rest = data.partition(b"\r\n\r\n")
        first, *others = top.decode("latin-1").split("\r\n")
        pairs = [line.partition(": ") for line in others]
        return Answered(int(first[9:12]), [(name, value) for name, _, value in pairs], rest)


@asynccontextmanager
async def served(
    routes: str, *, gateway: str = "", answer: Answer = answer_ok, spool_directory: Path | None = None
) -> AsyncIterator[Served]:
    """`routes` are the items of the section `routes`; the only upstream is `origin`."""
    async with running_origin(answer) as origin:
        text = _FILE.format(gateway=dedent(gateway), port=origin.port, routes=indent(dedent(routes), "  "))
        settings = load_text(text, name="gateway.yaml", environment={"SECRET": KEY, "NARROW": NARROW_KEY})
        async with running_gateway(settings, spool_directory=spool_directory) as running:
            yield Served(running, origin)
        assert origin.garbled == []
