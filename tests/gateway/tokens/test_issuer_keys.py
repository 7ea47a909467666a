"""The keys of an issuer over its rotations and outages, fetched from a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ostiary.core.errors import GatewayError
from ostiary.core.issuers import Issuer, KeysAt
from ostiary.core.key_set import parse_key_set
from ostiary.core.tokens import TokenRefused
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.tokens import TokenCaller, TokenRing
from ostiary.gateway.tokens.issuer_keys import WAITING_MAX
from tests.support.certificates import issue
from tests.support.issuers import URL, KeyServer, document, ec_key, issuer, key_server, mint, rsa_key
from tests.support.waiting import until

OLD, NEW, STRANGE = ec_key("2026-10"), ec_key("2026-11"), ec_key("strange")


class Clock:
    """Unix time, that a test moves on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Worker:
    """A ring as a worker has it, and its issuer."""

    def __init__(self, ring: TokenRing, corp: Issuer, metrics: Metrics, clock: Clock) -> None:
        self.ring, self.corp, self.metrics, self.clock = ring, corp, metrics, clock

    @property
    def keys(self) -> dict[str, object]:
        status = self.ring.status()["issuers"]
        assert isinstance(status, dict)
        found = status["corp"]
        assert isinstance(found, dict)
        return found

    async def ask(self, token: str) -> TokenCaller:
        """As the scheme does, in a task."""
        by_url = {URL: self.corp}
        sent = token.encode()
        caller = self.ring.recall(sent, by_url)
        return caller if caller is not None else await _driven(lambda: self.ring.verify(sent, by_url))

    async def answer(self, token: str) -> str:
        try:
            await self.ask(token)
        except TokenRefused:
            return "401"
        except GatewayError as error:
            return error.code.code
        return "200"

    def fetches(self, result: str) -> float:
        return self.metrics.counter("token_key_fetches_total", issuer="corp", result=result).total


async def _driven(make: Callable[[], object]) -> TokenCaller:
    """Runs a coroutine of the request path to its end: as the gateway does, by signals and not in a task."""
    from ostiary.gateway.signal import Drive

    done: asyncio.Future[TokenCaller] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        done.set_result(await make())  # type: ignore[misc]  # a coroutine

    Drive(run(), done.set_exception)
    return await done


@asynccontextmanager
async def worker_of(
    source: KeysAt, *, directory: Path | None = None, clock: Clock | None = None
) -> AsyncIterator[Worker]:
    metrics, clock = Metrics.in_memory(), clock or Clock()
    ring = TokenRing(directory=None if directory is None else str(directory), metrics=metrics, clock=clock)
    corp = issuer(source)
    ring.follow({"corp": corp})
    ring.start()
    try:
        yield Worker(ring, corp, metrics, clock)
    finally:
        ring.close()
        await asyncio.sleep(0)


async def looked(worker: Worker) -> None:
    """The first attempt is over."""
    await until(lambda: worker.keys["attempted_at"] is not None, "an attempt to fetch the keys")


# --- rotation ---------------------------------------------------------------------------------------------------------


async def test_a_rotated_key_is_known_with_the_first_token_that_it_signs(tmp_path: Path) -> None:
    """Else each rotation of an issuer is an outage as long as the time between fetches. The old key holds for as long as the
    document has it, and not longer, for tokens that are remembered too."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url), directory=tmp_path) as worker:
        await looked(worker)
        before = mint(OLD)
        assert await worker.answer(before) == "200"
        worker.clock.ahead = 11
        server.body = document(OLD, NEW)
        after = mint(NEW)
        caller = await worker.ask(after)
        assert worker.ring.stands(caller)
        assert await worker.answer(before) == "200"
        assert len(server.asked) == 2
        worker.clock.ahead = 22
        server.body = document(NEW)
        assert await worker.answer(mint(STRANGE)) == "401"  # what makes the document be fetched again
        assert await worker.answer(before) == "401"
        assert await worker.answer(after) == "200"
        server.body = document(OLD)
        worker.clock.ahead = 33
        assert await worker.answer(mint(STRANGE)) == "401"
        assert not worker.ring.stands(caller)  # what a tunnel asks


async def test_made_up_keys_make_one_fetch_in_a_while(tmp_path: Path) -> None:
    """Row 69: anybody can write a kid; the issuer must not be flooded through us."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url), directory=tmp_path) as worker:
        await looked(worker)
        for _ in range(20):
            assert await worker.answer(mint(STRANGE)) == "401"
        assert len(server.asked) == 1  # within the cooldown of the first fetch
        worker.clock.ahead = 11
        server.hold = asyncio.Event()
        asking = asyncio.gather(*(worker.answer(mint(STRANGE)) for _ in range(400)))
        await until(lambda: len(server.asked) == 2, "the server is asked")
        assert len(worker.ring._keys["corp"]._waiting) <= WAITING_MAX
        server.hold.set()
        assert Counter(await asking) == {"401": WAITING_MAX, "keys_unavailable": 400 - WAITING_MAX}
        assert len(server.asked) == 2
        assert await worker.answer(mint(STRANGE)) == "401"


