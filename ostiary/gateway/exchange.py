"""All state of one request, grouped by the phase that sets it. A field is set once, by that phase, and read after it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ostiary.core.errors import GatewayError

if TYPE_CHECKING:
    from ostiary.gateway.keys import KnownKey
    from ostiary.gateway.limits import Charge, Decision
    from ostiary.gateway.snapshot import Admission, CompiledRoute, Snapshot
    from ostiary.gateway.wire.client import ClientConnection
    from ostiary.gateway.wire.deadlines import Alarm
    from ostiary.gateway.wire.held_body import HeldBody
    from ostiary.gateway.wire.request_body import RequestBody
    from ostiary.gateway.wire.request_head import RequestHead
    from ostiary.gateway.wire.upstream import UpstreamConnection


class ClientGone(Exception):
    """The client closed its connection, or stopped taking its answer, before the answer was whole."""


class Answered(Exception):
    """The gateway answers by itself, though nothing is wrong: no upstream is asked. `lines` end with CRLF, each."""

    def __init__(self, status: int, status_line: bytes, lines: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.status_line = status_line
        self.lines = lines


_NO_PARAMETERS: Final[Mapping[str, bytes]] = MappingProxyType({})


class Exchange:
    """One request and its answer. Times are of the loop's clock, in seconds.

    What a phase has not set stands on the class: a request that is refused early never pays for the rest."""

    # admit
    client: ClientConnection
    snapshot: Snapshot
    head: RequestHead
    body: RequestBody | None
    ip: str
    request_id: bytes
    started: float
    # match
    route: CompiledRoute | None = None
    upgrade: bool = False  # the request asks for WebSocket, and may
    parameters: Mapping[str, bytes] = _NO_PARAMETERS  # of the path; only where the route has an edge
    # authenticate
    claimed_key_id: str | None = None  # of a key there is, by whoever signed; it need not hold
    known_key: KnownKey | None = None
    scheme: str
    subject_line: bytes = b""  # X-Ostiary-Subject, of a token or a client certificate
    nonce: str | None = None
    body_bytes: bytes | None = None  # held back for the signature; None when the body streams
    held_body: HeldBody | None = None  # the same, of one that is too long for memory
    # claim
    claimed: bool = False  # room for its usage record is kept
    # authorize
    admission: Admission | None = None
    identity: bytes  # of these three see Admission
    caller: bytes
    limit_names: list[str] | None = None
    # limit
    decision: Decision | None = None
    charge: Charge | None = None  # where the upstream says what the call cost
    # prepare
    upstream_head: bytes
    upstream_target: bytes | None = None  # where the path is rewritten; else the target is passed on as it came
    # open
    slot: int = -1  # among the calls under way, in the run of the worker
    # forward
    upstream: UpstreamConnection | None = None
    alarm: Alarm | None = None  # ends a call that takes too long as a whole
    upstream_started: float = 0.0
    upstream_answered: float = 0.0
    # respond
    answer_status: int = 0
    bytes_in: int = 0  # through a tunnel; those of a body are the body's to count
    bytes_out: int = 0
    complete: bool = True
    # fail
    error: GatewayError | None = None

    def __init__(
        self,
        *,
        client: ClientConnection,
        snapshot: Snapshot,
        head: RequestHead,
        body: RequestBody | None,
        started: float,
    ) -> None:
        self.client = client
        self.snapshot = snapshot
        self.head = head
        self.body = body
        self.started = started
