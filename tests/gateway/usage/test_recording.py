"""What is recorded of clients: no more than the configuration says, and always what it says now."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from ostiary.core.usage import AddressRecording, AgentRecording, Recording
from ostiary.gateway.usage import ClientFields, ClientRecording, CountryDatabaseError, told_part
from ostiary.gateway.usage.recording import LOOK_SECONDS
from ostiary.gateway.usage.salt import daily_salt
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import Observed, Rows, as_version_1, call, mark_version_1, open_spool, segment_files

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
DAY_SECONDS = 86_400.0


def _write_countries(path: Path, countries: dict[str, Any]) -> None:
    """A database of networks, as geoipupdate does: whole, by renaming."""
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-Country")
    for network, entry in countries.items():
        writer.insert_network(IPSet([network]), entry)
    writer.to_db_file(str(path.with_suffix(".new")))
    path.with_suffix(".new").rename(path)


async def _recorded(
    rows: Rows, shipper: Shipper, directory: Path, *clients: tuple[ClientFields, str]
) -> list[dict[str, object]]:
    spool = open_spool(directory)
    for number, (fields, ip) in enumerate(clients):
        spool.append(call(f"req-{number}", ip=ip, user_agent=b" curl/8.5.0 (x; y)", client=fields))
    spool.close()
    await shipper.ship()
    found = await rows.fetch("SELECT ip, ip_hash, country, user_agent FROM usage_events ORDER BY request_id")
    return [dict(row) for row in found]


async def test_only_what_is_configured_of_a_client_reaches_the_table(
    spool_directory: Path, shipper: Shipper, rows: Rows
) -> None:
    """Without it: addresses that an operator promised not to keep."""
    full, truncated, hashed, nothing = (
        ClientFields(address=address, agent=agent, salt=b"s" * 32)
        for address, agent in zip(
            AddressRecording,
            (AgentRecording.FULL, AgentRecording.PRODUCT, AgentRecording.PRODUCT, AgentRecording.NONE),
            strict=True,
        )
    )
    found = await _recorded(
        rows,
        shipper,
        spool_directory,
        *((full, "192.0.2.77"), (truncated, "192.0.2.77"), (truncated, "2001:db8:1:2::7")),
        *((hashed, "192.0.2.77"), (nothing, "192.0.2.77"), (hashed, "unix:")),
    )
    assert [row["ip"] for row in found] == [
        ip_address("192.0.2.77"),
        ip_interface("192.0.2.0/24"),
        ip_interface("2001:db8:1::/48"),
        *(None, None, None),
    ]
    hashes = [row["ip_hash"] for row in found]
    assert [value is None for value in hashes] == [True, True, True, False, True, True]
    assert isinstance(hashes[3], bytes)
    assert len(hashes[3]) == 16
    assert b"\xc0\x00\x02" not in hashes[3]
    assert [row["user_agent"] for row in found] == [" curl/8.5.0 (x; y)", *["curl/8.5.0"] * 3, None, "curl/8.5.0"]


def test_a_hash_is_the_same_in_every_worker_of_a_day_and_another_the_next(tmp_path: Path) -> None:
    """Without it: a client is as many as there are workers, or can be followed from day to day."""
    recording = Recording(address=AddressRecording.HASHED)
    one, other = (ClientRecording(recording, directory=tmp_path, now=NOON) for _ in range(2))

    def columns(of: ClientRecording) -> bytes:
        return of.fields.learn("192.0.2.7", None)[0]

    today = columns(one)
    assert today == columns(other)
    assert one.renewed(NOON + 60) is None
    assert one.renewed(NOON + DAY_SECONDS) is one.fields
    assert other.renewed(NOON + DAY_SECONDS) is not None
    assert columns(one) == columns(other) != today


def test_a_salt_is_private_and_gone_when_its_day_is(tmp_path: Path) -> None:
    """Without it: who reads the disk later can find out whose hash it was, by trying all addresses."""
    salts = [daily_salt(tmp_path, day) for day in ("20260228", "20260301", "20260302")]
    assert len(set(salts)) == 3
    assert daily_salt(tmp_path, "20260302") == salts[2]
    kept = sorted(tmp_path.iterdir())
    assert [path.name for path in kept] == ["ip-salt.20260301", "ip-salt.20260302"]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    (tmp_path / "ip-salt.20260303").write_bytes(b"short")
    with pytest.raises(ValueError, match="remove it"):
        daily_salt(tmp_path, "20260303")


def test_a_salt_that_can_t_be_shared_still_hides_the_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without it: a full disk stops a worker, or makes it hash under a salt that anyone can guess."""
    recording = Recording(address=AddressRecording.HASHED)
    one, other = (ClientRecording(recording, directory=tmp_path / "gone", now=NOON) for _ in range(2))
    assert [record.message for record in caplog.records] == ["ip_salt_not_shared"] * 2
    assert one.fields.learn("192.0.2.7", None) != other.fields.learn("192.0.2.7", None)


