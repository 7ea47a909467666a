"""A refusal costs the same work whatever was wrong with the key: what runs is compared call by call, so that no busy machine
has a say. `scripts/prove timing` does it with a clock."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from types import FrameType

import pytest

from ostiary.core.errors import GatewayError
from ostiary.core.model import Authentication, Scheme
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.phases.authenticate import authenticate
from ostiary.gateway.wire.client import ClientConnection
from ostiary.gateway.wire.request_body import RequestBody
from ostiary.gateway.wire.request_head import Framing, parse_request_head
from tests.support.gateway import RunningGateway, configuration, key, route, running_gateway, upstream
from tests.support.messages import request
from tests.support.signatures import signed_upload

KNOWN, UNKNOWN, EXPIRED = "ak_test_known_", "ak_test_nobody", "ak_test_closed"
# A key that is not in the file is looked for among those of Postgres; one that is known is asked whether it has expired. Each
# takes some 30 ns.
LOOKING_UP = {"dict.get", "OrderedDict.get", "time"}
SCHEMES = ("hmac", "hmac-body", "http-signature")


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    routes = [
        route(each, f"/{each}/**", authentication=Authentication(schemes=frozenset({Scheme(each)}))) for each in SCHEMES
    ]
    keys = [key(KNOWN), key(EXPIRED, b"e" * 40, expires_at=time.time() - 1)]
    async with running_gateway(configuration([upstream(1)], routes, keys=keys)) as gateway:
        yield gateway


def calls_of_refusal(gateway: RunningGateway, scheme: str, key_id: str, body: bytes) -> list[str]:
    """Every function that runs, ours and the interpreter's own, from the check of a wrong signature to its refusal."""
    lines = signed_upload(scheme, f"/{scheme}/x", body, key_id=key_id, secret=b"wrong" * 8)
    data = request(f"/{scheme}/x", *lines, *([b"Content-Length: %d" % len(body)] if body else []), method=b"POST")
    head = parse_request_head(data.removesuffix(b"\r\n\r\n"), gateway.gateway.limits)
    client = ClientConnection(gateway.gateway)
    client.peer = "127.0.0.1"
    payload = None
    if body:
        payload = RequestBody(Framing.LENGTH, len(body), 1 << 20, client)
        payload.feed(body)
    snapshot = gateway.gateway.snapshot
    exchange = Exchange(client=client, snapshot=snapshot, head=head, body=payload, started=0.0)
    exchange.route = next(each for each in snapshot.routes if each.name == scheme)
    coroutine = authenticate(exchange, gateway.gateway._keys)
    calls: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_name}")
        elif event == "c_call":
            calls.append(f"{getattr(argument, '__qualname__', argument)}")

    sys.setprofile(note)
    try:
        with pytest.raises(GatewayError) as refused:
            coroutine.send(None)
    finally:
        sys.setprofile(None)
    assert refused.value.code.code == "credentials_invalid"
    return calls


@pytest.mark.parametrize("body", [b"", b"hello"], ids=["no body", "body"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_an_unknown_key_costs_the_work_of_a_wrong_signature(
    scheme: str, body: bytes, gateway: RunningGateway
) -> None:
    """Row 53: the same hashes, and the same calls but for one more dictionary, or the clock."""
    calls_of_refusal(gateway, scheme, KNOWN, body)  # a first refusal makes its counter, and learns the components
    wrong, unknown, expired = (calls_of_refusal(gateway, scheme, key_id, body) for key_id in (KNOWN, UNKNOWN, EXPIRED))
    assert _costly(wrong)
    for other in (unknown, expired):
        assert _costly(other) == _costly(wrong)
        different = (Counter(other) - Counter(wrong)) + (Counter(wrong) - Counter(other))
        assert set(different) <= LOOKING_UP
        assert different.total() <= 2


def _costly(calls: list[str]) -> list[str]:
    return [call for call in calls if "HASH" in call or "signing.py" in call or "compare_digest" in call]
