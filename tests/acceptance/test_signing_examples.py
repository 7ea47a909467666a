"""What docs/signing shows works when it is pasted. Java and Go are run by `scripts/prove signing-examples`: to fetch a JDK
(118 MB), and to build Go's own HTTP client (half a minute of CPU), would take CI longer than they tell it."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary.core.model import Authentication, Scheme
from ostiary.demo.stores import EmbeddedValkey
from tests.acceptance.signing_examples import BODY, DOCS, RUNTIMES, TARGETS, call, command_of
from tests.support.gateway import KEY_ID, SECRET, RunningGateway, configuration, key, route, running_gateway, upstream
from tests.support.origin import Origin, answer_with, running_origin

RUN_HERE = [
    "sign.py",
    *(pytest.param(name, marks=pytest.mark.full) for name in ("sign.mjs", "sign.php", "sign.sh")),
    pytest.param(
        "Sign.cs",
        marks=[
            pytest.mark.full,
            pytest.mark.skipif(shutil.which("mcs") is None, reason="needs mono-mcs, which not every Debian has"),
        ],
    ),
]


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with running_origin() as origin:
        yield origin


@pytest.fixture
async def gateway(origin: Origin, valkey_server: EmbeddedValkey) -> AsyncIterator[RunningGateway]:
    only = Authentication(schemes=frozenset({Scheme.HMAC}))
    settings = configuration(
        [upstream(origin.port)], [route(authentication=only)], keys=[key()], redis=valkey_server.url()
    )
    async with running_gateway(settings) as gateway:
        yield gateway


@pytest.mark.parametrize("name", RUN_HERE)
async def test_an_example_signs_what_it_sends(
    name: str, gateway: RunningGateway, origin: Origin, tmp_path: Path
) -> None:
    """Row 64: a customer's first call is this one."""
    command = command_of(name, tmp_path)
    for target in TARGETS:
        url = f"http://127.0.0.1:{gateway.port}{target}"
        for method, body in (("GET", ()), ("POST", (BODY,)), ("DELETE", ())):
            status, printed = await asyncio.to_thread(
                call, command, method, url, *body, key_id=KEY_ID, secret=SECRET.decode()
            )
            assert (status, printed) == (0, "200 ok\n")
            assert (origin.seen[-1].method, origin.seen[-1].target) == (method, target)
            assert origin.seen[-1].body == "".join(body).encode()
    status, printed = await asyncio.to_thread(call, command, "GET", url, key_id=KEY_ID, secret="wrong" * 8)
    assert status == 1
    assert printed.startswith("401 ")


@pytest.mark.parametrize("name", RUN_HERE)
async def test_an_example_follows_no_redirect(
    name: str, origin: Origin, gateway: RunningGateway, tmp_path: Path
) -> None:
    """A signature is for one target: at another it is of no use, and on another host it is not to be seen."""
    command = command_of(name, tmp_path)
    origin.answer = answer_with(b"HTTP/1.1 302 Found\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n")
    url = f"http://127.0.0.1:{gateway.port}/old"
    status, printed = await asyncio.to_thread(call, command, "GET", url, key_id=KEY_ID, secret=SECRET.decode())
    assert (status, printed.split()) == (1, ["302"])
    assert [seen.target for seen in origin.seen] == ["/old"]


def test_the_page_names_every_example() -> None:
    """An example that nobody finds helps nobody."""
    page = (DOCS / "README.md").read_text()
    named = set(re.findall(r"\]\((\w+\.\w+)\)", page))
    assert named >= set(RUNTIMES)
    assert {path.name for path in DOCS.iterdir()} == set(RUNTIMES) | {"README.md"}
