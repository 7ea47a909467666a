"""What is refused, with which words and in which line; and what is only warned of."""

# ruff: noqa: E501  the tables are read by their columns

from __future__ import annotations

from pathlib import Path

import pytest

from ostiary.core.config import ConfigurationError, load_text
from ostiary.core.config.problems import shown
from tests.core.config.loading import SECRET, VALID, load, only_problem, problems, varied


def test_a_problem_is_one_line_whatever_the_file_calls_things() -> None:
    """A name with a newline, or with an escape sequence, would forge lines of the log."""
    text = varied("  standard:", '  "a\\nb": {x: 1}\n  "\\e[31m": {x: 1}\n  "${SECRET}": {}\n  standard:')
    found = problems(text)
    assert len(found) == 5
    assert all(str(problem).isprintable() for problem in found)
    assert found[-1].message == "a name can't come from the environment"


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    """An operator would mend one mistake, reload, and meet the next."""
    text = varied("requests: 100", "requests: 0").replace("version: 1", "versoin: 1").replace("[bearer]", "[baerer]")
    found = [(problem.line, problem.path) for problem in problems(text)]
    assert found == [
        (1, ""),
        (1, ""),
        (3, "plans.standard.limits[0].requests"),
        (11, "routes[0].auth.schemes[0]"),
    ]


def test_a_problem_is_one_line_of_file_line_field_and_mend() -> None:
    """Editors and terminals jump to `file:line:`; a problem over several lines would break that."""
    problem = only_problem(varied("plan: standard", "plan: standrad"))
    assert str(problem) == ("gateway.yaml:13: keys[0].plan: there is no plan 'standrad' (did you mean 'standard'?)")
    assert problem.column == 48