async def test_nobody_is_refused_for_a_new_key_while_it_is_fetched(tmp_path: Path) -> None:
    """A crowd that has tokens of a new key, and more of them than may wait: who was told 401 would throw a good token
    away, and be counted among those who guess."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url), directory=tmp_path) as worker:
        await looked(worker)
        server.body, server.hold = document(OLD, NEW), asyncio.Event()
        worker.clock.ahead = 11
        token = mint(NEW)
        asking = asyncio.gather(*(worker.answer(token) for _ in range(400)))
        await until(lambda: len(server.asked) == 2, "the server is asked")
        server.hold.set()
        assert Counter(await asking) == {"200": WAITING_MAX, "keys_unavailable": 400 - WAITING_MAX}


async def test_a_clock_that_is_set_back_keeps_no_key_away(tmp_path: Path) -> None:
    """The last attempt lies in the future then, and a rotation would be unknown until that has come."""
    clock = Clock()
    clock.ahead = 3600
    async with key_server(OLD) as server, worker_of(KeysAt(server.url), directory=tmp_path, clock=clock) as worker:
        await looked(worker)
        server.body = document(OLD, NEW)
        clock.ahead = 0
        assert await worker.answer(mint(NEW)) == "200"
        assert await worker.answer(mint(OLD)) == "200"


async def test_workers_of_a_node_fetch_once_for_all(tmp_path: Path) -> None:
    """Sixteen workers would ask an issuer sixteen times for each rotation."""
    async with key_server(OLD) as server:
        source = KeysAt(server.url)
        async with worker_of(source, directory=tmp_path) as one, worker_of(source, directory=tmp_path) as other:
            await looked(one)
            await looked(other)
            assert len(server.asked) == 1
            server.body = document(OLD, NEW)
            one.clock.ahead = other.clock.ahead = 11
            answers = await asyncio.gather(*(each.answer(mint(NEW)) for each in (one, other, one, other)))
            assert answers == ["200"] * 4
            assert len(server.asked) == 2
            assert one.fetches("ok") + other.fetches("ok") == 2


async def test_the_document_is_renewed_by_itself(tmp_path: Path) -> None:
    """A key that an issuer has dropped because it leaked must not hold until somebody sends a token with a new one."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url, refresh_seconds=0.1)) as worker:
        token = mint(OLD)
        await looked(worker)
        assert await worker.answer(token) == "200"
        server.body = document(NEW)
        await until(lambda: worker.ring.status()["verified_tokens"] == 0, "the token is forgotten")
        assert await worker.answer(token) == "401"


async def test_a_document_without_keys_is_the_issuer_s_word(caplog: pytest.LogCaptureFixture) -> None:
    """Who withdraws all keys means it."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url, refresh_seconds=0.1)) as worker:
        await looked(worker)
        server.body = b'{"keys": []}'
        await until(lambda: worker.keys["keys"] == 0, "there are no keys")
        assert await worker.answer(mint(OLD)) == "401"
    assert "issuer_has_no_usable_keys" in caplog.text


# --- outages ----------------------------------------------------------------------------------------------------------


async def test_the_last_good_document_survives_an_outage_and_a_restart_for_a_bounded_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 117: an issuer that is away for an hour must not take our callers with it, also if we restart; but keys that
    nobody has confirmed for a day are not to be believed for ever."""
    token, clock = mint(OLD, said=_long()), Clock()
    async with key_server(OLD) as server:
        source = KeysAt(server.url, stale_seconds=3600.0)
        async with worker_of(source, directory=tmp_path, clock=clock) as worker:
            await looked(worker)
            assert await worker.answer(token) == "200"
    # The server is gone.
    clock.ahead = 3000
    async with worker_of(source, directory=tmp_path, clock=clock) as worker:
        await until(lambda: worker.keys["failure"] is not None, "a failed attempt")
        assert await worker.answer(token) == "200"
        assert (
            await worker.answer(mint(STRANGE, said=_long())) == "keys_unavailable"
        )  # it may be a new key: nobody can tell
        assert worker.fetches("failed") >= 1
        assert "can't be reached" in str(worker.keys["failure"])
        clock.ahead = 3700
        worker.ring._keys["corp"]._wanted.set()
        await until(lambda: worker.keys["keys"] == 0, "there are no keys")
        assert await worker.answer(token) == "keys_unavailable"
    assert "issuer_keys_not_fetched" in caplog.text
    assert "issuer_keys_stale" in caplog.text


