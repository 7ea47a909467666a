"""All state of one request, grouped by the phase that sets it. A field is set once, by that phase, and read after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostiary.core.errors import GatewayError

if TYPE_CHECKING:
    from ostiary.gateway.keys import KnownKey
    from ostiary.gateway.limits import Decision
    from ostiary.gateway.snapshot import Admission, CompiledRoute, Snapshot
    from ostiary.gateway.wire.client import ClientConnection
    from ostiary.gateway.wire.request_body import RequestBody
    from ostiary.gateway.wire.request_head import RequestHead
    from ostiary.gateway.wire.upstream import UpstreamConnection


class ClientGone(Exception):
    """The client closed its connection, or stopped taking its answer, before the answer was whole."""


class Exchange:
    """One request and its answer. Times are of the loop's clock, in seconds."""

    __slots__ = (
        "admission",
        "answer_status",
        "body",
        "body_bytes",
        "bytes_out",
        "client",
        "complete",
        "decision",
        "error",
        "head",
        "ip",
        "known_key",
        "nonce",
        "path_template",
        "request_id",
        "route",
        "scheme",
        "snapshot",
        "started",
        "upstream",
        "upstream_answered",
        "upstream_head",
        "upstream_started",
    )

    # admit
    client: ClientConnection
    snapshot: Snapshot
    head: RequestHead
    body: RequestBody | None
    ip: str
    request_id: bytes
    started: float
    # match
    route: CompiledRoute | None
    path_template: str
    # authenticate
    known_key: KnownKey | None
    scheme: str
    nonce: str | None
    body_bytes: bytes | None  # gathered for the signature; None when the body streams
    # authorize
    admission: Admission | None
    # limit
    decision: Decision | None
    # prepare
    upstream_head: bytes
    # forward
    upstream: UpstreamConnection | None
    upstream_started: float
    upstream_answered: float
    # respond
    answer_status: int
    bytes_out: int
    complete: bool
    # fail
    error: GatewayError | None

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
        self.route = None
        self.known_key = None
        self.nonce = None
        self.body_bytes = None
        self.admission = None
        self.decision = None
        self.upstream = None
        self.upstream_started = 0.0
        self.upstream_answered = 0.0
        self.answer_status = 0
        self.bytes_out = 0
        self.complete = True
        self.error = None
