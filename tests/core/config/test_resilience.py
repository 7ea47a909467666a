"""How an upstream survives bad targets, as it is written: what loads, what is refused, and what a change of it means."""

# ruff: noqa: E501  the tables are read by their columns

from __future__ import annotations

import pytest

from ostiary.core.config.difference import compare
from ostiary.core.upstream import Breaker, Connections, Ejection, HashBy, HashSource, Retries, Timeouts, Upstream
from tests.core.config.loading import VALID, load, only_problem, varied

LIVE = 'live: {targets: [{url: "http://127.0.0.1:9000"}]'


def with_fields(fields: str) -> str:
    """VALID with fields for the upstream `live`, in line 5."""
    return varied(LIVE + "}", f"{LIVE}, {fields}}}")


def live(fields: str) -> Upstream:
    return load(with_fields(fields)).upstreams["live"]


def test_without_a_word_about_it_targets_are_ejected_and_tries_have_a_budget() -> None:
    """The defaults are what almost every operator runs."""
    upstream = load(VALID).upstreams["live"]
    assert upstream.ejection == Ejection(after=5, seconds=10.0, seconds_max=300.0)
    assert upstream.retries == Retries(attempts=2, on=frozenset({"connect"}), budget_share=0.1)
    assert (upstream.breaker, upstream.panic_share, upstream.timeouts.whole_seconds) == (None, 0.5, None)
    assert upstream.connections == Connections(at_most=4096, waiting=256, wait_seconds=1.0)
    assert upstream.hash_by == HashBy(HashSource.KEY)


def test_everything_that_is_written_is_read() -> None:
    """A field that is dropped on the way is a protection that is not there."""
    upstream = live(
        "balance: consistent_hash, hash_by: {header: X-Tenant}, timeouts: {whole: 1m}, retries: {budget: 2.5%}, "
        "ejection: {after: 3, for: 1s, up_to: 1m, on: [timeout, 503]}, panic_threshold: 100%, "
        "breaker: {errors: 20%, calls: 50, window: 30s, open: 1s, trials: 1, on: [connect, 500]}, "
        "connections: {max: 10, waiting: 0, wait: 50ms}"
    )
    assert upstream.hash_by == HashBy(HashSource.HEADER, "X-Tenant")
    assert upstream.timeouts == Timeouts(whole_seconds=60.0)
    assert upstream.retries.budget_share == 0.025
    assert upstream.ejection == Ejection(3, 1.0, 60.0, frozenset({"timeout", "503"}))
    assert upstream.panic_share == 1.0
    assert upstream.breaker == Breaker(0.2, 50, 30.0, 1.0, 1, frozenset({"connect", "500"}))
    assert upstream.connections == Connections(10, 0, 0.05)
    assert live("ejection: off").ejection is None
    assert live("breaker: {}").breaker == Breaker()
    for source in (HashSource.KEY, HashSource.IP):
        assert live(f"balance: consistent_hash, hash_by: {source}").hash_by == HashBy(source)


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ("hash_by: ip", "hash_by", "means nothing with balance: round_robin (write balance: consistent_hash, or remove hash_by)"),
        ("balance: consistent_hash, hash_by: host", "hash_by", "must be `key` or `ip`, not 'host'"),
        ("balance: consistent_hash, hash_by: {}", "hash_by", "must name one thing to hash by (header or path_parameter)"),
        ("balance: consistent_hash, hash_by: {header: A, path_parameter: b}", "hash_by", "must name one thing to hash by (header or path_parameter)"),
        ("balance: consistent_hash, hash_by: {header: Authorization}", "hash_by.header", "is a credential (write hash_by: key, which goes by the caller)"),
        ("balance: consistent_hash, hash_by: {header: X-Ostiary-Key}", "hash_by.header", "is not taken from clients (choose a header that the clients send)"),
        ("balance: consistent_hash, hash_by: {header: a_b}", "hash_by.header", "must be the name of a header, as in `X-Tenant`, not 'a_b'"),
        ("retries: {budget: 10}", "retries.budget", "must be a share from `0%` to `100%`, not '10' (write it with a percent sign)"),
        ("retries: {budget: 101%}", "retries.budget", "must be a share from `0%` to `100%`, not '101%'"),
        ("retries: {on: [timeout]}", "retries.on[0]", "must be `connect` or `reset`, not 'timeout'"),
        ("ejection: on", "ejection", "must be `off`, not 'on'"),
        ("ejection: {for: 10m}", "ejection.for", "up_to is shorter than for (raise up_to)"),
        ("ejection: {on: [404]}", "ejection.on[0]", "must be a whole number from 500 to 599, not '404'"),
        ("breaker: {errors: 0%}", "breaker.errors", "must be a share from `1%` to `100%`, not '0%'"),
        ("connections: {max: 0}", "connections.max", "must be a whole number from 1 to 65535, not '0'"),
        ("timeouts: {whole: 10}", "timeouts.whole", "must be a duration from `1ms` to `24h`, not '10' (give it a unit: ms, s, m, h or d)"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_in_its_line(fields: str, path: str, message: str) -> None:
    """A protection that is written and does nothing is worse than none."""
    problem = only_problem(with_fields(fields))
    assert str(problem) == f"gateway.yaml:5: upstreams.live.{path}: {message}"


def test_every_route_to_an_upstream_has_the_path_parameter_it_goes_by() -> None:
    """Calls of a route without it would all go to one target."""
    text = with_fields("balance: consistent_hash, hash_by: {path_parameter: client}")
    problem = only_problem(text)
    assert (problem.line, problem.path) == (8, "routes[0]")
    assert problem.message == (
        "sends calls to the upstream 'live', which goes by the path parameter 'client', and its path has none of that name"
    )
    assert load(text.replace("/v1/clients/**", "/v1/clients/{client}/**")).upstreams["live"].hash_by.name == "client"
    assert only_problem(text.replace("/v1/clients/**", "/v1/clients/{clinet}")).mend == "did you mean 'clinet'?"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("balance: consistent_hash, hash_by: ip", ["balance: round_robin -> consistent_hash\n    most callers", "hash_by: key -> ip\n    most callers"]),
        ("timeouts: {whole: 1m}", ["timeouts.whole: no bound -> 1m"]),
        ("retries: {budget: 20%}", ["retries.budget: 10% -> 20%"]),
        ("ejection: off", ["ejection: for 10s to 5m after 5 of connect, protocol, reset, timeout in a row -> off\n    targets whose"]),
        ("panic_threshold: 0%", ["panic_threshold: 50% -> 0%"]),
        ("breaker: {}", ["breaker: none -> at 50% of at least 20 calls in 10s that end in 502, 503, 504, connect, protocol, reset, timeout, for 5s, then 3 trials\n    callers get 503"]),
        ("connections: {max: 5}", ["connections: 4096, and 256 calls that wait up to 1s -> 5, and 256 calls that wait up to 1s"]),
    ],
)  # fmt: skip
def test_a_change_is_told_with_what_it_means(fields: str, told: list[str]) -> None:
    """An operator would put in force what nobody has read."""
    changes = [str(change) for change in compare(load(VALID), load(with_fields(fields)))]
    assert len(changes) == len(told)
    for change, begins in zip(changes, told, strict=True):
        assert change.startswith(f"changed upstream live: {begins}")
