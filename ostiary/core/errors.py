"""Every refusal and fault of the gateway, once: status, what the client reads, whose fault, whether a retry is safe.

`ErrorCode` is the contract (its names are stable); `GatewayError` carries one through the request path, with what the log
should know and the client must not."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

# Where the pages are that explain each problem type, unless `gateway.problem_pages` says otherwise. docs/problems.md has
# their text, and the control plane serves them below /problems/.
PROBLEM_PAGES = "https://ostiary.dev/problems/"


class Fault(Enum):
    CLIENT = "client"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"


class Meaning(NamedTuple):
    status: int
    title: str
    detail: str
    fault: Fault
    retry_is_safe: bool


class ErrorCode(Enum):
    """The value is the meaning; the lower-case name is the `code` that clients see."""

    MALFORMED_REQUEST = Meaning(400, "Malformed request", "The request is not valid HTTP/1.1.", Fault.CLIENT, False)
    INVALID_PATH = Meaning(
        400,
        "Invalid path",
        "The path is ambiguous: dot segments, empty segments, encoded slashes, control characters and bytes that are not "
        "URL characters are refused. Send the path in its plain form.",
        Fault.CLIENT,
        False,
    )
    CREDENTIALS_MISSING = Meaning(401, "Credentials missing", "This route needs a key.", Fault.CLIENT, False)
    CREDENTIALS_INVALID = Meaning(401, "Credentials invalid", "The credentials are not valid.", Fault.CLIENT, False)
    TIMESTAMP_OUT_OF_RANGE = Meaning(
        401,
        "Timestamp out of range",
        "X-Timestamp must be the current Unix time in seconds. Check this machine's clock.",
        Fault.CLIENT,
        True,
    )
    NONCE_REPLAYED = Meaning(
        401, "Nonce replayed", "This nonce was used before. Sign every call with a fresh nonce.", Fault.CLIENT, False
    )
    SCOPE_MISSING = Meaning(403, "Scope missing", "The key lacks a scope that this call needs.", Fault.CLIENT, False)
    IP_NOT_ALLOWED = Meaning(
        403, "Address not allowed", "The key can't be used from this address.", Fault.CLIENT, False
    )
    ORIGIN_NOT_ALLOWED = Meaning(
        403, "Origin not allowed", "The key can't be used from this origin.", Fault.CLIENT, False
    )
    ENVIRONMENT_MISMATCH = Meaning(
        403,
        "Environment mismatch",
        "This route has no upstream for the environment of the key.",
        Fault.CLIENT,
        False,
    )
    ROUTE_NOT_FOUND = Meaning(404, "Route not found", "No route matches this host and path.", Fault.CLIENT, False)
    METHOD_NOT_ALLOWED = Meaning(
        405, "Method not allowed", "This path does not take this method; see Allow.", Fault.CLIENT, False
    )
    REQUEST_TIMEOUT = Meaning(408, "Request timeout", "The request did not arrive in time.", Fault.CLIENT, True)
    BODY_TOO_LARGE = Meaning(413, "Body too large", "The body is larger than this route takes.", Fault.CLIENT, False)
    TARGET_TOO_LONG = Meaning(414, "Target too long", "The request target is too long.", Fault.CLIENT, False)
    EXPECTATION_FAILED = Meaning(
        417, "Expectation failed", "The only expectation understood is 100-continue.", Fault.CLIENT, False
    )
    RATE_LIMITED = Meaning(
        429, "Rate limited", "Too many calls in this time. Wait for Retry-After.", Fault.CLIENT, True
    )
    QUOTA_EXCEEDED = Meaning(
        429, "Quota exceeded", "The quota of this period is used up. Wait for Retry-After.", Fault.CLIENT, True
    )
    TOO_MANY_CONCURRENT = Meaning(
        429, "Too many concurrent calls", "Too many calls of this key are under way.", Fault.CLIENT, True
    )
    HEADERS_TOO_LARGE = Meaning(431, "Headers too large", "The request head is too large.", Fault.CLIENT, False)
    NOT_IMPLEMENTED = Meaning(501, "Not implemented", "The gateway does not know this method.", Fault.CLIENT, False)
    UPSTREAM_UNREACHABLE = Meaning(
        502, "Upstream unreachable", "The service behind this route can't be reached.", Fault.UPSTREAM, True
    )
    UPSTREAM_PROTOCOL_ERROR = Meaning(
        502, "Upstream protocol error", "The service behind this route gave no valid answer.", Fault.UPSTREAM, False
    )
    UPSTREAM_UNHEALTHY = Meaning(
        503, "Upstream unhealthy", "The service behind this route is out of order.", Fault.UPSTREAM, True
    )
    OVERLOADED = Meaning(503, "Overloaded", "The gateway is at its limit. Try again soon.", Fault.GATEWAY, True)
    LIMITS_UNAVAILABLE = Meaning(
        503, "Limits unavailable", "The limits of this call can't be checked now.", Fault.GATEWAY, True
    )
    KEYS_UNAVAILABLE = Meaning(503, "Keys unavailable", "Keys can't be looked up now.", Fault.GATEWAY, True)
    UPSTREAM_TIMEOUT = Meaning(
        504, "Upstream timeout", "The service behind this route did not answer in time.", Fault.UPSTREAM, False
    )
    VERSION_NOT_SUPPORTED = Meaning(
        505, "HTTP version not supported", "This server speaks HTTP/1.1 and HTTP/1.0.", Fault.CLIENT, False
    )

    @property
    def code(self) -> str:
        return self.name.lower()

    @property
    def page(self) -> str:
        """The last part of the problem's `type`: the code with dashes, as headings have it."""
        return self.code.replace("_", "-")


class GatewayError(Exception):
    """A request that ends in an error answer.

    `reason` is for the log alone and names no secret. `headers` go on the answer (Allow, Retry-After, WWW-Authenticate).
    `closes` ends the client's connection, because where the next request begins is not certain."""

    def __init__(
        self,
        code: ErrorCode,
        reason: str,
        *,
        detail: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        closes: bool = False,
    ) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.detail = detail
        self.headers = headers
        self.closes = closes