def _long() -> dict[str, object]:
    from tests.support.issuers import claims

    return claims(exp=int(time.time()) + 86_400)


async def test_without_any_keys_a_token_is_not_refused_but_put_off() -> None:
    """401 would tell callers to throw away tokens that are good."""
    async with worker_of(KeysAt("http://127.0.0.1:1/keys")) as worker:
        assert await worker.answer(mint(OLD)) == "keys_unavailable"


async def test_callers_with_known_keys_do_not_wait_for_an_issuer_that_hangs(tmp_path: Path) -> None:
    """Row 75, of an issuer: it must not be able to hold up the calls of the others."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url), directory=tmp_path) as worker:
        await looked(worker)
        server.hold = asyncio.Event()
        worker.clock.ahead = 11
        waiting = asyncio.create_task(worker.answer(mint(STRANGE)))
        await until(lambda: len(server.asked) == 2, "the server is asked")
        assert await worker.answer(mint(OLD)) == "200"
        assert not waiting.done()
        server.hold.set()
        assert await waiting == "401"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda server: setattr(server, "status", 500), "answers 500"),
        (lambda server: server.__dict__.update(status=302, headers={"Location": "/elsewhere"}), "a redirect"),
        (lambda server: server.__dict__.update(status=307, headers={"Location": "http://127.0.0.1:1/"}), "a redirect"),
        (lambda server: setattr(server, "body", b"<html>"), "the document is not JSON"),
        (lambda server: setattr(server, "body", b"[]"), "no JSON object"),
        (lambda server: setattr(server, "body", b'{"keys": {}}'), "no list `keys`"),
        (lambda server: setattr(server, "body", b'{"keys": [], "keys": []}'), "stands twice"),
        (lambda server: setattr(server, "body", json.dumps({"keys": [{}] * 101}).encode()), "more than 100 keys"),
        (lambda server: setattr(server, "body", b" " * (300 * 1024)), "more than 256 KiB"),
        (
            lambda server: server.__dict__.update(
                body=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"}
            ),
            "content coding",
        ),
    ],
    ids=["500", "redirect", "redirect elsewhere", "HTML", "a list", "no list", "twice", "many", "large", "a bomb"],
)
async def test_a_bad_answer_leaves_the_keys_as_they_were(
    change: Callable[[KeyServer], object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 34: whatever an issuer's server says in its bad hour, it costs bounded memory, and callers nothing."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url, refresh_seconds=0.1)) as worker:
        await looked(worker)
        change(server)
        await until(lambda: worker.keys["failure"] is not None, "a failed attempt")
        assert reason in str(worker.keys["failure"])
        assert await worker.answer(mint(OLD)) == "200"
        assert set(server.asked) == {"/keys"}
    assert "issuer_keys_not_fetched" in caplog.text


async def test_the_server_of_the_keys_must_be_who_it_says(tmp_path: Path) -> None:
    """Row 95: whoever can answer in its place can let anybody in."""
    authority = issue(tmp_path, "authority", authority=True)
    good, wrong_name = authority.sign("127.0.0.1"), authority.sign("elsewhere.test")
    trusted = {"ca": str(authority.cert), "ca_pem": authority.cert.read_bytes()}
    async with key_server(OLD, context=good.server()) as server:
        async with worker_of(KeysAt(server.url, **trusted)) as worker:  # type: ignore[arg-type]  # two fields
            await looked(worker)
            assert await worker.answer(mint(OLD)) == "200"
        async with worker_of(KeysAt(server.url)) as worker:
            await looked(worker)
            assert "does not verify" in str(worker.keys["failure"])
    async with (
        key_server(OLD, context=wrong_name.server()) as server,
        worker_of(KeysAt(server.url, **trusted)) as worker,  # type: ignore[arg-type]  # as above
    ):
        await looked(worker)
        assert "does not verify" in str(worker.keys["failure"])
        assert server.asked == []


async def test_a_reload_forgets_no_keys_while_the_issuer_is_away() -> None:
    """An operator raises `stale_for` because the issuer is away: that must not be what ends it for callers."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url, stale_seconds=60.0)) as worker:
        await looked(worker)
        server.status, server.hold = 503, asyncio.Event()
        worker.corp = issuer(KeysAt(server.url, stale_seconds=600.0))
        worker.ring.follow({"corp": worker.corp})
        async with asyncio.timeout(2):  # while the issuer hangs
            assert await worker.answer(mint(OLD)) == "200"
        server.hold.set()
        await until(lambda: worker.keys["failure"] is not None, "a failed attempt")
        worker.clock.ahead = 100
        assert await worker.answer(mint(OLD)) == "200"
        worker.corp = issuer(KeysAt(server.url + "/elsewhere"))
        worker.ring.follow({"corp": worker.corp})
        assert await worker.answer(mint(OLD)) == "keys_unavailable"


