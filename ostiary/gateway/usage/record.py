"""One metered call as bytes: a row of PostgreSQL's binary COPY format, so that the shipper moves it without reading it.

Everything that does not change from call to call is encoded once: the caller and the route by whoever prepares them, the
method, the address and the user agent in bounded memories here. What is left of a call is a few numbers and one formatting:
`int.to_bytes`, which compiled code does without a call of Python, as it does not for `struct`. Binary, because Postgres takes
it for half of what parsing text costs, and because nothing needs escaping."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Final

from ostiary.core.usage import REQUEST_ID_BYTES_MAX
from ostiary.gateway.usage.client import ClientFields
from ostiary.gateway.usage.columns import CONTROLS, NULL, clean, field

# The columns of a record, in order: the list of every COPY. A change here is a new RECORD_VERSION.
COLUMNS = (
    "occurred_at",
    "latency_us",
    "upstream_us",
    "bytes_in",
    "bytes_out",
    "request_id",
    "method",
    "status",
    "key_id",
    "app_id",
    "organization_id",
    "environment",
    "key_generation",
    "route",
    "path_template",
    "ip",
    "country",
    "ip_hash",
    "user_agent",
    "overage",
    "complete",
    "would_refuse",
    "quota_reached",
)
RECORD_VERSION: Final = 2

# What segments of each version hold: those of an older one wait in the spool when a gateway is upgraded.
_SINCE_2 = frozenset(("key_generation", "country", "ip_hash", "would_refuse", "quota_reached"))
COLUMNS_OF = {1: tuple(name for name in COLUMNS if name not in _SINCE_2), RECORD_VERSION: COLUMNS}

COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_END = struct.pack("!h", -1)

ENTRIES_MAX: Final = 16  # of limits in shadow, and of quotas, in one record
ENTRY_CHARACTERS_MAX: Final = 140  # two names of the configuration and what is counted
NAME_CHARACTERS_MAX: Final = 512  # routes, templates and key ids: the roll-up's index takes no entry above 2.7 kB

METHODS_REMEMBERED_MAX: Final = 4096

CUT_SHORT_STATUS: Final = 499  # no status was sent; nginx's number for it, which log tools know

_EPOCH_US: Final = 946_684_800_000_000  # Postgres counts from 2000-01-01 UTC

# What most calls tell of limits in shadow and of quotas.
NOTHING_TOLD: Final = NULL + NULL

_HEAD: Final = struct.pack("!hi", len(COLUMNS), 8)
_EIGHT: Final = struct.pack("!i", 8)  # how long each number is
_NO_UPSTREAM: Final = NULL + _EIGHT
_NO_NUMBERS: Final = bytes(8) + NULL + (_EIGHT + bytes(8)) * 2  # no latency, no upstream, no bytes
# Most durations and lengths, as numbers of eight bytes: 85 kB.
_REMEMBERED_NUMBERS: Final = 2048
_NUMBERS: Final = tuple(number.to_bytes(8, "big") for number in range(_REMEMBERED_NUMBERS))
_unpack_occurred: Final = Struct("!q").unpack_from
_unpack_length: Final = Struct("!i").unpack_from

# Of request ids: cleaning makes three bytes of one that is no UTF-8.
_LENGTHS: Final = tuple(length.to_bytes(4, "big") for length in range(3 * REQUEST_ID_BYTES_MAX + 1))
_STATUS: Final = tuple(struct.pack("!ih", 2, status) for status in range(1000))
_FLAGS: Final = tuple(
    tuple(struct.pack("!i?i?", 1, overage, 1, complete) for complete in (False, True)) for overage in (False, True)
)

_methods: Final[dict[bytes, bytes]] = {}
EVERYTHING: Final = ClientFields()  # of a client: what is recorded unless the configuration says otherwise


def caller_part(
    key_id: str | None,
    app_id: str | None,
    organization_id: str | None,
    environment: str | None,
    generation: int | None,
) -> bytes:
    """The columns that say who called, for `encode`; all None for a call without a known caller. `generation` is that of the
    secret.

    Raises ValueError if an app or organization id is no UUID: those ids come from the database."""
    number = NULL if generation is None else struct.pack("!ii", 4, generation)
    return _text(key_id) + _uuid(app_id) + _uuid(organization_id) + _text(environment) + number


def route_part(route: str | None, path_template: str | None) -> bytes:
    """The columns that say what was called, for `encode`; both None when no route matched."""
    return _text(route) + _text(path_template)


def told_part(would_refuse: Sequence[str], quotas: Sequence[Mapping[str, str | int]]) -> bytes:
    """The columns that say which limits in shadow would have refused the call, and what is to be told of quotas, for
    `encode`. Of neither more than ENTRIES_MAX."""
    names = ",".join(name[:ENTRY_CHARACTERS_MAX] for name in would_refuse[:ENTRIES_MAX])
    text = json.dumps([dict(quota) for quota in quotas[:ENTRIES_MAX]])
    # jsonb as it goes over the wire: a version, then text. json.dumps escapes all but ASCII.
    return _text_of(names) + (field(b"\x01" + text.encode()) if quotas else NULL)


def encode(
    caller: bytes,
    route: bytes,
    request_id: bytes,
    occurred_at: float,
    method: bytes,
    status: int,
    latency_us: int,
    upstream_us: int,
    bytes_in: int,
    bytes_out: int,
    ip: str,
    user_agent: bytes | None,
    overage: bool,
    complete: bool,
    told: bytes = NOTHING_TOLD,
    client: ClientFields = EVERYTHING,
) -> bytes:
    """The record of one call. About 0.8 us; never fails on bytes that a client may send.

    `caller` and `route` come from `caller_part` and `route_part`, `told` from `told_part`; `occurred_at` is Unix seconds;
    `status` is 0-999; `upstream_us` -1 says that no upstream was asked; `ip` is the address as text (NULL if it is none);
    `client` says what is recorded of address and agent; text is cut and cleaned of what a column can't hold. Numbers must
    fit 64 bits."""
    try:
        method_field = _methods[method]
        address_field = client.addresses[ip]
        agent_field = client.agents[user_agent]
    except KeyError:
        method_field = _learn(method)
        address_field, agent_field = client.learn(ip, user_agent)
    # The gateway takes only plain request ids; the check is for what would make Postgres refuse the row. A number and not
    # b"\0": bytes are tried as a number first, which takes an exception.
    if len(request_id) > REQUEST_ID_BYTES_MAX or not request_id.isascii() or 0 in request_id:
        request_id = clean(request_id, REQUEST_ID_BYTES_MAX)
    return b"%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b%b" % (
        _HEAD,
        (int(occurred_at * 1e6) - _EPOCH_US).to_bytes(8, "big", signed=True),
        _EIGHT,
        _number(latency_us),
        _NO_UPSTREAM if upstream_us < 0 else _upstream_time(upstream_us),
        _number(bytes_in),
        _EIGHT,
        _number(bytes_out),
        _LENGTHS[len(request_id)],
        request_id,
        method_field,
        _STATUS[status],
        caller,
        route,
        address_field,
        agent_field,
        _FLAGS[overage][complete],
        told,
    )


def _number(number: int) -> bytes:
    if 0 <= number < _REMEMBERED_NUMBERS:
        return _NUMBERS[number]
    return number.to_bytes(8, "big", signed=True)


def _upstream_time(upstream_us: int) -> bytes:
    """With the length of the number that follows it."""
    return b"%b%b%b" % (_EIGHT, _number(upstream_us), _EIGHT)


def encode_begun(
    caller: bytes,
    route: bytes,
    request_id: bytes,
    method: bytes,
    ip: str,
    user_agent: bytes | None,
    client: ClientFields = EVERYTHING,
) -> bytes:
    """What is known of a call when it goes upstream, for `cut_short`. About 0.3 us. The parameters are those of `encode`;
    `request_id` must be a plain one, as the gateway's are."""
    try:
        method_field = _methods[method]
        address_field = client.addresses[ip]
        agent_field = client.agents[user_agent]
    except KeyError:
        method_field = _learn(method)
        address_field, agent_field = client.learn(ip, user_agent)
    return b"%b%b%b%b%b%b" % (request_id, method_field, caller, route, address_field, agent_field)


