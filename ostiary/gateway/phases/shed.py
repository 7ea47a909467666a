"""shed: while the worker is overloaded, is there room for this call? Asked as soon as its route, and so its priority, is
known, and before anything is spent on it: no credential is checked, and neither Redis nor Postgres hears of it."""

from __future__ import annotations

from typing import Final

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.overload.shedding import Shedder
from ostiary.gateway.phases.fail import accepts_json, fail, own_lines, render
from ostiary.gateway.wire.states import State

# Clients that were refused together should not come back together.
RETRY_AFTER_SECONDS: Final = ("2", "3", "4")
_REASON: Final = "too much waits"
_ERRORS: Final = tuple(
    GatewayError(ErrorCode.OVERLOADED, _REASON, headers=(("Retry-After", seconds),)) for seconds in RETRY_AFTER_SECONDS
)
# Stands for the request id while an answer is rendered in advance. It is no character of an id, and JSON writes it as it is.
_MARK: Final = b"<"
_WAITING: Final = State.WAITING


def is_refused(exchange: Exchange, shedder: Shedder) -> bool:
    """For a `watchful` shedder: whether the call has waited too long for its priority."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    return shedder.refuses(route.rank, exchange.client)


class Refusals:
    """The answers to refused calls, rendered once: rendering took longer than reading the call."""

    def __init__(self) -> None:
        self._turn = 0
        self._rendered: dict[tuple[str, int, int], list[bytes]] = {}

    def answer(self, exchange: Exchange) -> bytes | None:
        """Sets `error` and `answer_status`. None when the answer has begun, which can't be: nothing was sent yet."""
        self._turn = turn = (self._turn + 1) % len(_ERRORS)
        error = _ERRORS[turn]
        client, head = exchange.client, exchange.head
        usual = client.keep_alive and client.state is _WAITING and head.minor == 1 and head.method != b"HEAD"
        pages = exchange.snapshot.problem_pages
        if not usual or own_lines(exchange) or "<" in pages or not accepts_json(head.values.get(b"accept")):
            return fail(exchange, error)
        exchange.error = error
        exchange.answer_status = error.code.value.status
        request_id = exchange.request_id
        key = (pages, len(request_id), turn)
        parts = self._rendered.get(key)
        if parts is None:
            mark = _MARK * len(request_id)
            rendered = render(error, pages=pages, request_id=mark, accept=None, keep_alive=True)
            if len(self._rendered) > 3 * 128:  # the lengths of ids and the turns; more only after many reloads
                self._rendered.clear()
            parts = self._rendered[key] = rendered.split(mark)
        return request_id.join(parts)
