"""What holds for every call whatever it asks: who calls, how many at once, the request id, the headers, the log line.

Nobody gets in unknown, except to what `OPEN` names and to what the authorization matrix opens: a new operation is closed
until someone writes it there. Whether the caller may do what is asked, `dispatch` decides."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import ContextVar
from uuid import uuid4

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ostiary.control_plane.http import interactive, problem_pages
from ostiary.control_plane.http.access import UNKNOWN, Actor, Caller, PlatformRole
from ostiary.control_plane.http.browser import BrowserSessions
from ostiary.control_plane.http.certificates import ClientCertificates
from ostiary.control_plane.http.operations import BASE
from ostiary.control_plane.http.problems import Problem, ProblemCode, answer
from ostiary.control_plane.http.rates import CallRates, Headers
from ostiary.core.errors import ErrorCode

log = logging.getLogger("ostiary.control_plane")

# Whose bearer token this is; None for one that is not its to know. Raises Problem when it can't tell now.
Authenticator = Callable[[str], Awaitable[Actor | None]]

# Told of a call that is refused before it is known who calls, with its request id; never raises.
Witness = Callable[[web.Request, Problem, str], Awaitable[None]]

_caller: ContextVar[Caller] = ContextVar("caller")
OPERATOR = Actor("operator", "operator token", PlatformRole.OPERATOR)

# Of the call that this task serves, for answers that begin before their handler returns.
_call_id: ContextVar[str | None] = ContextVar("call_id", default=None)
_rate_headers: ContextVar[Headers] = ContextVar("rate_headers", default=())

# 32 characters of a random generator's output are over 128 bits in any usual alphabet: out of reach of guessing.
OPERATOR_TOKEN_LENGTH_MIN = 32

KEY_DOCUMENT_PATH = "/.well-known/jwks.json"
OPEN = frozenset(
    {
        f"{BASE}/openapi.json",
        KEY_DOCUMENT_PATH,
        "/docs",
        interactive.REFERENCE,
        "/healthz",
        "/readyz",
        *interactive.PATHS,
        *(problem_pages.PREFIX + code.page for code in ErrorCode),
    }
)

# Asked by machines that can't wait, and cheap: never limited.
PROBES = frozenset({"/healthz", "/readyz"})

# Calls under way in one process. They share ten connections; what waits beyond this would time out anyway.
CALLS_MAX = 256

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

# In place of aiohttp's own, which names the versions of aiohttp and Python.
SERVER = "ostiary"

SECURITY_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)


def request_id_of(sent: str | None) -> str:
    """The client's, if it is well formed, else a new one."""
    return sent if sent is not None and _REQUEST_ID.fullmatch(sent) else uuid4().hex


