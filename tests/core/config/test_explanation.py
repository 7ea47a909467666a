"""`config explain`: which route takes a call, and why the others do not."""

# ruff: noqa: E501  the tables are read by their columns

from __future__ import annotations

import pytest

from ostiary.core.config.explanation import Candidate, Explanation, UnreadableUrl, explain
from tests.core.config.loading import SECRET, load

TEXT = """\
version: 1
plans: {standard: {limits: [{requests: 100, per: minute}]}}
upstreams:
  live: {targets: [{url: "http://127.0.0.1:9000", weight: 2}, {url: "http://127.0.0.1:9002"}]}
  sandbox: {targets: [{url: "http://127.0.0.1:9001"}]}
routes:
  - name: client
    match: {hosts: [api.example.com], path: "/v1/clients/{id}", methods: [GET]}
    upstream: {live: live, test: sandbox}
    auth: {schemes: [bearer, hmac], scopes: {GET: [clients:read]}}
    limits: [{requests: 5, per: second, by: ip}]
  - name: clients
    match: {hosts: [api.example.com], path: "/v1/clients/**"}
    upstream: {live: live}
    auth: {schemes: [bearer]}
  - name: write-client
    match: {hosts: [api.example.com], path: "/v1/clients/{id}", methods: [PUT]}
    upstream: {live: live}
    auth: {schemes: [bearer]}
  - {name: wild, match: {hosts: ["*.example.com"], path: "/v1/**"}, upstream: {live: live}, auth: {schemes: [bearer]}}
  - {name: other-host, match: {hosts: [other], path: "/v1/**"}, upstream: {live: live}, auth: {schemes: [bearer]}}
  - {name: status, match: {path: /status}, upstream: {live: live}, auth: {schemes: [anonymous]}}
keys:
  - {id: ak_test_1, secret: "${SECRET}", plan: standard, scopes: [clients:read], environment: test}
  - {id: ak_live_1, secret: "${OTHER}", plan: standard, environment: live}
"""


def explained(method: str, url: str, **headers: str) -> Explanation:
    configuration = load(TEXT, {"OTHER": "o" * 40})
    return explain(configuration, method, url, {name.replace("_", "-"): value for name, value in headers.items()})


def test_the_route_is_the_one_that_the_gateway_takes_and_each_other_has_its_reason() -> None:
    """An operator would look at the wrong route's scopes."""
    found = explained("GET", "https://api.example.com:8443/v1/clients/17?x=1")
    assert (found.answer, found.route) == ("route", "client")
    assert found.parameters == {"id": "17"}
    assert found.why == "its host is api.example.com, /v1/clients/{id} covers /v1/clients/17, it takes GET, HEAD"
    assert found.others == (
        Candidate("clients", "fits, but the path of client, /v1/clients/{id}, is more exact than /v1/clients/**"),
        Candidate("write-client", "takes PUT, not GET"),
        Candidate("wild", "fits, but client names the host more exactly"),
        Candidate("other-host", "is for other, not for api.example.com"),
    )
    assert found.unfit == 1


def test_what_awaits_the_caller_is_told() -> None:
    """The route alone does not say why a call is refused."""
    facts = explained("GET", "/v1/clients/17", host="api.example.com").facts
    assert facts["authentication"] == "bearer, hmac"
    assert facts["scopes"] == "clients:read"
    assert facts["caller"] == "no credential given: 401 credentials_missing"
    assert facts["limits of the route"] == "5 in any second by ip"
    assert (
        facts["upstream of live keys"] == "live (http://127.0.0.1:9000 (weight 2), http://127.0.0.1:9002; round_robin)"
    )
    assert facts["upstream of test keys"] == "sandbox (http://127.0.0.1:9001)"
    assert "caller" not in explained("GET", "/status").facts


@pytest.mark.parametrize(
    ("method", "path", "credential", "caller"),
    [
        ("GET", "/v1/clients/17", {"x_api_key": "ak_test_1:00"}, "ak_test_1 (test), plan standard: 100 in any minute"),
        ("GET", "/v1/clients/17", {"authorization": f"Bearer {SECRET}"}, "ak_test_1 (test), plan standard: 100 in any minute"),
        ("GET", "/v1/clients/17", {"x_api_key": "o" * 40}, "ak_live_1: 403 scope_missing, it lacks clients:read"),
        ("PUT", "/v1/clients/17", {"x_api_key": SECRET}, "ak_test_1 (test): 403 environment_mismatch"),
        ("GET", "/v1/clients/17", {"x_api_key": "unknown"}, "the credential is of no key in this file; the control plane's keys are not looked up here"),
    ],
)  # fmt: skip
def test_a_credential_is_looked_up_and_not_shown(
    method: str, path: str, credential: dict[str, str], caller: str
) -> None:
    """`why do I get 403?` is what one asks for a key."""
    found = explained(method, path, host="api.example.com", **credential)
    assert found.facts["caller"] == caller
    assert SECRET not in repr(found)


def test_refusals_are_told_with_what_would_have_been_taken() -> None:
    """404 and 405 look the same to who wonders why a call does not arrive."""
    found = explained("DELETE", "/status")
    assert (found.answer, found.route) == ("route", "status")
    found = explained("GET", "/nothing", host="api.example.com")
    assert (found.answer, found.unfit, found.others) == ("route_not_found", 6, ())
    found = explained("GET", "/v1/clients/17")
    assert found.answer == "route_not_found"
    assert found.others[0] == Candidate("client", "is for api.example.com, not for a call without a host")


@pytest.mark.parametrize("url", ["no-slash", "http://[::1", "http://h/ä", "http://h/a b", "http://h:x/a\x00"])
def test_a_url_that_can_not_be_sent_is_refused(url: str) -> None:
    """The answer would be for another path than the one that arrives."""
    with pytest.raises(UnreadableUrl):
        explained("GET", url)