def cut_short(begun: bytes, request_id_bytes: int, occurred_at: float, overage: bool) -> bytes:
    """The record of a call of which no more is known than `encode_begun` said: no status was sent, and it is not complete.
    Raises struct.error, ValueError and OverflowError for what is none."""
    method_end = request_id_bytes + 4 + _unpack_length(begun, request_id_bytes)[0]
    occurred = (int(occurred_at * 1e6) - _EPOCH_US).to_bytes(8, "big", signed=True)
    numbers = b"%b%b%b%b%b" % (_HEAD, occurred, _EIGHT, _NO_NUMBERS, request_id_bytes.to_bytes(4, "big"))
    status, flags = _STATUS[CUT_SHORT_STATUS], _FLAGS[overage][False]
    return b"%b%b%b%b%b%b" % (numbers, begun[:method_end], status, begun[method_end:], flags, NOTHING_TOLD)


def occurred_day(record: bytes) -> int:
    """The UTC day of a record, in days since 2000-01-01."""
    occurred_us: int = _unpack_occurred(record, 6)[0]
    return occurred_us // 86_400_000_000


def request_id_of(record: bytes) -> str:
    """The request id of a record, for counting calls across spool and table."""
    at = 26 + (4 if record[26:30] == NULL else 12) + 24  # after occurred_at and latency; upstream may be NULL
    length: int = _unpack_length(record, at)[0]
    return record[at + 4 : at + 4 + length].decode()


def _learn(method: bytes) -> bytes:
    method_field = field(clean(method, 32))
    if len(_methods) >= METHODS_REMEMBERED_MAX:
        _methods.clear()
    if len(method) <= 32:
        _methods[method] = method_field
    return method_field


def _text(value: str | None) -> bytes:
    if value is None:
        return NULL
    return field(value[:NAME_CHARACTERS_MAX].translate(CONTROLS).encode("utf-8", "replace"))


def _text_of(names: str) -> bytes:
    return field(names.translate(CONTROLS).encode("utf-8", "replace")) if names else NULL


def _uuid(value: str | None) -> bytes:
    return NULL if value is None else field(uuid.UUID(value).bytes)
