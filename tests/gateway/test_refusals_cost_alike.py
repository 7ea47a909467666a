"""A refusal costs the same work whatever was wrong with the key: what runs is compared call by call, so that no busy machine
has a say. `scripts/prove timing` does it with a clock."""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from types import FrameType

import pytest

from ostiary.core.errors import GatewayError
from ostiary.core.model import Authentication, FailedAttempts, Scheme
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.phases.authenticate import authenticate
from ostiary.gateway.wire.client import ClientConnection
from ostiary.gateway.wire.request_body import RequestBody
from ostiary.gateway.wire.request_head import Framing, parse_request_head
from tests.support.gateway import RunningGateway, configuration, key, route, running_gateway, upstream
from tests.support.messages import request
from tests.support.signatures import signed_upload

KNOWN, UNKNOWN, EXPIRED, ROTATING = "ak_test_known_", "ak_test_nobody", "ak_test_closed", "ak_test_turned"
PIECE_BYTES = 20_000
# A key that is not in the file is looked for among those of Postgres, and asks the gate at once, not when it is counted; one
# that is known is asked whether it has expired, and for its signer.
LOOKING_UP = {
    "dict.get",
    "OrderedDict.get",
    "time",
    "monotonic",
    "cache.py:signer",
    "gate.py:check",
    "gate.py:_check",
    "max",
}
SCHEMES = ("hmac", "hmac-body", "http-signature")


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    routes = [
        route(each, f"/{each}/**", authentication=Authentication(schemes=frozenset({Scheme(each)}))) for each in SCHEMES
    ]
    before = key(ROTATING, b"b" * 40, expires_at=time.time() + 3600)
    keys = [
        key(KNOWN),
        key(EXPIRED, b"e" * 40, expires_at=time.time() - 1),
        replace(key(ROTATING, b"r" * 40), previous=before),
    ]
    counted = FailedAttempts(per_address=100_000, per_key=100_000)
    async with running_gateway(configuration([upstream(1)], routes, keys=keys, failed_attempts=counted)) as gateway:
        yield gateway


class Unhurried:
    """Of a body that comes piece by piece: the client, who is told nothing."""

    def want_body(self) -> None:
        pass

    def hold_body(self) -> None:
        pass


def calls_of_refusal(
    gateway: RunningGateway, scheme: str, key_id: str, body: bytes, *, at_once: bool = True
) -> list[str]:
    """Every function that runs, ours and the interpreter's own, from the check of a wrong signature to its refusal, and to
    the counting of a failed attempt. A body that does not come `at_once` comes after its head, in pieces."""
    lines = signed_upload(scheme, f"/{scheme}/x", body, key_id=key_id, secret=b"wrong" * 8)
    data = request(f"/{scheme}/x", *lines, *([b"Content-Length: %d" % len(body)] if body else []), method=b"POST")
    head = parse_request_head(data.removesuffix(b"\r\n\r\n"), gateway.gateway.limits)
    client = ClientConnection(gateway.gateway)
    client.peer = "127.0.0.1"
    payload = None
    if body:
        payload = RequestBody(Framing.LENGTH, len(body), 1 << 20, client if at_once else Unhurried())
        if at_once:
            payload.feed(body)
    snapshot = gateway.gateway.snapshot
    exchange = Exchange(client=client, snapshot=snapshot, head=head, body=payload, started=0.0)
    exchange.ip = client.peer
    exchange.route = next(each for each in snapshot.routes if each.name == scheme)
    keys = gateway.gateway._keys
    gate = keys._gate
    assert gate is not None
    coroutine = authenticate(exchange, keys)
    calls: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_name}")
        elif event == "c_call":
            calls.append(f"{getattr(argument, '__qualname__', argument)}")

    refused: GatewayError | None = None
    gc.disable()  # a collection in between is no work of ours, and hypothesis has a function called at each
    sys.setprofile(note)
    try:
        coroutine.send(None)
        assert payload is not None
        for at in range(0, len(body), PIECE_BYTES):
            payload.feed(body[at : at + PIECE_BYTES])
        coroutine.send(None)
    except GatewayError as error:
        refused = gate.answer_to(exchange, error)
    finally:
        sys.setprofile(None)
        gc.enable()
    if exchange.held_body is not None:
        exchange.held_body.close()
    assert refused is not None
    assert refused.code.code == "credentials_invalid"
    return calls


@pytest.mark.parametrize("body", [b"", b"hello"], ids=["no body", "body"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_unknown_key_costs_the_work_of_a_wrong_signature(
    scheme: str, body: bytes, gateway: RunningGateway
) -> None:
    """Row 53: the same hashes, the same look-ups in the table of failed attempts, and otherwise the same calls but for what
    takes some 30 ns each."""
    for key_id in (
        KNOWN,
        UNKNOWN,
        EXPIRED,
    ):  # a first refusal makes its counter, learns components, and is written down
        calls_of_refusal(gateway, scheme, key_id, body)
    wrong, unknown, expired = (calls_of_refusal(gateway, scheme, key_id, body) for key_id in (KNOWN, UNKNOWN, EXPIRED))
    assert _costly(wrong)
    for other in (unknown, expired):
        assert _costly(other) == _costly(wrong)
        different = (Counter(other) - Counter(wrong)) + (Counter(wrong) - Counter(other))
        assert set(different) <= LOOKING_UP
        assert different.total() <= 8, different
        assert _of_table(other) == _of_table(wrong)


@pytest.mark.parametrize("size", [50_000, 100_000], ids=["in memory", "on disk"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_long_body_is_hashed_as_often_whoever_has_signed_it(
    scheme: str, size: int, gateway: RunningGateway
) -> None:
    """Row 53: a body that waits on disk can't be hashed again once the signature has failed. By what is hashed as it comes
    nobody may learn that a key exists, or that it has two secrets."""

    def hashed(key_id: str) -> list[str]:
        return _costly(calls_of_refusal(gateway, scheme, key_id, b"x" * size, at_once=False))

    wrong = hashed(KNOWN)
    pieces = -(-size // PIECE_BYTES)
    assert wrong.count("HASH.update") >= (2 * pieces if scheme == "hmac-body" else pieces)
    for key_id in (UNKNOWN, EXPIRED, ROTATING):
        assert hashed(key_id) == wrong


def _of_table(calls: list[str]) -> Counter[str]:
    return Counter(call for call in calls if "table.py" in call or "room.py" in call or "_of_" in call)


def _costly(calls: list[str]) -> list[str]:
    return [call for call in calls if "HASH" in call or "signing.py" in call or "compare_digest" in call]
