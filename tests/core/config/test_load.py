"""What a file means once it is read."""

from __future__ import annotations

import base64
import os
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path

import pytest

from ostiary.core.config import load_file, load_text
from ostiary.core.config.key_encryption import the_only_one
from ostiary.core.model import (
    ClientLimits,
    Environment,
    LimitBy,
    Overage,
    Period,
    Quota,
    Rate,
    Route,
    RouteLimit,
    Scheme,
    StoreFailure,
    Window,
)
from ostiary.core.resources import resource_directory
from ostiary.core.upstream import Balance, Health, Retries, Target, Timeouts, Upstream
from tests.core.config.loading import SECRET, VALID, load, varied
from tests.support.certificates import issue


def test_the_contracts_example_loads_to_the_values_it_says() -> None:
    """The file that the format's description gives would be refused, or read to something else."""
    path = resource_directory("config") / "contract.yaml"
    configuration = load_file(path, environment={"KEY_SECRET": SECRET})
    gateway, stores = configuration.gateway, configuration.stores
    assert (gateway.listen.host, gateway.listen.port) == ("0.0.0.0", 8080)
    assert gateway.listen.workers == len(os.sched_getaffinity(0))
    assert (gateway.admin.host, gateway.admin.port) == ("127.0.0.1", 9090)
    assert gateway.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert (configuration.control_plane.listen.host, configuration.control_plane.listen.port) == ("127.0.0.1", 8081)
    assert stores.redis == "redis://127.0.0.1:6379/0"
    assert stores.postgres == "postgresql://ostiary@127.0.0.1/ostiary"
    plan = configuration.plans["standard"]
    assert plan.rate == Rate(requests=100, per_seconds=60, burst=600)
    assert plan.windows == (Window(10000, 3600),)
    assert plan.quotas == (Quota(1000000, Period.DAY),)
    assert (plan.concurrency, plan.overage) == (50, Overage.BLOCK)
    assert configuration.upstreams["clients"] == Upstream(
        name="clients",
        targets=(Target("http", "127.0.0.1", 9000, 1),),
        balance=Balance.LEAST_CONNECTIONS,
        timeouts=Timeouts(2.0, 15.0, 30.0),
        retries=Retries(2, frozenset({"connect", "reset", "502", "503"})),
        health=Health("/healthz", 5.0, 3, 2),
    )
    (route,) = configuration.routes
    assert route.match.hosts == ("api.example.com",)
    assert route.match.path == "/v1/clients/**"
    assert route.match.methods == {"GET", "HEAD", "POST"}
    assert route.upstreams == {Environment.LIVE: "clients", Environment.TEST: "clients-sandbox"}
    assert route.authentication.schemes == {Scheme.HMAC, Scheme.BEARER}
    assert route.authentication.scopes["GET"] == {"clients:read"}
    assert route.authentication.scopes["POST"] == {"clients:write"}
    assert route.limits == (RouteLimit(Window(50, 1), LimitBy.IP),)
    assert route.on_store_failure is StoreFailure.LOCAL
    key = configuration.keys["ak_test_abc123"]
    assert key.secret == SECRET.encode()
    assert key.secret_sha256 == sha256(SECRET.encode()).digest()
    assert (key.plan, key.environment) == ("standard", Environment.TEST)
    assert key.scopes == {"clients:read"}
    assert configuration.warnings == ()


def test_what_is_not_given_has_the_models_defaults() -> None:
    """Defaults stand in the declarations and in the model; were they to differ, tests and gateways would run differently."""
    configuration = load(VALID)
    assert configuration.gateway.client_limits == ClientLimits()
    upstream = configuration.upstreams["live"]
    assert upstream == Upstream("live", upstream.targets)
    route = configuration.routes[0]
    assert route == Route(route.name, route.match, route.upstreams, route.authentication)
    assert configuration.gateway.drain_seconds == 30.0
    assert configuration.gateway.signature_skew_seconds == 300
    assert configuration.gateway.key_stale_seconds == 3600.0
    assert (configuration.stores.redis, configuration.stores.postgres) == (None, None)
    assert configuration.stores.spool == "/var/lib/ostiary/spool"
    assert configuration.stores.spool_bytes_max == 1 << 30
    assert configuration.stores.redis_deadline_seconds == 0.02
    assert configuration.control_plane.key_prefix == "ost"


