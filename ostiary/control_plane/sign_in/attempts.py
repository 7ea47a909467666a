"""How often signing in may fail: by address of e-mail and of the network together, and, much more loosely, by each alone.

An attempt is counted before the password is looked at and taken back when it was right, so that a hundred at once get no more
tries than a hundred in a row. Unknown addresses are counted as known ones are: that somebody has to wait tells nothing."""

from __future__ import annotations

from hashlib import sha256

from ostiary.control_plane.http import Problem, ProblemCode, Transactions
from ostiary.control_plane.sign_in import store

WINDOW_SECONDS = 15 * 60
# A person who has forgotten their password gives up before; a program that guesses gets a thousand tries a day.
FAILURES_MAX = 10
# From many addresses at once. High, because whoever reaches it shuts the user out, too, for a while.
FAILURES_OF_EMAIL_MAX = 100
# Behind a proxy all clients have one address.
FAILURES_OF_ADDRESS_MAX = 300


class Attempts:
    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def begin(self, email: str, address: str | None) -> None:
        """Counts it as failed until `succeeded`. Raises Problem `too_many_attempts`."""
        bounds = _bounds(email, address)
        async with self._transactions.open() as connection:
            await store.forget_attempts(connection)
            counted = await store.count_attempt(connection, list(bounds), seconds=WINDOW_SECONDS)
        waits = [left for subject, (failures, left) in counted.items() if failures > bounds[subject]]
        if waits:
            raise Problem(ProblemCode.TOO_MANY_ATTEMPTS, headers=[("Retry-After", str(max(waits)))])

    async def succeeded(self, email: str, address: str | None) -> None:
        pair, *others = _bounds(email, address)
        async with self._transactions.open() as connection:
            await store.take_back_attempt(connection, pair, others)


def _bounds(email: str, address: str | None) -> dict[bytes, int]:
    """By the hash of whose attempts they are, how many may fail. The first is of both together."""
    address = address or ""
    return {
        _subject("both", email, address): FAILURES_MAX,
        _subject("email", email): FAILURES_OF_EMAIL_MAX,
        _subject("address", address): FAILURES_OF_ADDRESS_MAX,
    }


def _subject(*parts: str) -> bytes:
    return sha256("\0".join(parts).encode()).digest()