@pytest.mark.parametrize(
    ("before", "after", "path", "message"),
    [
        # unknown fields and names
        ("name: clients", "name: clients\n    naem: x", "routes[0]", "there is no field 'naem' (did you mean 'name'?)"),
        ("live: live, test", "live: lvie, test", "routes[0].upstream.live", "there is no upstream 'lvie' (did you mean 'live'?)"),
        ("plan: standard", "plan: gold", "keys[0].plan", "there is no plan 'gold' (there is standard)"),
        # kinds
        ("version: 1", "version: 2", "version", "this Ostiary reads version 1, not '2' (write version: 1)"),
        ("requests: 100", "requests: -1", "plans.standard.limits[0].requests", "must be a whole number from 1 to 1000000000000, not '-1'"),
        ("requests: 100", "requests: 1.5", "plans.standard.limits[0].requests", "must be a whole number from 1 to 1000000000000, not '1.5'"),
        ("requests: 100", "requests: 010", "plans.standard.limits[0].requests", "must be a whole number from 1 to 1000000000000, not '010'"),
        ("requests: 100", "requests: 1_000", "plans.standard.limits[0].requests", "must be a whole number from 1 to 1000000000000, not '1_000'"),
        ("requests: 100", 'requests: "100"', "plans.standard.limits[0].requests", "must be a whole number from 1 to 1000000000000, not text (remove the quotes)"),
        # usage
        ("version: 1", "version: 1\nusage: {record: {ip: truncate}}", "usage.record.ip", "must be `full` or `truncated` or `hashed` or `none`, not 'truncate' (did you mean 'truncated'?)"),
        ("version: 1", "version: 1\nusage: {retention: {events: 0d}}", "usage.retention.events", "must be whole days, as in `90d` (up to `9999d`), or `forever`, not '0d'"),
        ("version: 1", "version: 1\nusage: {retention: {minutes: forever}}", "usage.retention.minutes", "must not be kept longer than hours (keep hours at least as long)"),
        ("version: 1", "version: 1\nusage: {retention: {hours: 100d, days: 30d}}", "usage.retention.hours", "must not be kept longer than days (keep days at least as long)"),
        # what calls cost
        ("name: clients", "name: clients\n    cost: -1", "routes[0].cost", "must be a whole number from 0 to 1000000, not '-1'"),
        ("name: clients", "name: clients\n    cost: 101", "routes[0]", "has calls that cost 101, and a limit of the plan 'standard' never has more than 100: they could never pass (lower the cost, or raise the limit)"),
        ("name: clients", "name: clients\n    cost: {methods: {POST: 101}}", "routes[0]", "has calls that cost 101, and a limit of the plan 'standard' never has more than 100: they could never pass (lower the cost, or raise the limit)"),
        ("name: clients", "name: clients\n    cost: {methods: {PUT: 2}}", "routes[0].cost", "names PUT, which the route does not take (add the method to match)"),
        ("name: clients", "name: clients\n    cost: {response_header: X-Cost}", "routes[0].cost.response_header", "may say any number (add at_most: the most that one call may be charged)"),
        ("name: clients", "name: clients\n    cost: {at_most: 5}", "routes[0].cost.at_most", "bounds what response_header says, and there is none (add it, or remove at_most)"),
        ("per: minute", "per: month", "plans.standard.limits[0].per", "must be `second` or `minute` or `hour` or `day`, not 'month'"),
        ("name: clients", "name: 12", "routes[0].name", "must be a name of up to 64 letters, digits, `_`, `.` and `-`, not a whole number (quote it)"),
        ("name: clients", "name: true", "routes[0].name", "must be a name of up to 64 letters, digits, `_`, `.` and `-`, not a boolean (quote it)"),
        ("name: clients", "name:", "routes[0].name", "has no value (give it one, or remove the field)"),
        ("name: clients", "name: [a]", "routes[0].name", "must be one value, not a list"),
        ("{schemes: [bearer],", "{schemes: bearer,", "routes[0].auth.schemes", "must be a list, not 'bearer' (write [a, b], or a line - a for each)"),
        ("[GET, POST]", "[GET, post]", "routes[0].match.methods[1]", "must be a method in capitals, not 'post' (write POST)"),
        ("[GET, POST]", "[]", "routes[0].match.methods", "must have 1 to 30 items, not 0"),
        ("[GET, POST]", "[GET, POST, TRACE]", "routes[0].match.methods[2]", "must be a method in capitals, such as GET, not 'TRACE'"),
        # paths
        ('"/v1/clients/**"', "v1/clients", "routes[0].match.path", "the path does not begin with a slash (write /v1/clients)"),
        ('"/v1/clients/**"', "/v1/**/clients", "routes[0].match.path", "/** stands before the end of the path (end the path with it)"),
        ('"/v1/clients/**"', "/v1/:id", "routes[0].match.path", "':id' would match only that very text (a parameter is written {id})"),
        ('"/v1/clients/**"', '"/v1/{a}/{a}"', "routes[0].match.path", "the parameter {a} occurs twice (give each parameter its own name)"),
        ('"/v1/clients/**"', "/v1//clients", "routes[0].match.path", "the path has an empty segment (//) (leave one slash)"),
        ('"/v1/clients/**"', "/v1/%2e%2e/x", "routes[0].match.path", "'%2e%2e' is ambiguous, requests with it are refused (write the path without dot segments and %2F)"),
        ('"/v1/clients/**"', "/v1/clients?x=1", "routes[0].match.path", "'clients?x=1' has characters that a URL's path can't have (percent-encode them, and leave out any query or fragment)"),
        ('"/v1/clients/**"', '"/v1/{id}.json"', "routes[0].match.path", "'{id}.json' is not a parameter (a parameter is a whole segment, /{name}/, of letters, digits and _)"),
        # targets
        ('"http://127.0.0.1:9000"', '"http://u:p@h"', "upstreams.live.targets[0].url", "a target's URL can't have a user or password (calls carry their own headers)"),
        ('"http://127.0.0.1:9000"', '"http://h/base"', "upstreams.live.targets[0].url", "a target's URL ends with the port: calls keep their own path and query (write http://h)"),
        ('"http://127.0.0.1:9000"', '"http://h?"', "upstreams.live.targets[0].url", "a target's URL ends with the port: calls keep their own path and query (write http://h)"),
        ('"http://127.0.0.1:9000"', '"http://h:0"', "upstreams.live.targets[0].url", "a target can't have port 0"),
        ('"http://127.0.0.1:9000"', '"http://h:99999"', "upstreams.live.targets[0].url", "must be the URL of a server, `http://host:port`, `https://host:port` or `unix:/run/app.sock` (write http://host:port)"),
        ('"http://127.0.0.1:9000"', "ftp://h", "upstreams.live.targets[0].url", "must be the URL of a server, `http://host:port`, `https://host:port` or `unix:/run/app.sock` (write http://host:port)"),
        ('"http://127.0.0.1:9000"', '"http://127.1"', "upstreams.live.targets[0].url", "must be the URL of a server, `http://host:port`, `https://host:port` or `unix:/run/app.sock` (the host is a DNS name or an IP address)"),
        ('"http://127.0.0.1:9000"', "unix:app.sock", "upstreams.live.targets[0].url", "must be unix: and the absolute path of a socket (write unix:/run/app.sock)"),
        ('"http://127.0.0.1:9000"', "unix:///run/app.sock", "upstreams.live.targets[0].url", "must be unix: and the absolute path of a socket (write unix:/run/app.sock)"),
        ('"http://127.0.0.1:9000"', "http+unix:/run/app.sock", "upstreams.live.targets[0].url", "must be unix: and the absolute path of a socket (write unix:/run/app.sock)"),
        ('"http://127.0.0.1:9000"', "unix:/run/", "upstreams.live.targets[0].url", "must be unix: and the absolute path of a socket (write unix:/run/app.sock)"),
        ('"http://127.0.0.1:9000"', "unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "upstreams.live.targets[0].url", "the path of a unix socket has at most 103 bytes (give it a shorter one)"),
        # who may call
        ("[bearer]", "[oauth]", "routes[0].auth.schemes[0]", "'oauth' is not supported yet by this version of Ostiary (use bearer or hmac)"),
        ("[bearer]", "[jwt]", "routes[0].auth.schemes", "'jwt' needs to know whose tokens are taken (add issuers: [name] beside schemes)"),
        ("[bearer]", "[bearer], issuers: [corp]", "routes[0].auth.issuers", "means nothing without the scheme 'jwt' (add jwt to schemes, or remove it)"),
        ("[bearer]", "[jwt], issuers: [corp]", "routes[0].auth.issuers[0]", "there is no issuer 'corp' (no issuer is defined; add it under issuers)"),
        ("[bearer]", "[bearer, mtls]", "routes[0]", "takes the scheme 'mtls', and the gateway asks no client for a certificate (add client_ca to gateway.listen.tls; client_certificate: optional if others may do without)"),
        ("[bearer]", "[]", "routes[0].auth.schemes", "must have 1 to 7 items, not 0"),
        ("[clients:write]", "{some: [a]}", "routes[0].auth.scopes.POST", "there is no field 'some' (there is all, any)"),
        ("[bearer]", "[bearer], components: [x-a]", "routes[0].auth.components", "only http-signature has components (add it to schemes, or remove the components)"),
        ("[bearer]", "[http-signature], components: [X-A]", "routes[0].auth.components[0]", "can't be signed: a component that is no header name in lower case (must be a component of RFC 9421: a header's name in lower case, or `@authority`, `@target-uri` and their like)"),
        ("[bearer]", "[http-signature], components: ['@status']", "routes[0].auth.components[0]", "can't be signed: a derived component that requests don't have (must be a component of RFC 9421: a header's name in lower case, or `@authority`, `@target-uri` and their like)"),
        (", POST: [clients:write]}", "}", "routes[0].auth", "names scopes, but none for POST: any key could call with that (add POST: [scope], or POST: [] if it needs none)"),
        ("POST: [clients:write]", "POST: [clients:write], PUT: [x]", "routes[0].auth", "names scopes for PUT, which the route does not take (add the method to match)"),
        # keys
        ("ak_test_1", "a-1", "keys[0].id", "must be 4 to 64 letters, digits and `_`, not 'a-1'"),
        ("environment: test", "environment: live", "keys[0].environment", "is live, but the id says test (change one of them)"),
        ("environment: test", "environment: test, expires_at: 2027-01-31", "keys[0].expires_at", "must be a time such as `2027-01-31T00:00:00Z`, not '2027-01-31'"),
        ("environment: test", "environment: test, allowed_ips: [10.0.0.1/8]", "keys[0].allowed_ips[0]", "must be an IP address or a network such as `10.0.0.0/8`, not '10.0.0.1/8' (the network is 10.0.0.0/8)"),
        # settings
        ("    match: {path", "    max_head: 128KiB\n    match: {path", "routes[0]", "max_head is larger than gateway.limits.head, which holds first (raise gateway.limits.head)"),
        ("    match: {path", "    gzip: yes\n    match: {path", "routes[0].gzip", "must be `true` or `false` or a mapping, not 'yes'"),
        ("    match: {path", "    gzip: {types: [text/event-stream]}\n    match: {path", "routes[0].gzip.types", "events are sent one by one, and are not compressed (remove text/event-stream)"),
        ("version: 1", "version: 1\ngateway: {limits: {connections_per_address: 0}}", "gateway.limits.connections_per_address", "must be a whole number from 1 to 1000000, not '0'"),
        ("version: 1", "version: 1\nstores: {redis: [redis://a, redis://b/3]}", "stores.redis[1]", "a Redis Cluster has no databases but 0 (end the URL with the port)"),
        ("version: 1", "version: 1\nstores: {redis: []}", "stores.redis", "must have 1 to 100 items, not 0"),
        ("version: 1", "version: 1\nstores: {redis: {sentinels: [redis://a:26379]}}", "stores.redis", "the field 'service' is missing (The name under which they know the master, as in `sentinel monitor mymaster …`.)"),
        ("version: 1", "version: 1\nstores: {redis: {sentinels: [a:26379], service: m}}", "stores.redis.sentinels[0]", "must be a URL, `redis://…` or `rediss://…` (the URL is not shown: it may hold a password)"),
        ("version: 1", "version: 1\nstores: {redis: {sentinels: [redis://a:26379], service: m, port: 1}}", "stores.redis", "there is no field 'port' (there is sentinels, service, url)"),
        ("version: 1", "version: 1\nstores: {redis: 127.0.0.1:6379}", "stores.redis", "must be a URL, `redis://…` or `rediss://…` (the URL is not shown: it may hold a password)"),
        ("version: 1", "version: 1\ngateway: {drain: 30}", "gateway.drain", "must be a duration from `0s` to `1h`, not '30' (give it a unit: ms, s, m, h or d)"),
        ("version: 1", "version: 1\ngateway: {signature_skew: 1500ms}", "gateway.signature_skew", "must be whole seconds: timestamps are"),
        ("version: 1", "version: 1\ngateway: {admin: {port: 8080, host: 0.0.0.0}}", "gateway.admin", "is on port 8080, where clients connect (give it a port of its own)"),
        ("version: 1", "version: 1\ncontrol_plane: {key_prefix: Bi}", "control_plane.key_prefix", "must be up to 12 of a-z and 0-9, not 'Bi'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_field_and_its_mend(before: str, after: str, path: str, message: str) -> None:
    """A mistake that is passed over, or told without its place, is found in production."""
    found = {problem.path: str(problem).partition(": ")[2] for problem in problems(varied(before, after))}
    assert found[path] == (f"{path}: {message}" if path else message)


def test_a_route_without_auth_is_refused() -> None:
    """A route whose auth was forgotten would be open to everyone."""
    line = "    auth: {schemes: [bearer], scopes: {GET: [clients:read], POST: [clients:write]}}\n"
    problem = only_problem(varied(line, ""))
    assert problem.message == "the field 'auth' is missing"
    assert problem.mend is not None
    assert "{schemes: [anonymous]} to let everyone in" in problem.mend


def test_anonymous_beside_another_scheme_is_refused() -> None:
    """The other scheme would look like a protection, and be none."""
    text = varied(
        "{schemes: [bearer], scopes: {GET: [clients:read], POST: [clients:write]}}", "{schemes: [bearer, anonymous]}"
    )
    assert only_problem(text).path == "routes[0].auth.schemes"


def test_an_anonymous_route_has_no_scopes_and_counts_by_no_key() -> None:
    """Both would hold for nobody."""
    scoped = varied("[bearer]", "[anonymous]")
    assert only_problem(scoped).path == "routes[0].auth.scopes"
    text = varied(
        "    auth: {schemes: [bearer], scopes: {GET: [clients:read], POST: [clients:write]}}",
        "    auth: {schemes: [anonymous]}\n    limits: [{requests: 1, per: second, by: key}]",
    )
    assert only_problem(text).path == "routes[0].limits"


def test_scopes_of_a_route_for_any_method_must_cover_every_method() -> None:
    """A method that nobody thought of would need no scope."""
    text = varied(", methods: [GET, POST]", "")
    assert "'*': [scope]" in (only_problem(text).mend or "")
    load(text.replace("POST: [clients:write]", '"*": [clients:write]'))


SECOND = """\
  - name: {name}
    match: {{path: "{path}", methods: [{method}]{hosts}}}
    upstream: {upstream}
    auth: {{schemes: [bearer]}}
keys:"""


@pytest.mark.parametrize(
    ("path", "method", "hosts", "refused"),
    [
        ("/v1/clients/**", "GET", "", True),
        ("/v1/clients/**", "HEAD", "", True),
        ("/v1/clients/**", "PUT", "", False),
        ("/v1/clients/**", "GET", ", hosts: [api.example.com]", False),
        ("/v1/clients/{id}", "GET", "", False),
        ("/v1/%63lients/**", "GET", "", True),
    ],
)
def test_two_routes_that_take_the_same_calls_are_refused(path: str, method: str, hosts: str, refused: bool) -> None:
    """Which of them took a call would be chance. Spelling a path otherwise does not make it another."""
    text = varied("keys:", SECOND.format(name="other", path=path, method=method, hosts=hosts, upstream="{live: live}"))
    if not refused:
        assert len(load(text).routes) == 2
        return
    problem = only_problem(text)
    assert problem.path == "routes[1]"
    assert "takes the same calls as the route 'clients'" in problem.message


def test_names_are_unique() -> None:
    """Metrics, usage and `config diff` would mix the two."""
    text = varied("keys:", SECOND.format(name="clients", path="/x", method="GET", hosts="", upstream="{live: live}"))
    assert only_problem(text).message == "a second route is called 'clients'"
    key = '  - {id: ak_test_1, secret: "${OTHER}", plan: standard, environment: test}\n'
    assert only_problem(VALID + key, {"OTHER": "b" * 40}).message == "a second key is called 'ak_test_1'"


def test_a_secret_is_of_one_key() -> None:
    """A bearer secret that two keys share would be one of them by chance."""
    key = '  - {id: ak_test_2, secret: "${SECRET}", plan: standard, environment: test}\n'
    problem = only_problem(VALID + key)
    assert problem.message == "has the same secret as the key 'ak_test_1'"
    assert SECRET not in str(problem)


@pytest.mark.parametrize(
    "upstream", ["live", "{test: live}", "{live: sandbox, test: sandbox}", "{live: live, test: live}"]
)
def test_a_live_upstream_of_one_route_is_no_test_upstream_of_another(upstream: str) -> None:
    """A test key would reach live data by the other route."""
    text = varied("keys:", SECOND.format(name="other", path="/x", method="GET", hosts="", upstream=upstream))
    (first, *_) = problems(text)
    assert "in the route 'clients'" in first.message
    assert first.path == "routes[1]"


def test_a_server_that_is_live_and_test_by_two_names_is_warned_of() -> None:
    """The names differ and the data does not."""
    (warning,) = load(varied("127.0.0.1:9001", "127.0.0.1:9000")).warnings
    assert "has a server in common with 'live', which serves live keys" in warning


@pytest.mark.parametrize(
    ("before", "after", "warning"),
    [
        ('"${SECRET}"', SECRET, "keys[0].secret: a secret stands in the file itself"),
        ("plan: standard, ", "", "keys[0]: the key has no plan"),
        ("scopes: [clients:read], env", "scopes: [clients:raed], env", "keys[0]: no route asks for its scope 'clients:raed' (did you mean 'clients:read'?)"),
        ("{live: live, test: sandbox}", "{live: live}", "keys[0]: no route takes test keys"),
        ("{live: live, test: sandbox}", "{live: live}", "upstreams.sandbox: no route uses this upstream"),
        ("[bearer]", "[hmac]", "a nonce is known to this node alone"),
        ("    auth:", "    on_store_failure: closed\n    auth:", "routes[0]: on_store_failure is closed and there is no stores.redis"),
    ],
)  # fmt: skip
def test_what_is_suspicious_is_warned_of_and_loads(before: str, after: str, warning: str) -> None:
    """What may be meant must load, and what may be a mistake must be seen."""
    assert any(warning in line for line in load(varied(before, after)).warnings)


def test_a_file_that_nobody_could_call_is_warned_of() -> None:
    """A gateway without keys and without Postgres refuses every call, and looks healthy."""
    text = VALID[: VALID.index("keys:")]
    assert any("nobody can call" in warning for warning in load(text).warnings)


def test_a_missing_variable_is_named() -> None:
    """`must be 32 characters, and it has 0` sends one looking in the wrong place."""
    problem = only_problem(varied("${SECRET}", "${NOT_SET}"))
    assert problem.message == "the environment variable NOT_SET is not set"
    assert only_problem(varied("${SECRET}", "${not a name}")).message == "'${' begins no variable"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name: clients", 'name: "${CANARY} x"'),
        ("requests: 100", 'requests: "${CANARY}"'),
        ("requests: 100", "requests: sk_live_canaryxyz"),
        ("per: minute", 'per: "${CANARY}"'),
        ("plan: standard", 'plan: "${CANARY}"'),
        ('"http://127.0.0.1:9000"', '"http://u:${CANARY}@h"'),
        ('"http://127.0.0.1:9000"', '"http://canaryxyz:canaryxyz@h/x"'),
        ("version: 1", "version: 1\nstores: {redis: 'redys://:canaryxyz@h'}"),
        ("version: 1", "version: 1\nstores: {postgres: 'postgres//u:canaryxyz@h'}"),
        ("version: 1", "version: 1\nstores: {key_encryption_key: canaryxyz}"),
        ("version: 1", "version: 1\ncontrol_plane: {operator_token: canaryxyz}"),
        ('"${SECRET}"', "canaryxyz"),
        ('"${SECRET}"', '"${CANARY}"'),
        ('"${SECRET}"', '"canaryxyz and spaces, which are not allowed"'),
        ('secret: "${SECRET}"', "sk_live_canaryxyz: 1"),
        ("keys:", "keys:\n  - {secret: canaryxyz"),
        ("  standard:", "  sk_live_canaryxyz: {burst: 1}\n  standard:"),
        ('"/v1/clients/**"', '"/v1/{${CANARY}"'),
        ("keys:", "keys: canaryxyz\n  - a: b"),
    ],
)
def test_no_problem_shows_a_secret(before: str, after: str) -> None:
    """Problems go to logs, to /status and to the terminal of whoever looks."""
    found = problems(varied(before, after), {"CANARY": "canaryxyz"})
    assert "canaryxyz" not in "\n".join(map(str, found))


def test_a_secrets_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    """`file:` with a typing error would be taken for the secret itself, or stop the gateway without saying why."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 20)
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    for name, message in (
        ("missing", "does not exist, or is no file"),
        (".", "does not exist, or is no file"),
        ("binary", "is not UTF-8 text"),
        ("large", "is larger than 16 KiB"),
    ):
        problem = only_problem(varied('"${SECRET}"', f"file:{tmp_path}/{name}"))
        assert problem.message.endswith(message)
        assert problem.path == "keys[0].secret"


def test_warnings_do_not_hide_behind_problems() -> None:
    """A refused file tells problems alone; warnings are for files that load."""
    with pytest.raises(ConfigurationError) as refused:
        load_text(
            varied("plan: standard, ", "").replace("version: 1", "version: 3"), name="f", environment={"SECRET": SECRET}
        )
    assert [problem.path for problem in refused.value.problems] == ["version"]


@pytest.mark.parametrize("field", ["drain", "key_stale_for", "problem_pages"])
@pytest.mark.parametrize(
    "secret",
    [
        "3JfQv0m8Zt1xR7bK/2cWn5sPd9yHqLuAoE4iGgTzXk0=",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "redis://:hunter2@cache.internal:6379/0",
        "hunter2pass",
        "corr&ct-horse",
        "p@ssphrase of words",
        "hvs.CAESIJlU02LQZq",
        "eyJhbGciOiJIUzI1NiJ9.e30",
        "Bearer abcdefghijk",
        "ghp_abcdefghij",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----",
        "deadbeef01",
        "correct horse battery staple",
        "correct-horse-battery-staple",
    ],
)
def test_a_secret_in_the_wrong_field_is_not_shown(field: str, secret: str) -> None:
    """The answer to a mistake goes to logs and terminals; a secret that was typed into the wrong line must not."""
    text = f'version: 1\ngateway: {{{field}: "{secret}"}}\nroutes: []\n'
    with pytest.raises(ConfigurationError) as caught:
        load_text(text, name="f.yaml", environment={})
    assert secret[:9] not in str(caught.value)
    assert "a secret, not shown" in str(caught.value)
    assert f"gateway.{field}" in str(caught.value)


def test_a_secret_of_this_file_is_not_shown_wherever_else_it_stands(tmp_path: Path) -> None:
    """A passphrase of plain words looks like plain words; that it is the operator token shows in the other line."""
    words = "correct horse battery staple and more".replace(" ", "-")
    (tmp_path / "token").write_text(words + "\n")
    text = (
        "version: 1\nroutes: []\n"
        "control_plane: {operator_token: file:token, listen: {port: %s}}\n"
        "gateway: {drain: %s, trusted_proxies: [%s], %s: 1}\n"
        "stores: {postgres: 'postgresql://u:wordy-password@h/d', redis_deadline: wordy-password}\n"
    ) % ((words,) * 4)
    with pytest.raises(ConfigurationError) as caught:
        load_text(text, name=str(tmp_path / "f.yaml"), environment={})
    told = str(caught.value)
    assert len(caught.value.problems) == 5
    assert words[:16] not in told
    assert "wordy-password" not in told
    assert "f.yaml:3: control_plane.listen.port" in told


def test_names_are_shown() -> None:
    """A message that hides what is wrong helps nobody."""
    for name in (
        "least_connections",
        "*.example.com",
        "10.0.0.0/33",
        "/v1/clients/{id}",
        "2027-01-31T00:00:00Z",
        "100ms",
        "hmac-body",
        "clients-v2",
        "a-very-long-name-of-an-upstream-in-the-second-region-v2",
        "/srv/ostiary/certificates/api.example.com/2026",
    ):
        assert "not shown" not in shown(name)
