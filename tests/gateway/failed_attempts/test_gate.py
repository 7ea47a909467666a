"""Who failed too often waits; who did not, does not."""

from __future__ import annotations

import random
import tracemalloc
from ipaddress import ip_network

import pytest

from ostiary.core.model import FailedAttempts
from ostiary.gateway.failed_attempts import AttemptTable, Barred, Gate
from ostiary.gateway.failed_attempts.gate import SPAN_SECONDS
from ostiary.gateway.failed_attempts.table import SETS, WAYS
from ostiary.gateway.node import NodeMemory
from ostiary.gateway.telemetry.metrics import Metrics

ATTACKER, OTHER = "192.0.2.1", "192.0.2.2"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def gate_of(
    clock: Clock, table: AttemptTable | None = None, *, per_address: int = 10, per_key: int = 100, trusted: str = ""
) -> Gate:
    return Gate(
        table or AttemptTable.alone(),
        settings=FailedAttempts(per_address, per_key),
        trusted=(ip_network(trusted),) if trusted else (),
        metrics=Metrics.in_memory(),
        clock=clock,
    )


def fail(gate: Gate, address: str, times: int, key_id: str | None = None) -> int:
    """How many of them were told to wait."""
    return sum(gate.failed(address, key_id) is not None for _ in range(times))


def is_barred(gate: Gate, address: str) -> bool:
    try:
        gate.check(address)
    except Barred:
        return True
    return False


def is_key_barred(gate: Gate, address: str, key_id: str) -> bool:
    try:
        gate.check_key(address, key_id)
    except Barred:
        return True
    return False


def test_an_address_has_exactly_as_many_failures_as_it_may() -> None:
    """Row 69: one less would lock out who may still try, one more is a look-up more."""
    gate = gate_of(Clock())
    assert fail(gate, ATTACKER, 9) == 0
    assert not is_barred(gate, ATTACKER)
    assert fail(gate, ATTACKER, 1) == 0
    assert is_barred(gate, ATTACKER)
    assert fail(gate, ATTACKER, 5) == 5
    assert not is_barred(gate, OTHER)


def test_the_wait_that_is_told_is_the_wait_that_it_takes() -> None:
    """A client that heeds Retry-After must get in then."""
    clock = Clock()
    gate = gate_of(clock)
    fail(gate, ATTACKER, 10)
    with pytest.raises(Barred) as barred:
        gate.check(ATTACKER)
    assert dict(barred.value.headers) == {"Retry-After": "6"}
    clock.now += 5.9
    assert is_barred(gate, ATTACKER)
    clock.now += 0.2
    assert not is_barred(gate, ATTACKER)
    assert fail(gate, ATTACKER, 2) == 1  # it had one


def test_nobody_waits_for_longer_than_the_span_however_long_it_attacked() -> None:
    """Who shares the address with an attacker that has gone would be locked out for as long as that one had tried."""
    clock = Clock()
    gate = gate_of(clock)
    fail(gate, ATTACKER, 100_000)
    clock.now += SPAN_SECONDS / 10 + 0.01
    assert not is_barred(gate, ATTACKER)
    clock.now += SPAN_SECONDS
    assert fail(gate, ATTACKER, 10) == 0


def test_addresses_of_one_ipv6_network_are_one() -> None:
    """Row 69: a /64 is what any customer has; by single addresses there would be no bound."""
    gate = gate_of(Clock())
    for number in range(10):
        fail(gate, f"2001:db8::{number:x}", 1)
    assert is_barred(gate, "2001:db8::ffff")
    assert not is_barred(gate, "2001:db8:0:1::1")


def test_a_trusted_proxy_never_waits() -> None:
    """All callers behind a proxy that names none of them would."""
    gate = gate_of(Clock(), trusted="192.0.2.0/24")
    assert fail(gate, ATTACKER, 100) == 0
    assert not is_barred(gate, ATTACKER)


def test_nobody_can_lock_the_owner_of_a_key_out_from_another_address() -> None:
    """Row 69: whoever knows a key's id, which is in logs and URLs, would stop its owner with a thousand bad signatures."""
    gate = gate_of(Clock())
    for number in range(200):
        fail(gate, f"198.51.100.{number}", 20, "ak_live_1")
    assert is_key_barred(gate, "198.51.100.7", "ak_live_1")
    assert not is_key_barred(gate, OTHER, "ak_live_1")
    assert not is_barred(gate, OTHER)


def test_a_neighbour_with_another_key_goes_on() -> None:
    """Behind one address with an attacker: its own key is not the one that is tried."""
    gate = gate_of(Clock())
    fail(gate, ATTACKER, 50, "ak_live_1")
    assert is_key_barred(gate, ATTACKER, "ak_live_1")
    assert not is_key_barred(gate, ATTACKER, "ak_live_2")


def test_a_key_under_attack_raises_one_alarm_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """One line a failure would be a flood of its own."""
    clock = Clock()
    gate = gate_of(clock, per_key=100)
    for second in range(130):
        clock.now += 1
        for number in range(20):
            gate.failed(f"198.51.100.{second % 250}", "ak_live_1")
            assert number < 20
    alarms = [record for record in caplog.records if record.message == "key_under_attack"]
    assert [record.__dict__["fields"]["key_id"] for record in alarms] == ["ak_live_1"] * len(alarms)
    assert 2 <= len(alarms) <= 3


def test_signed_calls_ask_only_while_some_key_is_barred() -> None:
    """It costs each of them a look-up."""
    clock = Clock()
    table = AttemptTable.alone()
    gate, other_worker = gate_of(clock, table), gate_of(clock, table)
    fail(gate, ATTACKER, 9, "ak_live_1")
    other_worker.refresh()
    assert not gate.watchful
    assert not other_worker.watchful
    fail(gate, ATTACKER, 1, "ak_live_1")
    other_worker.refresh()
    assert gate.watchful
    assert other_worker.watchful
    assert is_key_barred(other_worker, ATTACKER, "ak_live_1")
    clock.now += SPAN_SECONDS + 1
    gate.refresh()
    assert not gate.watchful


def test_workers_of_a_node_count_together() -> None:
    """Else an address had its bound once for each worker."""
    clock = Clock()
    node = NodeMemory.create(buckets=2)
    gates = [gate_of(clock, node.attempts()) for _ in range(5)]
    for gate in gates:
        fail(gate, ATTACKER, 2)
    assert all(is_barred(gate, ATTACKER) for gate in gates)


def test_a_flood_takes_no_memory_and_displaces_no_attacker() -> None:
    """Row 69: as many addresses as one likes, each with one failure, must not set the attacker free that has a thousand."""
    clock = Clock()
    gate = gate_of(clock)
    attackers = [f"192.0.2.{number}" for number in range(50)]
    for address in attackers:
        fail(gate, address, 20)
    chance = random.Random(69)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(2 * SETS * WAYS):
        clock.now += 0.00001
        gate.failed(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", None)
        if chance.random() < 0.001:
            fail(gate, chance.choice(attackers), 1)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(is_barred(gate, address) for address in attackers)
    assert after - before < 64 * 1024
