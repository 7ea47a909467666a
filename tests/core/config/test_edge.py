"""What a route says about the edge: what is refused, what a change means, what holds for a call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostiary.core.config.difference import compare
from ostiary.core.config.explanation import explain
from ostiary.core.edge import AfterSunset, Framing
from tests.core.config.loading import VALID, load, only_problem

AUTH = "auth: {schemes: [bearer], scopes: {GET: [clients:read], POST: [clients:write]}}\n"
assert AUTH in VALID


def saying(*fields: str) -> str:
    """VALID, with more fields in its route."""
    return VALID.replace(AUTH, AUTH + "".join(f"    {field}\n" for field in fields))


def gateway_saying(field: str) -> str:
    return VALID.replace("version: 1\n", f"version: 1\ngateway: {{{field}}}\n")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (["cors: {origins: ['*'], credentials: true}"], "cors.origins: is `*`, which browsers do not take"),
        (["cors: {origins: [https://a.test], headers: ['*'], credentials: true}"], "cors.headers: is `*`"),
        (["cors: {origins: [https://a.test, '*']}"], "the others mean nothing"),
        (["cors: {origins: []}"], "must have 1 to 1000 items"),
        (["cors: {origins: ['null']}"], "must be an origin"),
        (["cors: {origins: ['https://a.test/']}"], "an origin has no slash at its end"),
        (["cors: {origins: ['https://a.test:443']}"], "which browsers leave out"),
        (["cors: {origins: ['https://a.*.test']}"], "must be an origin"),
        (["cors: {origins: ['https://*']}"], "must be an origin"),
        (["cors: {origins: [https://a.test], methods: [DELETE]}"], "names DELETE, which the route does not take"),
        (["cors: {origins: [https://a.test], credentials: 'true'}"], "must be `true` or `false`"),
        (['cors: {origins: [https://a.test], headers: ["X-A\\r\\nX-B: 1"]}'], "must be a header name"),
        (["ip: {}"], "names no address"),
        (["ip: {allow: []}"], "must have 1 to 10000 items"),
        (["ip: {allow: [10.0.0.1/8]}"], "the network is 10.0.0.0/8"),
        (["ip: {allowed: [10.0.0.0/8], deny: [10.1.0.0/16]}"], "there is no field 'allowed'"),
        (["request_headers: {set: {Host: evil}}"], "is the gateway's own"),
        (["request_headers: {set: {x-ostiary-plan: gold}}"], "is the gateway's own"),
        (["request_headers: {add: {Transfer-Encoding: chunked}}"], "is the gateway's own"),
        (["request_headers: {remove: [Authorization]}"], "is the gateway's own"),
        (["request_headers: {set: {X_A: b}}"], "must be a header name"),
        (['request_headers: {set: {"X-A\\r\\nHost": b}}'], "must be a header name"),
        (['request_headers: {set: {X-A: "b\\r\\nX-Ostiary-Key: 1"}}'], "must be one line"),
        (['request_headers: {set: {X-A: "b\\x7F"}}'], "must be one line"),
        (["request_headers: {set: {X-A: ''}}"], "must be one line"),
        (["request_headers: {set: {X-A: b, x-a: c}}"], "names a header twice"),
        (["request_headers: {set: {X-A: b}, remove: [x-a]}"], "removes x-a, which is set as well"),
        (["response_headers: {set: {Content-Length: '3'}}"], "is the gateway's own"),
        (["response_headers: {remove: [X-Request-Id]}"], "is the gateway's own"),
        (
            ["cors: {origins: [https://a.test]}", "response_headers: {set: {Access-Control-Allow-Origin: '*'}}"],
            "changes a header that cors decides",
        ),
        (["security_headers: {framing: never}"], "must be `deny` or `same_origin` or `any`"),
        (["security_headers: maybe"], "must be `true` or `false`"),
        (["rewrite: /internal/{id}/**"], "names {id}, which the path of the match does not have"),
        (["rewrite: /internal"], "would send everything below the path to one path"),
        (["rewrite: internal/**"], "does not begin with a slash"),
        (["rewrite: /internal/../**"], "is ambiguous"),
        (["rewrite: '/internal/**?x=1'"], "is not a wildcard"),
        (["rewrite: /internal/**", "paths: raw"], "can't stand beside paths: raw"),
        (["deprecation: {since: 2026-13-01}"], "must be a day"),
        (["deprecation: {since: 20260101}"], "must be a day"),
        (["deprecation: {since: 2026-02-01, sunset: 2026-01-01}"], "comes before since"),
        (["deprecation: {since: 2026-02-01, after_sunset: not_found}"], "there is none"),
        (["deprecation: {since: 2026-02-01, link: 'https://a.test/>;rel=x'}"], "must be a URL"),
    ],
)
def test_what_contradicts_itself_or_could_harm_is_refused(fields: list[str], told: str) -> None:
    """Each of these would fail in a browser, forge what only the gateway may say, or open what was meant to be closed."""
    assert told in str(only_problem(saying(*fields)))


def test_a_rewrite_of_an_exact_path_has_no_rest() -> None:
    """There is nothing that `/**` could stand for."""
    text = saying("rewrite: /internal/**").replace("/v1/clients/**", "/v1/clients/{id}")
    assert "ends with /**, and the path of the match does not" in str(only_problem(text))


def test_fields_are_read_with_their_defaults() -> None:
    """What an operator leaves out must be the careful choice."""
    route = load(
        saying(
            "cors: {origins: [HTTPS://App.Example.com]}",
            "ip: {deny: [10.0.0.0/8]}",
            "security_headers: true",
            "deprecation: {since: 2026-01-01}",
        )
    ).routes[0]
    cors, edge = route.edge.cross_origin, route.edge
    assert cors is not None
    assert (cors.origins, cors.credentials, cors.max_age_seconds) == (("https://app.example.com",), False, 600)
    assert cors.methods == ("GET", "HEAD", "POST")
    assert cors.headers == ("Content-Type", "X-Request-Id", "Authorization", "X-API-Key")
    assert {"Deprecation", "Retry-After", "X-Request-Id"} <= set(cors.expose)
    assert edge.addresses is not None
    assert edge.addresses.allow == ()
    assert edge.security is not None
    assert (edge.security.framing, edge.security.hsts_subdomains) == (Framing.DENY, False)
    assert edge.deprecation is not None
    assert (edge.deprecation.since, edge.deprecation.after_sunset) == (1767225600, AfterSunset.SERVE)


def test_a_switch_and_its_long_form_without_fields_are_the_same() -> None:
    """`true` is short for the defaults: two sets of them would drift apart."""
    short, long = load(saying("security_headers: true")), load(saying("security_headers: {}"))
    assert short.routes[0].edge == long.routes[0].edge


def test_a_secret_in_a_header_value_is_shown_nowhere() -> None:
    """An upstream's token in a terminal, or in the log of a pipeline that runs `config diff`, is everyone's."""
    secret = "token-of-an-upstream"
    after = load(saying('request_headers: {set: {X-Token: "${TOKEN}"}}'), {"TOKEN": secret})
    told = "".join(str(change) for change in compare(load(VALID), after))
    assert "set X-Token" in told
    facts = explain(after, "GET", "/v1/clients/1", {}).facts
    assert facts["request headers"] == "set X-Token"
    assert secret not in told + repr(after) + str(facts)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], ["cors: {origins: ['*']}"], "OPEN: pages of every origin may call from now on"),
        (
            ["cors: {origins: [https://a.test]}"],
            ["cors: {origins: [https://b.test]}"],
            "pages of https://a.test are kept",
        ),
        (["cors: {origins: [https://a.test]}"], [], "the upstream decides which pages may call"),
        ([], ["ip: {allow: [10.0.0.0/8]}"], "ip: any -> 10.0.0.0/8\n    calls from other addresses get 403"),
        (["ip: {allow: [10.0.0.0/8]}"], [], "OPEN: any address may call from now on"),
        (
            ["ip: {allow: [10.0.0.0/8, 192.0.2.0/24]}"],
            ["ip: {allow: [10.0.0.0/8]}"],
            "calls from other addresses get 403",
        ),
        (
            ["ip: {deny: [10.0.0.0/8]}"],
            ["ip: {deny: [192.0.2.1]}"],
            "ip: any; never 10.0.0.0/8 -> any; never 192.0.2.1/32",
        ),
        ([], ["rewrite: /x/**"], "rewrite: none -> /x/**\n    the upstream gets other paths"),
        ([], ["security_headers: false"], "security_headers: as the gateway has it -> none"),
        (
            [],
            ["deprecation: {since: 2026-01-01, sunset: 2026-12-31, after_sunset: not_found}"],
            "since 2026-01-01, sunset 2026-12-31, then not_found\n    calls get 404 route_not_found from 2026-12-31 on",
        ),
        ([], ["response_headers: {remove: [Server]}"], "response_headers: none -> remove server"),
    ],
)
def test_a_change_is_told_in_words(before: list[str], after: list[str], told: str) -> None:
    """The operator reads what callers will notice before they do."""
    changes = [str(change) for change in compare(load(saying(*before)), load(saying(*after)))]
    assert len(changes) == 1
    assert told in changes[0]


def test_a_change_of_the_gateways_own_is_told() -> None:
    """It holds for every route, so it is the one that must not be missed."""
    after = load(gateway_saying("ip: {allow: [10.0.0.0/8]}, security_headers: true"))
    assert [str(change) for change in compare(load(VALID), after)] == [
        "changed settings: gateway.ip: any -> 10.0.0.0/8\n    calls from other addresses get 403 ip_not_allowed from now on",
        "changed settings: gateway.security_headers: none -> hsts 365d, no_sniff, framing deny, referrer_policy no-referrer",
    ]


def test_what_holds_for_a_call_is_explained() -> None:
    """What the caller of that URL meets, not what the file says in general: the path with its parameters in it."""
    text = saying(
        "ip: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}",
        "cors: {origins: [https://a.test]}",
        "rewrite: /internal/{id}/**",
        "security_headers: {hsts: 1d}",
        "deprecation: {since: 2026-01-01, link: https://a.test/v2}",
    ).replace("/v1/clients/**", "/v1/{id}/**")
    facts = explain(load(text), "GET", "/v1/a%20b/x/y", {}).facts
    assert facts["addresses"] == "10.0.0.0/8; never 10.1.0.0/16"
    assert facts["cross-origin calls"].startswith("pages of https://a.test may GET, HEAD, POST, send Content-Type")
    assert facts["path for the upstream"] == "/internal/a%20b/x/y"
    assert facts["security headers"] == "hsts 1d, no_sniff, framing deny, referrer_policy no-referrer"
    assert facts["deprecation"] == "since 2026-01-01, see https://a.test/v2"
    assert (
        not {"addresses", "cross-origin calls", "deprecation"}
        & explain(load(VALID), "GET", "/v1/clients", {}).facts.keys()
    )


def test_a_long_list_of_addresses_is_told_in_short() -> None:
    """Ten thousand networks in a terminal hide the line that matters."""
    before = load(VALID)
    networks = load(saying("ip: {deny: [" + ", ".join(f"10.0.{at}.0/24" for at in range(200)) + "]}")).routes[0].edge
    assert networks.addresses is not None
    route = replace(before.routes[0], edge=networks)
    (change,) = compare(before, replace(before, routes=(route,)))
    assert "and 190 more" in str(change)
    assert len(str(change)) < 400
