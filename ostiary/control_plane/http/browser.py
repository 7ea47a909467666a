"""Sessions by cookie, and the question that only they raise: does a page of ours make this call, or does a foreign page make
the browser do it (cross-site request forgery)?

What OWASP recommends for an API without forms, in both of its layers: a header of our own, which no form can send and which
makes a browser ask first (we never allow it); and `Sec-Fetch-Site`, which says where the page is from and no page can set, or
`Origin` where a browser does not send that. A synchronizer token would protect no more, and would have to be kept, handed out
and renewed. SameSite=Strict on the cookie is a third layer: it is no defence by itself, since it takes all hosts of a domain
for one site."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from ostiary.control_plane.http.access import Actor
from ostiary.control_plane.http.problems import Problem, ProblemCode

HEADER = "X-Ostiary-Request"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class BrowserSessions:
    """`cookie` is its name. `origin` is that of our pages; None for the one that was called (`Host`)."""

    cookie: str
    origin: str | None
    authenticate: Callable[[str], Awaitable[Actor | None]]

    async def actor(self, request: web.Request) -> Actor | None:
        """None without a cookie of a session. Raises Problem `foreign_page`, before anything is looked up."""
        value = request.cookies.get(self.cookie)
        if value is None:
            return None
        if request.method not in SAFE_METHODS:
            self._require_own_page(request)
        return await self.authenticate(value)

    def _require_own_page(self, request: web.Request) -> None:
        if HEADER not in request.headers:
            raise Problem(ProblemCode.FOREIGN_PAGE)
        site = request.headers.get("Sec-Fetch-Site")
        if site is not None:
            if site != "same-origin":
                raise Problem(ProblemCode.FOREIGN_PAGE)
            return
        sent = request.headers.get("Origin")
        ours = {self.origin} if self.origin else {f"https://{request.host}", f"http://{request.host}"}
        if sent not in ours:  # also without one: every browser sends it with these methods
            raise Problem(ProblemCode.FOREIGN_PAGE)
