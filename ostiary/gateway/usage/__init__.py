"""Metering: nothing lost, nothing twice.

A worker encodes each call (`record`) and appends it to its segment of the spool (`spool`, `segment`), which `sync` has
written to the disk where that is asked for; its run (`run`) keeps the worker's own count, and the calls that are
`under_way`: `rescue` makes a segment of them if it is killed. The `shipper` takes segments to a `sink`: Postgres
(`postgres_sink`), or a stream (`stream`) whose consumer writes Postgres. What writes it does so through the `ledger`, a
`portion` at a time. `reconcile` proves that it all adds up. `directory` is what the files are called. What is recorded of a
client is `client`, kept up to date by `recording` (`salt`, `country`)."""

from ostiary.gateway.usage.client import ClientFields
from ostiary.gateway.usage.country import CountryDatabaseError
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.record import (
    CUT_SHORT_STATUS,
    ENTRIES_MAX,
    NOTHING_TOLD,
    caller_part,
    encode,
    encode_begun,
    route_part,
    told_part,
)
from ostiary.gateway.usage.recording import ClientRecording
from ostiary.gateway.usage.shipper import ShipperObserver, run_shipper
from ostiary.gateway.usage.sink import Sink
from ostiary.gateway.usage.spool import SEGMENT_BYTES, Spool, SpoolError

__all__ = [
    "CUT_SHORT_STATUS",
    "ENTRIES_MAX",
    "NOTHING_TOLD",
    "SEGMENT_BYTES",
    "ClientFields",
    "ClientRecording",
    "CountryDatabaseError",
    "PostgresSink",
    "ShipperObserver",
    "Sink",
    "Spool",
    "SpoolError",
    "caller_part",
    "encode",
    "encode_begun",
    "route_part",
    "run_shipper",
    "told_part",
]
