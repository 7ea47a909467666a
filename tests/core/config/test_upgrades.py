"""The fields about upgrades: what they mean, and what contradicts them."""

from __future__ import annotations

from ostiary.core.config.difference import compare
from ostiary.core.config.explanation import explain
from ostiary.core.model import Upgrade
from tests.core.config.loading import VALID, load, only_problem, varied

METHODS = "methods: [GET, POST]}"
UPGRADING = varied("auth: {schemes", "upgrades: [websocket]\n    auth: {schemes")


def test_no_route_upgrades_unless_it_says_so() -> None:
    """Row 32: a route that never meant to be spoken to freely would be, after an update."""
    before, after = load(VALID), load(UPGRADING)
    assert before.routes[0].upgrades == frozenset()
    assert after.routes[0].upgrades == {Upgrade.WEBSOCKET}
    assert before.upstreams["live"].timeouts.upgrade_idle_seconds == 300


def test_a_route_that_can_never_upgrade_is_refused() -> None:
    """The operator would look for the fault in the client."""
    text = UPGRADING.replace(METHODS, "methods: [POST]}").replace("{GET: [clients:read], POST:", "{POST:")
    problem = only_problem(text)
    assert problem.message == "a WebSocket begins with GET, which the route does not take"
    assert problem.mend == "add GET to match.methods"


def test_an_unknown_protocol_is_refused() -> None:
    """Row 25: nobody can open a route to h2c."""
    assert "h2c" in str(only_problem(UPGRADING.replace("[websocket]", "[h2c]")))


def test_a_change_and_a_call_say_that_a_route_upgrades() -> None:
    """`config diff` and `config explain` are read before a change, not after."""
    gone = [str(change) for change in compare(load(UPGRADING), load(VALID))]
    assert gone == [
        "changed route clients: upgrades: websocket -> none\n"
        "    calls that ask for websocket get an ordinary answer from now on"
    ]
    idle = varied('"http://127.0.0.1:9000"}]', '"http://127.0.0.1:9000"}], timeouts: {upgrade_idle: 10m}')
    changes = [str(change) for change in compare(load(VALID), load(idle))]
    assert changes == ["changed upstream live: timeouts.upgrade_idle: 5m -> 10m"]
    assert explain(load(UPGRADING), "GET", "/v1/clients/1", {}).facts["upgrades"] == "websocket"
    assert "upgrades" not in explain(load(VALID), "GET", "/v1/clients/1", {}).facts
