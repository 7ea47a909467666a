"""A record is a row: what goes in is what Postgres has, whatever a client made of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.gateway.usage import caller_part, record, route_part, told_part
from ostiary.gateway.usage.client import REMEMBERED_MAX
from ostiary.gateway.usage.record import occurred_day, request_id_of
from ostiary.gateway.usage.segment import RECORD_BYTES_MAX
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import APP, ORGANIZATION, Rows, call, open_spool

QUOTA: dict[str, str | int] = {
    "subject": "k:é",
    "quota": "p:day",
    "period_ends_us": 1_782_950_400_000_000,
    "percent": 50,
    "calls_max": 9,
}


async def test_every_column_arrives_as_it_was_given(spool_directory: Path, shipper: Shipper, rows: Rows) -> None:
    """Without it: a field that moved, or a number cut short, and bills that are wrong."""
    spool = open_spool(spool_directory)
    spool.append(
        call(
            "a.B-1_",
            caller=caller_part("ak_live_1", APP, ORGANIZATION, "live", 7),
            route=route_part("wéddings", "/v1/weddings/{id}"),
            occurred_at=1_767_225_600.123456,
            method=b"PATCH",
            status=599,
            latency_us=2**62,
            upstream_us=0,
            bytes_in=2**62 + 1,
            bytes_out=5 * 2**32,
            ip="2001:db8::7",
            user_agent="Zoë/1".encode(),
            overage=True,
            complete=False,
            told=told_part(["standard:minute", "café-by-ip"], [QUOTA]),
        )
    )
    spool.append(
        call(
            "b",
            caller=caller_part(None, None, None, None, None),
            route=route_part(None, None),
            upstream_us=-1,
            ip="unix:",
            user_agent=None,
        )
    )
    spool.close()
    await shipper.ship()
    full = dict(await rows.fetchrow("SELECT * FROM usage_events WHERE request_id = 'a.B-1_'") or {})
    assert full == {
        "occurred_at": datetime(2026, 1, 1, 0, 0, 0, 123456, UTC),
        "request_id": "a.B-1_",
        "key_id": "ak_live_1",
        "app_id": UUID(APP),
        "organization_id": UUID(ORGANIZATION),
        "environment": "live",
        "key_generation": 7,
        "route": "wéddings",
        "path_template": "/v1/weddings/{id}",
        "method": "PATCH",
        "status": 599,
        "latency_us": 2**62,
        "upstream_us": 0,
        "bytes_in": 2**62 + 1,
        "bytes_out": 5 * 2**32,
        "ip": ip_address("2001:db8::7"),
        "country": None,
        "ip_hash": None,
        "user_agent": "Zoë/1",
        "overage": True,
        "complete": False,
        "would_refuse": "standard:minute,café-by-ip",
        "quota_reached": full["quota_reached"],
    }
    assert json.loads(full["quota_reached"]) == [QUOTA]
    bare = dict(await rows.fetchrow("SELECT * FROM usage_events WHERE request_id = 'b'") or {})
    empty = {name for name, value in bare.items() if value is None}
    assert empty == {
        *("key_id", "app_id", "organization_id", "environment", "key_generation", "route", "path_template"),
        *("upstream_us", "ip", "ip_hash", "country", "user_agent", "would_refuse", "quota_reached"),
    }


POISON = [
    b"NUL \0 in it",
    b"\xff\xfe not UTF-8 \xc3",
    b"\xed\xa0\x80 a lone surrogate",
    b"\\N \t \\. \r\n COPY syntax",
    b"\x1b[31mterminal\x7f",
    b"A" * 2**20,
    "é".encode() * 300,
    b"",
]


async def test_poison_from_a_client_is_cleaned_and_delivered(
    spool_directory: Path, shipper: Shipper, rows: Rows
) -> None:
    """Row 91: NUL, invalid UTF-8, lone surrogates, COPY syntax, a user agent of 1 MiB.

    Without it: one hostile header, and the segment it is in is never delivered."""
    spool = open_spool(spool_directory)
    for number, poison in enumerate(POISON):
        assert spool.append(call(f"ua-{number}", user_agent=poison))
        assert spool.append(call(b"id-%d-" % number + poison))
        assert spool.append(call(f"ip-{number}", ip=poison[:100].decode("utf-8", "replace"), method=poison[:100]))
        name = poison[:600].decode("utf-8", "surrogateescape")
        assert spool.append(
            call(f"name-{number}", caller=caller_part(name, None, None, name, 1), route=route_part(name, name))
        )
    spool.append(call("good"))
    spool.close()
    assert await shipper.ship() == 4 * len(POISON) + 1
    assert await rows.fetchval("SELECT max(length(user_agent)) FROM usage_events") == 512
    assert await rows.fetchval("SELECT max(length(request_id)) FROM usage_events") == 128
    controls = await rows.fetchval(
        r"SELECT count(*) FROM usage_events WHERE concat(user_agent, method, route, key_id) ~ '[\x01-\x1f\x7f]'"
    )
    assert controls == 0


@given(
    request_id=st.binary(max_size=200),
    method=st.binary(max_size=40),
    ip=st.text(max_size=70) | st.ip_addresses().map(str),
    user_agent=st.none() | st.binary(max_size=600),
    name=st.text(max_size=600),
)
def test_encode_takes_any_bytes_and_stays_within_its_bound(
    request_id: bytes, method: bytes, ip: str, user_agent: bytes | None, name: str
) -> None:
    """For any bytes of a client and any names of an operator: a record, no longer than a segment takes, whose text fields
    are UTF-8 without NUL."""
    caller = caller_part(name, APP, ORGANIZATION, name, 2**31 - 1)
    encoded = call(request_id, caller=caller, route=route_part(name, name), method=method, ip=ip, user_agent=user_agent)
    assert len(encoded) <= RECORD_BYTES_MAX
    assert "\0" not in request_id_of(encoded)
    for field in _text_fields(encoded):
        assert "\0" not in field.decode()


def _text_fields(encoded: bytes) -> list[bytes]:
    fields = []
    at = 2
    for column in record.COLUMNS:
        length = int.from_bytes(encoded[at : at + 4], signed=True)
        value = encoded[at + 4 : at + 4 + max(0, length)]
        at += 4 + max(0, length)
        if column in {"request_id", "method", "key_id", "environment", "route", "path_template", "user_agent"}:
            fields.append(value)
    assert at == len(encoded)
    return fields


def test_request_id_and_day_are_read_back_from_a_record() -> None:
    """Without it: the count by request id compares the wrong bytes."""
    for upstream_us in (-1, 0, 12345):
        encoded = call("0123-abc", upstream_us=upstream_us, occurred_at=946_684_800.0 + 3 * 86_400 - 1)
        assert request_id_of(encoded) == "0123-abc"
        assert occurred_day(encoded) == 2
    assert occurred_day(call(occurred_at=946_684_799.0)) == -1


def test_what_is_remembered_of_clients_is_bounded() -> None:
    """Without it: a client that changes its user agent with every call fills the worker's memory."""
    for number in range(3 * REMEMBERED_MAX):
        call(ip=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", user_agent=b"agent/%d" % number)
    for remembered in (record.EVERYTHING.addresses, record.EVERYTHING.agents):
        assert len(remembered) <= REMEMBERED_MAX
    assert len(record._methods) <= record.METHODS_REMEMBERED_MAX


def test_an_id_that_is_no_uuid_is_refused_where_the_caller_is_prepared() -> None:
    """Without it: a call metered to nobody."""
    with pytest.raises(ValueError):
        caller_part("ak_test_1", "not-a-uuid", None, "test", 1)