async def test_the_country_comes_from_the_database_in_any_of_its_forms(
    spool_directory: Path, shipper: Shipper, rows: Rows, tmp_path: Path
) -> None:
    """Without it: a column that is promised and always empty; or one that says what a database says of somebody else."""
    path = tmp_path / "countries.mmdb"
    _write_countries(
        path,
        {
            "192.0.2.0/24": {"country": {"iso_code": "DE"}},
            "198.51.100.0/24": {"registered_country": {"iso_code": "fr"}},
            "203.0.113.0/24": {"country": "IT"},
            "2001:db8::/32": {"country_code": "JP"},
            "100.64.0.0/16": {"country": {"iso_code": "<script>"}},
            "100.65.0.0/16": {"city": "nowhere"},
        },
    )
    recording = ClientRecording(
        Recording(address=AddressRecording.NONE, country_database=str(path)), directory=tmp_path, now=NOON
    )
    addresses = (
        "192.0.2.7",
        "198.51.100.7",
        "203.0.113.7",
        "2001:db8::7",
        "100.64.0.7",
        "100.65.0.7",
        "10.0.0.1",
    )
    found = await _recorded(rows, shipper, spool_directory, *((recording.fields, address) for address in addresses))
    assert [row["country"] for row in found] == ["DE", "FR", "IT", "JP", None, None, None]
    assert {row["ip"] for row in found} == {None}


def test_a_replaced_database_is_read_again_and_a_broken_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it: countries of the day the gateway was started, for months; or none after a download that broke off."""
    path = tmp_path / "countries.mmdb"
    _write_countries(path, {"192.0.2.0/24": {"country": {"iso_code": "DE"}}})
    recording = ClientRecording(Recording(country_database=str(path)), directory=tmp_path, now=NOON)

    def country() -> bytes:
        return recording.fields.learn("192.0.2.7", None)[0]

    def look_twice(now: float) -> bool:
        return [recording.renewed(now + LOOK_SECONDS), recording.renewed(now + 2 * LOOK_SECONDS)][1] is not None

    assert b"DE" in country()
    assert not look_twice(NOON)
    _write_countries(path, {"192.0.2.0/24": {"country": {"iso_code": "AT"}}})
    assert look_twice(NOON + 100)
    assert b"AT" in country()
    path.write_bytes(b"half a download")  # in place, under what is in use
    os.utime(path, (1, 1))
    assert not look_twice(NOON + 200)
    assert not look_twice(NOON + 300)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["country_database_unusable"]
    assert b"AT" in country()
    _write_countries(path, {"192.0.2.0/24": {"country": {"iso_code": "CH"}}})
    assert look_twice(NOON + 400)
    assert b"CH" in country()


@pytest.mark.parametrize("content", [None, b"", b"not a database"])
def test_a_database_that_can_t_be_read_refuses_the_start_by_name(tmp_path: Path, content: bytes | None) -> None:
    """Without it: a mistyped path is noticed when somebody asks for the countries of last month."""
    path = tmp_path / "countries.mmdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CountryDatabaseError, match=r"usage.country_database .*countries.mmdb can't be read"):
        ClientRecording(Recording(country_database=str(path)), directory=tmp_path, now=NOON)


def test_a_reload_changes_what_is_recorded(tmp_path: Path) -> None:
    """Without it: an operator turns addresses off, and they are kept until the next restart."""
    recording = ClientRecording(Recording(), directory=tmp_path, now=NOON)
    before = recording.fields
    assert recording.follow(Recording(), NOON) is before
    after = recording.follow(Recording(address=AddressRecording.NONE), NOON)
    assert after.learn("192.0.2.7", None) != before.learn("192.0.2.7", None)


async def test_what_a_gateway_of_before_left_in_the_spool_is_delivered(
    spool_directory: Path, shipper: Shipper, rows: Rows, observed: Observed
) -> None:
    """Row 89: an older version. Without it: an upgrade sets aside every call that waited for Postgres."""
    spool = open_spool(spool_directory)
    for name in ("old", "older"):
        spool.append(as_version_1(call(name, told=told_part(["standard:minute"], []))))
    spool.close()
    [path] = segment_files(spool_directory, "sealed")
    mark_version_1(path)
    assert await shipper.ship() == 2
    assert observed.quarantines == 0
    found = await rows.fetch(
        "SELECT request_id, key_id, route, ip, user_agent, complete, num_nonnulls(key_generation, country, ip_hash, "
        "would_refuse, quota_reached) FROM usage_events ORDER BY 1"
    )
    kept = ("ak_test_abc123", "clients", ip_address("192.0.2.7"), "curl/8.5.0", True, 0)
    assert [tuple(row) for row in found] == [("old", *kept), ("older", *kept)]
    assert await rows.fetchval("SELECT count(*) FROM key_uses") == 0  # of which secret it was is not known


@pytest.mark.parametrize("address", [AddressRecording.HASHED, AddressRecording.NONE])
async def test_a_key_s_last_use_tells_no_address_that_is_not_kept(
    spool_directory: Path, shipper: Shipper, rows: Rows, address: AddressRecording
) -> None:
    """Without it: an operator who promised to keep no addresses keeps one for each key, in another table."""
    fields = ClientFields(address=address, agent=AgentRecording.PRODUCT, salt=b"s" * 32)
    await _recorded(rows, shipper, spool_directory, (fields, "192.0.2.77"))
    found = await rows.fetch("SELECT key_id, generation, last_used_ip, last_used_user_agent FROM key_uses")
    assert [tuple(row) for row in found] == [("ak_test_abc123", 1, None, "curl/8.5.0")]
