"""Where a shipper takes what is finished: a `Sink`. Which one, the shipper does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from ostiary.gateway.usage.ledger import Written
from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.segment import Segment


class SinkFailed(Exception):
    """It could not be delivered, or nobody knows whether it was: try again. `kind` is what it is counted as; the text, if
    there is one, may be logged."""

    def __init__(self, kind: str, cause: str, text: str | None = None, **fields: object) -> None:
        super().__init__(text or kind)
        self.kind = kind
        self.fields: dict[str, object] = {"error": cause, **fields}
        if text is not None:
            self.fields["message"] = text


class Finished(NamedTuple):
    """A segment that nobody writes to any more, and its run as it is known now."""

    segment: Segment
    run: RunState


class Sink(Protocol):
    """For one task at a time. After any error but SinkFailed (being cancelled, too), and after that one as well, `close` is
    called before anything else is."""

    @property
    def together_bytes_max(self) -> int:
        """Up to how many bytes of segments are delivered together. One segment is, whatever it has."""
        ...

    async def deliver(self, spool_id: UUID, finished: Sequence[Finished], /) -> list[Written]:
        """Returns, for each segment what became of it, once all of them are where their files are not needed any more:
        nothing that happens to this machine takes them from there, and delivering them again changes nothing. Raises
        SinkFailed; then any number of them may be there."""
        ...

    async def end_run(self, spool_id: UUID, run: RunState, /) -> None:
        """The last word on a run, all of whose segments have been delivered. The same holds as of `deliver`."""
        ...

    async def close(self) -> None:
        """Leaves at once; whatever was under way was done, or was not. The next `deliver` begins anew. Never raises."""
        ...