def test_a_rates_burst_is_its_requests_unless_it_is_given() -> None:
    """A bucket without a size would hold nothing, or without bound."""
    configuration = load(varied("limits: [{requests: 100, per: minute}]", "rate: {requests: 30, per: second}"))
    assert configuration.plans["standard"].rate == Rate(30, 1, 30)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("2s", 2.0), ("1.5s", 1.5), ("2m", 120.0), ("5m", 300.0)]
)
def test_durations_carry_their_unit(text: str, seconds: float) -> None:
    """A unit that is read wrong is a timeout that is wrong by a factor of 60 or 1000."""
    configuration = load(varied("  live: {", f"  live: {{timeouts: {{connect: {text}}}, "))
    assert configuration.upstreams["live"].timeouts.connect_seconds == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("1MiB", 1 << 20), ("10MB", 10_000_000), ("64kB", 64_000), ("4096", 4096), ('"512B"', 512)]
)
def test_sizes_tell_binary_from_decimal_units(text: str, count: int) -> None:
    """A limit on bodies would be off by 5 % for each of three powers."""
    configuration = load(varied("    auth:", f"    max_body: {text}\n    auth:"))
    assert configuration.routes[0].body_bytes_max == count
    assert configuration.routes[0].signed_body_bytes_max == min(count, 1 << 20)


def test_yaml_1_1_does_not_change_what_words_mean() -> None:
    """`on:` is no boolean key, `NO` no false, 12:30 no number of seconds and 2027-01-31 no date."""
    text = varied("plan: standard, scopes: [clients:read]", "plan: NO, scopes: [on, 12:30, 2027-01-31]")
    text = text.replace("  standard:", "  NO:")
    text = text.replace("sandbox: {targets:", "sandbox: {retries: {on: [connect, 503], attempts: 3}, targets:")
    configuration = load(text)
    assert configuration.upstreams["sandbox"].retries == Retries(3, frozenset({"connect", "503"}))
    assert configuration.keys["ak_test_1"].plan == "NO"
    assert configuration.keys["ak_test_1"].scopes == {"on", "12:30", "2027-01-31"}


def test_the_environment_is_put_in_and_can_be_escaped() -> None:
    """Settings of a deployment could not be told apart from the file."""
    text = varied('"http://127.0.0.1:9000"', '"http://${HOST}:${PORT:-7000}"')
    assert load(text, {"HOST": "api"}).upstreams["live"].targets == (Target("http", "api", 7000),)
    assert load(text, {"HOST": "api", "PORT": "81"}).upstreams["live"].targets == (Target("http", "api", 81),)
    assert load(text, {"HOST": "api", "PORT": ""}).upstreams["live"].targets == (Target("http", "api", 7000),)
    literal = load(varied('"${SECRET}"', '"$${SECRET}-and-thirty-two-characters-of-text"'))
    assert literal.keys["ak_test_1"].secret == b"${SECRET}-and-thirty-two-characters-of-text"


def test_a_number_may_come_from_the_environment() -> None:
    """`port: ${PORT}` is the commonest setting there is."""
    text = varied("version: 1", 'version: 1\ngateway: {listen: {port: "${PORT}", workers: "${N:-3}"}, drain: "${D}"}')
    gateway = load(text, {"PORT": "8443", "D": "5s"}).gateway
    assert (gateway.listen.port, gateway.listen.workers, gateway.drain_seconds) == (8443, 3, 5.0)


def test_the_environment_adds_text_and_never_fields() -> None:
    """Whoever sets a variable could add a route, or open one."""
    injected = 'x"},{id:evil,environment:live,secret:"' + SECRET
    configuration = load(VALID, {"SECRET": injected})
    assert list(configuration.keys) == ["ak_test_1"]
    assert configuration.keys["ak_test_1"].secret == injected.encode()


