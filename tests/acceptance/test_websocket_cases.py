"""WebSocket through the gateway is what it is without it. The whole suite is a proof: `scripts/prove websocket-cases`."""

from __future__ import annotations

from tests.acceptance.websocket_cases import Verdict, compare, made_worse

# Framing, pings, reserved bits, opcodes, fragments, closing; UTF-8 in a selection; messages of 1 MiB whole and in pieces.
CASES = (
    "1.*",
    "2.*",
    "3.*",
    "4.*",
    "5.*",
    "6.1.*",
    "6.2.*",
    "6.3.*",
    "6.4.*",
    "7.*",
    "9.1.3",
    "9.2.3",
    "9.5.6",
    "10.*",
)


async def test_the_gateway_fails_no_websocket_case_that_its_origin_passes() -> None:
    """Row 107: a tunnel that held a frame back, or ended a connection in another way, would break some client."""
    told: list[str] = []
    count, worse = await compare(CASES, told.append)
    assert worse == [], told
    assert count > 110, told


def test_a_case_that_becomes_worse_is_seen() -> None:
    """A comparison that could not fail would prove nothing; a case that did not run is no pass."""
    good, bad = Verdict("OK", "OK", True), Verdict("FAILED", "OK", False)
    assert made_worse({"1": good, "2": bad, "3": good}, {"1": bad, "2": bad}) == {"1": (good, bad), "3": (good, None)}
