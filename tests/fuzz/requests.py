"""Spoiled requests. What must hold for every one of them, and for what follows it on its connection:

1. No exception, no error in the log, nothing left over when the client has gone.
2. An answer for every request or the end of the connection; never a hang, never a 5xx of our own making.
3. What reaches the upstream whole is, one for one and in order, what h11 reads in the client's bytes: method, target, headers
   but for those that are the gateway's, body. So nothing is smuggled, and nothing of a refused request arrives.
4. A refusal closes where the next request's beginning is not certain, and repeats nothing of what was sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from ostiary.core.request_paths import normalize
from tests.fuzz.judging import Message, framed_by_trailers, read_answers, read_requests
from tests.fuzz.mutation import Mutator
from tests.fuzz.stage import Finding, OriginConnection, Stage
from tests.gateway.wire.corpus import BAD, MARK
from tests.gateway.wire.odd import ODD

# Written down again, not taken from the gateway: the judge must not share its tables.
REMOVED: Final = frozenset(
    b"host content-length transfer-encoding expect authorization x-api-key x-timestamp x-nonce x-request-id via connection "
    b"x-forwarded-for keep-alive proxy-connection proxy-authorization te trailer upgrade http2-settings x-real-ip forwarded "
    b"x-forwarded-proto x-forwarded-host x-forwarded-port".split()
)
REMOVED_PREFIXES: Final = (b"x-ostiary-", b"x-consumer-")
OWN_5XX: Final = (b"501", b"505")  # a method or a version that the client made up
CLOSING: Final = (b"400", b"408", b"413", b"414", b"417", b"431", b"501", b"505")
PLAIN: Final = b"GET /last HTTP/1.1\r\nHost: a.test\r\n\r\n"
SEEDS: Final[tuple[bytes, ...]] = (
    *(bad.data for bad in BAD if len(bad.data) < 2000),
    *(odd.data for odd in ODD if len(odd.data) < 2000),
    b"GET /private/x HTTP/1.1\r\nHost: a.test\r\nX-API-Key: sk_test_0123456789abcdef0123456789abcdef\r\n\r\n",
    b"POST /private/x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /raw/a%2fb/../c HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"GET /normalize/a/../c?d=/../ HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"DELETE /get HTTP/1.1\r\nHost: a.test\r\n\r\n",
)


@dataclass(frozen=True)
class Case:
    """What a client does: the reads in which its bytes arrive, and whether it half-closes after them."""

    pieces: tuple[bytes, ...]
    eof: bool

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


def make_case(chance: Random) -> tuple[Case, int]:
    """A case, and how many requests are in it."""
    mutator = Mutator(chance, SEEDS)
    count = chance.choice((1, 1, 2, 3, 5))
    spoiled = chance.randrange(count + 1)  # one of them, or none
    parts = [chance.choice(SEEDS if number == spoiled else _GOOD) for number in range(count)]
    if spoiled < count and chance.random() < 0.9:  # some of the bad ones as they are
        parts[spoiled] = mutator.spoil(parts[spoiled])
    data = b"".join(parts) + PLAIN + chance.choice((b"", b"", b"", b"\r\n", b"\r"))
    return Case(tuple(mutator.cut(data)), chance.random() < 0.5), count + 1


_GOOD: Final = tuple(odd.data for odd in ODD if len(odd.data) < 2000 and b"HTTP/1.0" not in odd.data)


async def run_case(stage: Stage, case: Case) -> None:
    """Raises Finding, with the case in it."""

    def answer(origin: OriginConnection, message: Message) -> None:
        body = b"" if message.start == b"HEAD" else b"ok"
        stage.later(origin.transport.arrive, b"HTTP/1.1 200 OK\r\nX-Origin: yes\r\nContent-Length: 2\r\n\r\n" + body)

    stage.answer = answer
    try:
        stage.begin()
        await stage.send(case.pieces, eof=case.eof)
        if case.eof and not stage.transport.closing:
            raise Finding(f"half-closed, and still open in state {stage.client.state.name}")
        if stage.client.state.name in ("WAITING", "ANSWERING", "EARLY"):
            raise Finding(f"nothing more happens, in state {stage.client.state.name}")
        _judge(stage, case)
        await stage.end()
    except Finding as finding:
        await stage.abandon()
        raise Finding(f"{finding}\nclient got {bytes(stage.got)[-600:]!r}\n{case!r}") from finding
    except Exception as error:
        await stage.abandon()
        raise Finding(f"{error!r}\n{case!r}") from error


def _judge(stage: Stage, case: Case) -> None:
    meant = read_requests(case.data)
    methods = [message.start for message in meant]
    got = bytes(stage.got)
    # h11 stops at trailers that frame, which the gateway drops; it may admit all that stands behind them.
    more = 2 if framed_by_trailers(case.data) is None else len(case.data)
    answers = read_answers(got, [*methods, *[b"GET"] * more])
    if answers.end == "partial" and len(answers.messages) == len(methods):
        # h11 would not read the request that this answers; it may have been a HEAD.
        answers = read_answers(got, [*methods, b"HEAD"])
    if answers.end == "garbled":
        raise Finding(f"h11 would not take the answers: {answers.why}")
    if answers.end == "partial" and not stage.transport.aborted:
        raise Finding(f"an answer that is not whole, and was not broken off: {answers.why}")
    if answers.end == "interim" and len(answers.messages) < len(meant):
        raise Finding("a whole request that got a 1xx and no answer")
    relayed = 0
    for number, answer in enumerate(answers.messages):
        if (b"x-origin", b"yes") in answer.headers:
            if number >= len(meant) and framed_by_trailers(case.data) is not None:
                return
            if number >= len(meant):
                raise Finding(f"request {number} was admitted; h11 sees only {len(meant)}")
            if relayed >= len(stage.requests):
                raise Finding("an answer of the origin without a request to it")
            _compare(meant[number], stage.requests[relayed])
            relayed += 1
        else:
            _judge_refusal(answer, case, last=number == len(answers.messages) - 1)
    if relayed != len(stage.requests):
        raise Finding(f"{len(stage.requests)} requests upstream, {relayed} answers of theirs")


def _judge_refusal(answer: Message, case: Case, *, last: bool) -> None:
    headers = dict(answer.headers)
    if answer.start[:1] == b"5" and answer.start not in OWN_5XX:
        raise Finding(f"a {answer.start.decode()} of our own making")
    if MARK in answer.body or (b"x-request-id" not in case.data.lower() and MARK in repr(answer.headers).encode()):
        raise Finding("the answer repeats what was sent")
    if answer.start in CLOSING and (headers.get(b"connection") != b"close" or not last):
        raise Finding(f"a {answer.start.decode()} that does not end the connection")
    problem = json.loads(answer.body) if answer.body and b"json" in headers[b"content-type"] else None
    if problem is not None and problem["status"] != int(answer.start):
        raise Finding("status and problem differ")


def _compare(meant: Message, seen: Message) -> None:
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in meant.headers}:
        raise Finding("admitted with two framings")  # h11 takes one of them
    if seen.start != meant.start:
        raise Finding(f"method {meant.start!r} became {seen.start!r}")
    if seen.target not in _targets(meant.target):
        raise Finding(f"target {meant.target!r} became {seen.target!r}")
    if seen.body != meant.body:
        raise Finding(f"body {meant.body[:80]!r} became {seen.body[:80]!r}")
    options = {
        option.strip(b" \t")
        for name, value in meant.headers
        if name == b"connection"
        for option in value.lower().split(b",")
    }
    passing = [pair for pair in meant.headers if _passes(pair[0]) and pair[0] not in options]
    passed = [pair for pair in seen.headers if _passes(pair[0])]
    if passing != passed:
        raise Finding(f"headers {passing!r} became {passed!r}")
    for name in (b"host", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id"):
        if sum(each == name for each, _ in seen.headers) != 1:
            raise Finding(f"not one {name.decode()} upstream")


def _passes(name: bytes) -> bool:
    return name not in REMOVED and not name.startswith(REMOVED_PREFIXES)


def _targets(target: bytes) -> Sequence[bytes]:
    """What may go upstream for it: in origin-form as it came, or resolved where the route asks for it."""
    if target[:4].lower() == b"http" and b"://" in target[:8]:
        rest = target[target.index(b"://") + 3 :]
        place = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        target = rest[place:] if rest[place : place + 1] == b"/" else b"/" + rest[place:]
    path, mark, query = target.partition(b"?")
    resolved = normalize(path) if path.startswith(b"/normalize") or b"/normalize/" in path else None
    return (target,) if resolved is None else (target, resolved + mark + query)


async def run(stage: Stage, seed: int, requests: int) -> None:
    """Cases until `requests` have been sent. Raises Finding."""
    chance = Random(seed)
    sent = 0
    with stage.watching():
        while sent < requests:
            case, count = make_case(chance)
            await run_case(stage, case)
            sent += count
