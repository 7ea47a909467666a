"""The three clients of the acceptance tests: the same calls by curl, requests and httpx, several at once.

None of them decodes a content coding: what is compared is what was on the wire."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import requests
from requests.adapters import HTTPAdapter

from tests.acceptance.calls import Answer, Call, Hop

AT_ONCE = 8
SECONDS = 60.0

Headers = Callable[[Call], tuple[tuple[str, str], ...]]
Client = Callable[[str, list[Call], Headers, Path], list[Answer]]


def _hop(status: int, headers: list[tuple[str, str]]) -> Hop:
    by_name = {name.lower(): value for name, value in headers}
    return Hop(by_name.get("x-request-id", ""), status, tuple(headers))


def _pieces(body: bytes) -> Iterator[bytes]:
    """Uneven pieces: a length that is not known makes both libraries send chunks."""
    for at in range(0, len(body), 7_001):
        yield body[at : at + 7_001]


def by_requests(origin: str, calls: list[Call], headers: Headers, directory: Path) -> list[Answer]:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", HTTPAdapter(pool_maxsize=AT_ONCE))

    def make(call: Call) -> Answer:
        data = _pieces(call.body) if call.chunked and call.body is not None else call.body
        with session.request(
            call.method,
            origin + call.target,
            headers=dict(headers(call)),
            data=data,
            allow_redirects=call.follow,
            stream=True,
            timeout=SECONDS,
        ) as last:
            # A redirect that is not followed has been read by requests itself, to see where it leads.
            body = last.content if last.is_redirect else last.raw.read(decode_content=False)
            hops = [_hop(each.status_code, list(each.raw.headers.items())) for each in (*last.history, last)]
        return Answer(tuple(hops), body)

    with session, ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(make, calls))


def by_httpx(origin: str, calls: list[Call], headers: Headers, directory: Path) -> list[Answer]:
    client = httpx.Client(trust_env=False, timeout=SECONDS, limits=httpx.Limits(max_connections=AT_ONCE))

    def make(call: Call) -> Answer:
        content = _pieces(call.body) if call.chunked and call.body is not None else call.body
        request = client.build_request(call.method, origin + call.target, headers=list(headers(call)), content=content)
        last = client.send(request, stream=True, follow_redirects=call.follow)
        try:
            body = b"".join(last.iter_raw())
        finally:
            last.close()
        hops = [
            _hop(each.status_code, [(name.decode(), value.decode("latin-1")) for name, value in each.headers.raw])
            for each in (*last.history, last)
        ]
        return Answer(tuple(hops), body)

    with client, ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(make, calls))


def by_curl(origin: str, calls: list[Call], headers: Headers, directory: Path) -> list[Answer]:
    """One curl for all of them, with its own parallel transfers."""
    blocks = []
    for call in calls:
        stem = directory / f"curl-{call.number}"
        lines = ["globoff", "path-as-is", "silent", "show-error", f"max-time = {SECONDS:.0f}", 'noproxy = "*"']
        lines += [f'url = "{origin}{call.target}"', f'output = "{stem}.body"', f'dump-header = "{stem}.head"']
        if call.method == "HEAD":
            lines.append("head")
        elif call.method != "GET" or call.body is not None:
            lines.append(f'request = "{call.method}"')
        if call.body is not None:
            stem.with_suffix(".sent").write_bytes(call.body)
            lines.append(f'data-binary = "@{stem}.sent"')
        if call.chunked:
            lines.append('header = "Transfer-Encoding: chunked"')
        if call.follow:
            lines.append("location")
        for name, value in headers(call):
            quoted = value.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'header = "{name}: {quoted}"')
        blocks.append("\n".join(lines))
    config = directory / "curl.config"
    config.write_text("\nnext\n".join(blocks))
    done = subprocess.run(
        ["curl", "--parallel", "--parallel-max", str(AT_ONCE), "--no-progress-meter", "--config", str(config)],
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return [_read_curl(directory / f"curl-{call.number}") for call in calls]


def _read_curl(stem: Path) -> Answer:
    hops = []
    heads = stem.with_suffix(".head").read_bytes()
    for head in heads.decode("latin-1").split("\r\n\r\n"):
        first, *lines = head.split("\r\n")
        if not first or first.startswith("HTTP/1.1 100"):
            continue
        pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        hops.append(_hop(int(first.split()[1]), pairs))
    body = stem.with_suffix(".body")
    # To a HEAD, curl gives the head out as well.
    return Answer(tuple(hops), body.read_bytes().removeprefix(heads) if body.exists() else b"")


CLIENTS: dict[str, Client] = {"curl": by_curl, "requests": by_requests, "httpx": by_httpx}