def test_a_secrets_file_is_read_beside_the_configuration(tmp_path: Path) -> None:
    """Secrets mounted as files, with the newline that editors add, would not match."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text(SECRET + "\n", encoding="utf-8")
    (tmp_path / "gateway.yaml").write_text(VALID.replace('"${SECRET}"', "file:secrets/key"), encoding="utf-8")
    configuration = load_file(tmp_path / "gateway.yaml", environment={})
    assert configuration.keys["ak_test_1"].secret == SECRET.encode()
    assert configuration.warnings == ()
    absolute = VALID.replace('"${SECRET}"', f"file:{tmp_path}/secrets/key")
    assert load_text(absolute, name="x", environment={}).keys["ak_test_1"].secret == SECRET.encode()


def test_certificates_and_spool_are_relative_to_the_configuration(tmp_path: Path) -> None:
    """A gateway started from another folder would look for its files there."""
    issue(tmp_path, "a.test", stem="edge")
    tls = "gateway: {listen: {tls: {cert: edge.pem, key: edge.key}}}\nstores: {spool: usage}"
    (tmp_path / "g.yaml").write_text(VALID.replace("version: 1", f"version: 1\n{tls}"), encoding="utf-8")
    configuration = load_file(tmp_path / "g.yaml", environment={"SECRET": SECRET})
    (certificate,) = configuration.gateway.listen.tls
    assert certificate.cert == str(tmp_path / "edge.pem")
    assert certificate.cert_pem == (tmp_path / "edge.pem").read_bytes()
    assert configuration.stores.spool == str(tmp_path / "usage")


def test_one_upstream_name_serves_live_and_test_keys() -> None:
    """The short form would refuse half of the keys."""
    configuration = load(varied("{live: live, test: sandbox}", "live"))
    assert configuration.routes[0].upstreams == {Environment.LIVE: "live", Environment.TEST: "live"}


def test_one_environment_alone_leaves_the_other_without_an_upstream() -> None:
    """A test key would reach a live upstream, which was the only one named."""
    assert load(varied("{live: live, test: sandbox}", "{live: live}")).routes[0].upstreams == {Environment.LIVE: "live"}
    assert load(varied("{live: live, test: sandbox}", "{test: sandbox}")).routes[0].upstreams == {
        Environment.TEST: "sandbox"
    }


def test_head_needs_the_scopes_of_get() -> None:
    """HEAD tells whether a thing exists, and how large it is, to who may not GET it."""
    route = load(VALID).routes[0]
    assert "HEAD" in route.match.methods
    assert route.authentication.scopes["HEAD"] == {"clients:read"}


def test_aliases_stand_for_what_they_name() -> None:
    """A file that says something once would have to say it in every route."""
    text = varied("    upstream: {live: live, test: sandbox}", "    upstream: &both {live: live, test: sandbox}")
    text = text.replace(
        "keys:", "  - {name: other, match: {path: /x}, upstream: *both, auth: {schemes: [bearer]}}\nkeys:"
    )
    assert load(text).routes[1].upstreams == load(text).routes[0].upstreams


def test_a_key_encryption_key_is_32_bytes_in_base64_or_hex() -> None:
    """A key that is read to other bytes opens no secret that was sealed with it."""
    key = bytes(range(224, 256))
    for written in (
        base64.b64encode(key).decode(),
        base64.urlsafe_b64encode(key).decode(),
        base64.b64encode(key).decode().rstrip("="),
        key.hex(),
    ):
        text = varied("version: 1", 'version: 1\nstores: {key_encryption_key: "${KEK}"}')
        assert load(text, {"KEK": written}).stores.key_encryption == the_only_one(key)


def test_secrets_are_in_no_repr() -> None:
    """A log line with a configuration in it would give the keys away."""
    text = varied(
        "version: 1",
        'version: 1\ncontrol_plane: {operator_token: "${TOKEN}"}\nstores: {redis: "redis://u:${PW}@h/0"}',
    )
    configuration = load(text, {"TOKEN": "t" * 40, "PW": "pass-word"})
    shown = repr(configuration) + repr(configuration.keys) + str(configuration.control_plane)
    assert SECRET not in shown
    assert "t" * 40 not in shown
    assert "pass-word" not in shown


def test_a_byte_order_mark_and_crlf_are_read() -> None:
    """Files saved on Windows would be refused."""
    assert load("\ufeff" + VALID.replace("\n", "\r\n")) == load(VALID)
