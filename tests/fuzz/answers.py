"""Spoiled answers. Whatever an upstream sends, its client gets one of three things:

1. the answer, as h11 reads it in what the upstream sent: status, headers but for those of this hop, body;
2. a 502 of the gateway;
3. the beginning of an answer, visibly broken off.

And the next request of the same client gets its own answer or a closed connection, never what was left of another."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from tests.fuzz.judging import Message, framed_by_trailers, read_answers
from tests.fuzz.mutation import Mutator
from tests.fuzz.stage import Finding, OriginConnection, Stage

REMOVED: Final = frozenset(
    b"content-length transfer-encoding connection keep-alive proxy-connection proxy-authenticate te trailer upgrade "
    b"x-request-id date".split()
)
GOOD: Final = b"HTTP/1.1 200 OK\r\nX-Origin: second\r\nContent-Length: 6\r\n\r\nsecond"
SEEDS: Final[tuple[bytes, ...]] = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n',
    b"HTTP/1.1 404 Not Found\r\nX-A: 1\r\nX-A: 2\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 4\r\n\r\ngone",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello",
    b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nServer: x\r\nRateLimit: a\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-0/9\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" + GOOD,
)


@dataclass(frozen=True)
class Case:
    """The reads in which an answer to `method` arrives, and whether its connection ends after them: by "eof", by "reset", or
    not at all ("")."""

    method: bytes
    pieces: tuple[bytes, ...]
    end: str

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


def make_case(chance: Random) -> Case:
    mutator = Mutator(chance, SEEDS)
    data = chance.choice(SEEDS)
    if chance.random() < 0.9:
        data = mutator.spoil(data)
    method = chance.choice((b"GET", b"GET", b"GET", b"POST", b"HEAD"))
    return Case(method, tuple(mutator.cut(data)), chance.choice(("eof", "eof", "reset", "")))


async def run_case(stage: Stage, case: Case) -> None:
    """Raises Finding, with the case in it."""
    answered: list[OriginConnection] = []

    def answer(origin: OriginConnection, message: Message) -> None:
        if message.target == b"/first":
            answered.append(origin)
            for piece in case.pieces:
                stage.later(origin.transport.arrive_unless_closed, piece)
            if case.end:
                stage.later(origin.transport.arrive_eof if case.end == "eof" else origin.transport.reset)
        else:
            stage.later(origin.transport.arrive_unless_closed, GOOD)

    stage.answer = answer
    try:
        stage.begin()
        body = b"Content-Length: 2\r\n\r\nhi" if case.method == b"POST" else b"\r\n"
        await stage.send([case.method + b" /first HTTP/1.1\r\nHost: a.test\r\n" + body], eof=False)
        # The rest does not come: in time, the upstream gives up. A kept connection without an answer is tried once more.
        for origin in (answered[-1] for _ in range(2)):
            if stage.client.state.name in ("WAITING", "ANSWERING"):
                if case.end and origin.transport.closing:
                    raise Finding("the upstream has gone, and the client waits on")
                origin.transport.reset()
                await stage.settle()
        alone = bytes(stage.got)
        again = not stage.transport.closing and not stage.transport.ended
        if again:
            await stage.send([b"GET /second HTTP/1.1\r\nHost: a.test\r\n\r\n"], eof=False)
        _judge(stage, case, alone, again=again)
        await stage.end()
    except Finding as finding:
        await stage.abandon()
        raise Finding(f"{finding}\nclient got {bytes(stage.got)[-600:]!r}\n{case!r}") from finding
    except Exception as error:
        await stage.abandon()
        raise Finding(f"{error!r}\n{case!r}") from error


def _judge(stage: Stage, case: Case, alone: bytes, *, again: bool) -> None:
    got = read_answers(alone, [case.method])
    if not again and got.end != "clean":
        if got.messages:
            raise Finding(f"more than an answer: {got.why}")
        if not stage.transport.aborted:
            raise Finding(f"not whole, and not broken off: {got.why}")
        return
    if got.end != "clean" or len(got.messages) != 1:
        raise Finding(f"no answer, on a connection that goes on: {got.why}")
    (answer,) = got.messages
    headers = dict(answer.headers)
    if headers.get(b"content-type") == b"application/problem+json" and b"ostiary.dev" in answer.body + alone:
        if answer.start not in (b"502", b"504"):
            raise Finding(f"a {answer.start.decode()} of our own making")
    elif case.method == b"HEAD" and answer.start == b"502" and headers.get(b"cache-control") == b"no-store":
        pass
    else:
        _compare(case, answer)
    if again:
        rest = read_answers(bytes(stage.got)[len(alone) :], [b"GET"])
        if rest.end != "clean" or [message.body for message in rest.messages] != [b"second"]:
            raise Finding(f"the second request got {bytes(stage.got)[len(alone) :][:200]!r}")


def _compare(case: Case, answer: Message) -> None:
    sent = read_answers(case.data, [case.method])
    if not sent.messages and framed_by_trailers(case.data) is not None:
        return
    if not sent.messages:
        raise Finding(f"relayed as whole, but h11 would not take what was sent: {sent.why}")
    meant = sent.messages[0]
    if (answer.start, answer.body) != (meant.start, meant.body):
        raise Finding(f"{meant.start!r} {meant.body[:80]!r} became {answer.start!r} {answer.body[:80]!r}")
    options = {
        option.strip(b" \t")
        for name, value in meant.headers
        if name == b"connection"
        for option in value.lower().split(b",")
    }
    passing = [pair for pair in meant.headers if pair[0] not in REMOVED and pair[0] not in options]
    passed = [pair for pair in answer.headers if pair[0] not in REMOVED]
    if sorted(passing) != sorted(passed):  # limits are put behind the others
        raise Finding(f"headers {passing!r} became {passed!r}")


async def run(stage: Stage, seed: int, answers: int) -> None:
    """Raises Finding."""
    chance = Random(seed)
    with stage.watching():
        for _ in range(answers):
            await run_case(stage, make_case(chance))
