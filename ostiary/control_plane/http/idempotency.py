"""`Idempotency-Key` on POST: the same call sent twice is done once, and answered the same.

The claim, the change and the stored answer are one transaction. So a crash leaves all or nothing, and of two calls at once
the second waits on the first's row, then reads its answer. Only success is stored: a refusal changed nothing, and the
caller may mend its cause and repeat.

A secret that is shown once is not in the stored answer. Sealing the whole answer for a while was weighed and rejected: then
whoever has the operator token and reads an Idempotency-Key in some client's log could fetch the secret again, which is not
"in that one answer and nowhere else". Leaving the field out would give a client a key without its secret and no error. So a
repeat is refused aloud, with the id of the key that was made: revoke it, and make another."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import cast

import asyncpg

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.problems import Problem, ProblemCode

KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Claim:
    """One caller's word for one call, and the SHA-256 of what was asked. Keys of different principals never meet."""

    principal: str
    key: str
    request_sha256: bytes


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    status: int
    document: dict[str, object]
    secret_left_out: bool


def claim(key: str, *, principal: str, operation_id: str, path: str, body: object) -> Claim:
    """Raises Problem `malformed_request` for a key that is not 1 to 255 visible ASCII characters."""
    if KEY.fullmatch(key) is None:
        raise Problem(ProblemCode.MALFORMED_REQUEST, "Idempotency-Key must be 1 to 255 visible ASCII characters.")
    asked = json.dumps([operation_id, path, body], sort_keys=True, separators=(",", ":"))
    return Claim(principal, key, hashlib.sha256(asked.encode()).digest())


async def take(connection: Connection, claim: Claim) -> StoredAnswer | None:
    """None: the call is new, and this transaction has the key. Else the answer it got earlier.

    Raises Problem `idempotency_key_reused` if the earlier call was another one, `call_under_way` if it has not ended."""
    await _forget_expired(connection)
    try:
        taken = await connection.fetchval(
            """
            -- Guarantees that one transaction has the key: a second waits here until the first has ended. A key whose day
            -- is over counts as new.
            INSERT INTO idempotency_keys (principal, key, request_sha256) VALUES ($1, $2, $3)
            ON CONFLICT (principal, key) DO UPDATE
                SET request_sha256 = excluded.request_sha256, status = NULL, answer = NULL,
                    secret_left_out = false, expires_at = excluded.expires_at
                WHERE idempotency_keys.expires_at <= now()
            RETURNING true
            """,
            claim.principal,
            claim.key,
            claim.request_sha256,
        )
    except asyncpg.LockNotAvailableError as error:
        raise Problem(ProblemCode.CALL_UNDER_WAY, headers=[("Retry-After", "3")]) from error
    if taken:
        return None
    # Guarantees the committed answer: the insert above saw it, and it does not change before it expires.
    row = await connection.fetchrow(
        "SELECT request_sha256, status, answer, secret_left_out FROM idempotency_keys WHERE principal = $1 AND key = $2",
        claim.principal,
        claim.key,
    )
    if row is None:  # it expired, and was forgotten, between the two statements
        raise Problem(ProblemCode.CALL_UNDER_WAY, headers=[("Retry-After", "1")])
    if row["request_sha256"] != claim.request_sha256:
        raise Problem(ProblemCode.IDEMPOTENCY_KEY_REUSED)
    document = cast("dict[str, object]", json.loads(row["answer"]))
    return StoredAnswer(row["status"], document, row["secret_left_out"])


async def keep(connection: Connection, claim: Claim, answer: StoredAnswer) -> None:
    """Stores the answer with the change it tells of."""
    await connection.execute(
        """
        -- Guarantees that the answer is there exactly when the change is: same transaction, row taken by `take`.
        UPDATE idempotency_keys SET status = $3, answer = $4, secret_left_out = $5 WHERE principal = $1 AND key = $2
        """,
        claim.principal,
        claim.key,
        answer.status,
        json.dumps(answer.document),
        answer.secret_left_out,
    )


async def _forget_expired(connection: Connection) -> None:
    await connection.execute(
        """
        -- Guarantees that the table holds about a day of calls: each new call forgets up to ten old ones, and never waits
        -- for a row that another call has in hand.
        DELETE FROM idempotency_keys WHERE (principal, key) IN (
            SELECT principal, key FROM idempotency_keys WHERE expires_at <= now() LIMIT 10 FOR UPDATE SKIP LOCKED
        )
        """
    )
