"""Sealing secrets from the event loop, also when the key-encryption key is kept by a service that makes us wait."""

from __future__ import annotations

import logging

from ostiary.control_plane.http import Problem, ProblemCode
from ostiary.core.encryption import EncryptionError, Envelope
from ostiary.key_encryption import BoundedCalls

_log = logging.getLogger("ostiary.control_plane.keys")

# A call under way holds a connection to Postgres, of which there are some ten.
_AT_ONCE = 4


class Sealing:
    """`seal` as that of the envelope. Raises Problem KEY_SERVICE_UNAVAILABLE when the service can't be asked: then nothing
    was made."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._calls: BoundedCalls | None = None

    async def seal(self, secret: bytes, *, key_id: str) -> tuple[bytes, bytes]:
        if not self._envelope.asks_a_service:
            return self._envelope.seal(secret, key_id=key_id)
        if self._calls is None:  # made here, where there is a loop
            seconds = max(service.deadline_seconds for service in self._envelope.services)
            self._calls = BoundedCalls(at_once=_AT_ONCE, deadline_seconds=seconds)
        try:
            return await self._calls.run(lambda: self._envelope.seal(secret, key_id=key_id))
        except EncryptionError as error:
            _log.error("key_not_made", extra={"fields": {"reason": str(error)}})
            raise Problem(ProblemCode.KEY_SERVICE_UNAVAILABLE, headers=[("Retry-After", "2")]) from error