class Edge:
    """The one middleware, outermost. Never raises, except for cancellation: every fault becomes an answer here.

    A token that is not the configuration's is shown to `authenticators` in turn; a call without one may be of a session.
    `unknown` are the methods and paths that are for everyone. Of who is known to none, `turned_away` is told, if there is
    one."""

    def __init__(
        self,
        *,
        operator_token: str,
        authenticators: Sequence[Authenticator] = (),
        sessions: BrowserSessions | None = None,
        unknown: Collection[tuple[str, str]] = (),
        rates: CallRates | None = None,
        certificates: ClientCertificates | None = None,
        turned_away: Witness | None = None,
    ) -> None:
        self._authenticators = tuple(authenticators)
        self._sessions = sessions
        self._unknown = frozenset(unknown)
        self._paths_for_everyone = frozenset(path for _, path in unknown)
        self._rates = rates or CallRates(per_actor=None, per_address=None)
        self._certificates = certificates
        self._turned_away = turned_away
        # Digests are compared: of one length whatever is sent, so that time tells nothing about the token's length.
        self._token_sha256 = hashlib.sha256(operator_token.encode()).digest()
        self._calls = 0

    def middleware(self) -> Middleware:
        @web.middleware
        async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._call(request, handler)

        return edge

    async def _call(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        request_id = request_id_of(request.headers.get("X-Request-Id"))
        _call_id.set(request_id)
        _rate_headers.set(())
        self._calls += 1
        try:
            response = await self._answer(request, handler, request_id)
        finally:
            self._calls -= 1
        response.headers["X-Request-Id"] = request_id
        resource = request.match_info.route.resource
        log.info(
            "call",
            extra={
                "fields": {
                    "method": request.method[:16],
                    # The template: what a client writes into a path is not for the log.
                    "route": None if resource is None else resource.canonical,
                    "status": response.status,
                    "ms": round((time.monotonic() - started) * 1000, 1),
                    "request_id": request_id,
                    "client": request.remote,
                }
            },
        )
        return response

    async def _answer(self, request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
        try:
            if self._calls > CALLS_MAX and request.path not in OPEN:  # a full house is not a dead one: /healthz
                raise Problem(ProblemCode.OVERLOADED, headers=[("Retry-After", "1")])
            if request.headers.get("Expect", "100-continue").lower() != "100-continue":
                raise Problem(ProblemCode.EXPECTATION_FAILED)
            if request.path in OPEN:
                if request.path not in PROBES:
                    _rate_headers.set(self._rates.unknown(request.remote))
            else:
                try:
                    certificate = None if self._certificates is None else self._certificates.of(request)
                    for_everyone = self._is_for_everyone(request)
                    actor = UNKNOWN if for_everyone else await self._authenticate(request)
                except Problem as problem:
                    if self._turned_away is not None:
                        await self._turned_away(request, problem, request_id)
                    raise
                taken = self._rates.unknown(request.remote) if for_everyone else self._rates.known(actor.principal)
                _rate_headers.set(taken)
                _caller.set(Caller(actor, request.remote, request_id, certificate))
            return await handler(request)
        except Problem as problem:
            return answer(problem, request_id)
        except web.HTTPException as error:
            return answer(_of_router(error), request_id)
        except Exception as error:
            # Not the error's text: drivers quote the values they choke on.
            frames = "".join(traceback.format_tb(error.__traceback__))
            fields = {"request_id": request_id, "error": type(error).__qualname__, "traceback": frames}
            log.error("internal_error", extra={"fields": fields})
            return answer(Problem(ProblemCode.INTERNAL_ERROR), request_id)

    def _is_for_everyone(self, request: web.Request) -> bool:
        """Also a method that nothing answers to, where another is for everyone: no credentials would make it work, and 405
        says nothing that the document does not."""
        if (request.method, request.path) in self._unknown:
            return True
        nothing_answers = isinstance(request.match_info.http_exception, web.HTTPMethodNotAllowed)
        return nothing_answers and request.path in self._paths_for_everyone

    async def _authenticate(self, request: web.Request) -> Actor:
        """By the path as routed: whatever is not open by name is closed, addresses where nothing is included."""
        sent = request.headers.getall("Authorization", [])
        if not sent:
            if self._sessions is not None and (actor := await self._sessions.actor(request)) is not None:
                return actor
            _rate_headers.set(self._rates.unknown(request.remote))
            raise Problem(ProblemCode.CREDENTIALS_MISSING, headers=[("WWW-Authenticate", 'Bearer realm="ostiary"')])
        scheme, _, token = sent[0].partition(" ")
        if len(sent) == 1 and scheme.lower() == "bearer" and (actor := await self._actor(token)) is not None:
            return actor
        # Only now: whoever has a token that holds gets in, whatever others try from behind the same address.
        _rate_headers.set(self._rates.unknown(request.remote))
        log.warning("token_refused", extra={"fields": {"client": request.remote}})
        raise Problem(
            ProblemCode.CREDENTIALS_INVALID,
            headers=[("WWW-Authenticate", 'Bearer realm="ostiary", error="invalid_token"')],
        )

    async def _actor(self, token: str) -> Actor | None:
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        if hmac.compare_digest(digest, self._token_sha256):
            return OPERATOR
        for authenticate in self._authenticators:
            if (actor := await authenticate(token)) is not None:
                return actor
        return None


def caller() -> Caller:
    """Who made the call that this task serves. Raises LookupError for what is open."""
    return _caller.get()


def _of_router(error: web.HTTPException) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        return Problem(ProblemCode.METHOD_NOT_ALLOWED, headers=[("Allow", allow)])
    if error.status == 413:
        return Problem(ProblemCode.BODY_TOO_LARGE)
    return Problem(ProblemCode.NOT_FOUND)


async def dress(request: web.Request, response: web.StreamResponse) -> None:
    """The last touch on every answer: security headers, the request id, no version of what serves it, and the end of a
    connection that is to end with it."""
    response.headers.setdefault("X-Request-Id", _call_id.get() or uuid4().hex)
    for name, value in SECURITY_HEADERS:
        response.headers.setdefault(name, value)
    for name, value in _rate_headers.get():
        response.headers.setdefault(name, value)
    response.headers["Server"] = SERVER
    if getattr(request.protocol, "ending", False):  # see `listener`
        response.force_close()
        response.headers["Connection"] = "close"


async def expect_later(request: web.Request) -> None:
    """In place of aiohttp's own `Expect` handling, which invites the body before the caller is known: `reading` does it."""
