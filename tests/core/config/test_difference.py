"""`config diff`: what a change would do, before it does it."""

from __future__ import annotations

import pytest

from ostiary.core.config.difference import Change, ChangeKind, compare
from tests.core.config.loading import SECRET, VALID, load, varied


def changes(text: str, environment: dict[str, str] | None = None) -> list[str]:
    return [str(change) for change in compare(load(VALID), load(text, environment))]


def test_order_comments_and_spelling_make_no_difference() -> None:
    """An operator who tidied a file would look for a change that is none."""
    text = varied("[GET, POST]", "[POST, GET]").replace("version: 1", "# tidied\nversion: 1")
    text = text.replace("{live: live, test: sandbox}", "{test: sandbox, live: live}")
    assert changes(text) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "requests: 100, per: minute",
            "requests: 50, per: minute",
            "changed plan standard: limits: 100 in any minute -> 50 in any minute\n    callers are refused sooner",
        ),
        (
            "requests: 100, per: minute",
            "requests: 200, per: minute",
            "changed plan standard: limits: 100 in any minute -> 200 in any minute\n    callers are refused later",
        ),
        (
            "limits: [{requests: 100, per: minute}]",
            "rate: {requests: 10, per: second, burst: 20}, limits: [{requests: 100, per: minute}]",
            "changed plan standard: rate: none -> 10 per second, 20 at once\n    callers are refused sooner",
        ),
        (
            "    match: {path",
            "    priority: low\n    match: {path",
            "changed route clients: priority: normal -> low\n    in overload its calls are refused first",
        ),
        (
            "[bearer], scopes: {GET: [clients:read], POST: [clients:write]}",
            "[anonymous]",
            "changed route clients: auth.schemes: bearer -> anonymous\n"
            "    OPEN: everyone may call from now on, without a key",
        ),
        (
            ", scopes: {GET: [clients:read], POST: [clients:write]}",
            "",
            "changed route clients: auth.scopes: GET: clients:read; HEAD: clients:read; POST: clients:write -> none\n"
            "    OPEN: any key may call from now on",
        ),
        (
            "{live: live, test: sandbox}",
            "{live: live}",
            "changed route clients: upstream: live: live, test: sandbox -> live: live\n"
            "    test keys get 403 environment_mismatch from now on",
        ),
        (
            "/v1/clients/**",
            "/v2/clients/**",
            "changed route clients: match: GET, HEAD, POST /v1/clients/** on any host -> "
            "GET, HEAD, POST /v2/clients/** on any host\n    calls that it took get 404 or 405",
        ),
        (
            "scopes: [clients:read], env",
            "scopes: [clients:write], env",
            "changed key ak_test_1: scopes: clients:read -> clients:write\n"
            "    calls that need clients:read get 403 scope_missing from now on",
        ),
        (
            "version: 1",
            "version: 1\ngateway: {listen: {port: 8888}}",
            "changed settings: gateway.listen: 0.0.0.0:8080 -> 0.0.0.0:8888\n"
            "    takes effect at a restart, not at a reload",
        ),
        (
            "version: 1",
            "version: 1\ngateway: {key_stale_for: 2h}",
            "changed settings: gateway.key_stale_for: 1h -> 2h\n    takes effect at a restart, not at a reload",
        ),
        (
            "version: 1",
            "version: 1\ngateway: {drain: 90s, limits: {head: 32KiB}}",
            "changed settings: gateway.drain: 30s -> 90s",
        ),
        (
            "version: 1",
            "version: 1\nusage: {record: {ip: truncated}, retention: {events: 7d, days: 400d}}",
            "changed settings: usage.retention.events: 90d -> 7d\n"
            "    what is older is dropped within the hour, once the control plane has been restarted",
        ),
        (
            "http://127.0.0.1:9000",
            "https://api:9000",
            "changed upstream live: targets: http://127.0.0.1:9000 -> https://api:9000",
        ),
    ],
)
def test_a_change_says_what_it_does(before: str, after: str, told: str) -> None:
    """A field that differs does not say who will notice."""
    assert told in changes(varied(before, after))


def test_a_route_that_is_added_or_removed_says_where_its_calls_go() -> None:
    """A removed route may open its calls to another, or end them."""
    more = varied(
        "keys:",
        '  - {name: new, match: {path: "/v1/clients/new"}, upstream: {live: live}, auth: {schemes: [bearer]}}\nkeys:',
    )
    (added,) = compare(load(VALID), load(more))
    assert added == Change(
        ChangeKind.ADDED,
        "route new",
        None,
        None,
        "any method /v1/clients/new on any host, bearer, to live: live",
        "before, these calls go to the route clients",
    )
    (removed,) = compare(load(more), load(VALID))
    assert removed.kind is ChangeKind.REMOVED
    assert removed.meaning == "calls that it took go to the route clients"


def test_secrets_are_compared_and_never_shown() -> None:
    """The difference of two files goes into tickets and chats."""
    settings = (
        'version: 1\nstores: {{redis: "redis://:{0}@h/0", postgres: "postgresql://u:{0}@h/d?password={0}"}}\n'
        "control_plane: {{operator_token: {0}{0}{0}{0}}}"
    )
    before = load(varied("version: 1", settings.format("canary-1")))
    after = load(varied("version: 1", settings.format("canary-2")), {"SECRET": "canary-3" * 5})
    found = compare(before, after)
    text = "\n".join(map(str, found)) + repr(found)
    assert "canary" not in text
    assert SECRET not in text
    assert {change.field for change in found} == {
        "stores.redis",
        "stores.postgres",
        "control_plane.operator_token",
        "secret",
    }