# --- the file ---------------------------------------------------------------------------------------------------------


async def _fetched_into(directory: Path) -> tuple[KeysAt, Path]:
    async with key_server(OLD) as server:
        source = KeysAt(server.url)
        async with worker_of(source, directory=directory) as worker:
            await looked(worker)
    (record,) = directory.glob("*.json")  # noqa: ASYNC240  nothing else runs
    return source, record


async def test_a_file_that_others_could_have_written_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who writes it decides who gets in."""
    source, record = await _fetched_into(tmp_path / "state")
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    record.chmod(0o666)
    async with worker_of(source, directory=tmp_path / "state") as worker:
        await looked(worker)
        assert await worker.answer(mint(OLD)) == "keys_unavailable"
    told = [getattr(record, "fields", {}).get("problem", "") for record in caplog.records]
    assert "the file could have been written by others; it is not read" in told


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version": 2}', b'{"version": 1, "document": "%"}', b"[]", os.urandom(999)]
)
async def test_a_damaged_file_is_as_none(content: bytes, tmp_path: Path) -> None:
    """Row 89, of a small file: a torn write must not keep a gateway from starting."""
    source, record = await _fetched_into(tmp_path)
    record.write_bytes(content)
    async with worker_of(source, directory=tmp_path) as worker:
        await looked(worker)
        assert await worker.answer(mint(OLD)) == "keys_unavailable"
        assert json.loads(record.read_bytes())["failure"] is not None  # it is whole again


async def test_a_file_that_was_removed_takes_no_keys_from_those_who_know_them(tmp_path: Path) -> None:
    """A worker that starts without the file while the issuer is away writes that it knows nothing."""
    async with key_server(OLD) as server, worker_of(KeysAt(server.url), directory=tmp_path) as worker:
        await looked(worker)
        server.status = 503
        for file in list(tmp_path.glob("*")):  # noqa: ASYNC240  nothing else runs
            file.unlink()
        clock = Clock()
        clock.ahead = 1
        async with worker_of(KeysAt(server.url), directory=tmp_path, clock=clock) as other:
            await until(lambda: other.keys["failure"] is not None, "a failed attempt")
        worker.clock.ahead = 11
        assert await worker.answer(mint(STRANGE)) == "keys_unavailable"
        assert await worker.answer(mint(OLD)) == "200"


async def test_where_nothing_can_be_written_each_worker_fetches(tmp_path: Path) -> None:
    """A read-only container serves tokens all the same, and says what it lacks."""
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    async with key_server(OLD) as server, worker_of(KeysAt(server.url), directory=blocked / "state") as worker:
        await looked(worker)
        assert await worker.answer(mint(OLD)) == "200"
        assert "can't be" in str(worker.keys["file_problem"])


async def test_keys_of_one_url_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    """A reload that points an issuer elsewhere means the new place, also while that is away."""
    source, _ = await _fetched_into(tmp_path)
    async with worker_of(KeysAt(source.url + "/other"), directory=tmp_path) as worker:
        await looked(worker)
        assert await worker.answer(mint(OLD)) == "keys_unavailable"


# --- what of a document is used ---------------------------------------------------------------------------------------


def test_keys_that_could_verify_nothing_safely_are_left_out() -> None:
    """Row 127: a document may have keys for other uses, or bad ones; the good ones beside them hold."""
    good = ec_key("good").as_dict(private=False)
    entries: list[object] = [
        good,
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "oct", "alg": "HS256"},
        good | {"use": "enc"},
        good | {"key_ops": ["sign"]},
        good | {"alg": "HS256"},
        good | {"alg": "none"},
        good | {"crv": "P-384"},
        good | {"x": "AAAA"},
        good | {"x": good["y"]},  # no point of the curve
        good | {"kid": 5},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        rsa_key("small", 1024).as_dict(private=False),
        {"kty": "EC"},
        {"kty": ["EC"], "crv": {}},
        None,
        [],
    ]
    key_set = parse_key_set(json.dumps({"keys": entries}).encode())
    assert [key.kid for key in key_set.keys] == ["good"]
    assert len(key_set.left_out) == len(entries) - 1
    assert not any("c2VjcmV0" in reason for reason in key_set.left_out)


def test_a_private_key_that_was_published_is_held_as_public() -> None:
    """It is the issuer's mistake; we need not be able to sign with it."""
    leaked = json.dumps({"keys": [ec_key("leaked").as_dict(private=True)]}).encode()
    (key,) = parse_key_set(leaked).keys
    assert not hasattr(key.public, "private_numbers")
