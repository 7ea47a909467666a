"""Two control planes on one database under changes at once, and what must hold afterwards: every change has its row in the
audit log, every row its change, the chain is whole, and what was sent twice was done once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

from ostiary.control_plane.audit.verify import verify
from ostiary.control_plane.db import Connection

# A call that waits for a lock may take its 3 s, and then be told to come back.
CALL_SECONDS = 60.0
AGAIN = (409, 503)


@dataclass
class Tally:
    """Request ids of calls that were done, by operation; and what disagreed on the way."""

    done: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    turned_away: int = 0
    lost: int = 0
    findings: list[str] = field(default_factory=list)


class Callers:
    """Callers that change things through `urls` in turn, until `stop` is set or each has made `rounds`."""

    def __init__(self, urls: Sequence[str], *, token: str, seed: int = 1) -> None:
        self.urls = list(urls)
        self.tally = Tally()
        self._random = random.Random(seed)
        self._token = token
        self._session: aiohttp.ClientSession | None = None
        self._keys: list[str] = []
        self._apps: list[str] = []
        self._organization = ""

    async def __aenter__(self) -> Callers:
        headers = {"Authorization": f"Bearer {self._token}"}
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)
        made = await self._once(self.urls[0], "createOrganization", "POST", "/organizations", {"name": uuid4().hex})
        assert made is not None
        self._organization = made["id"]
        await self._create_app()
        await self._create_key()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def run(self, callers: int, rounds: int, stop: asyncio.Event | None = None) -> None:
        async def caller() -> None:
            for _ in range(rounds):
                if stop is not None and stop.is_set():
                    return
                await self._change()

        await asyncio.gather(*(caller() for _ in range(callers)))

    async def _change(self) -> None:
        kind = self._random.random()
        if kind < 0.15:
            await self._create_app()
        elif kind < 0.4:
            await self._create_key()
        elif kind < 0.7:
            # Mostly the same few: rows that two processes fight for.
            key = self._random.choice(self._keys[:5] if kind < 0.6 else self._keys)
            await self._once(self._any(), "amendKey", "PATCH", f"/keys/{key}", {"name": uuid4().hex})
        elif kind < 0.9:
            limits = {"quotas": [{"requests": self._random.randint(1, 1000), "per": "day"}], "reason": "load"}
            key = self._random.choice(self._keys)
            await self._once(self._any(), "putKeyLimits", "PUT", f"/keys/{key}/limits", limits)
        elif len(self._keys) > 10:
            key = self._keys.pop(self._random.randrange(5, len(self._keys)))
            await self._once(self._any(), "revokeKey", "POST", f"/keys/{key}/revoke", {"reason": "load"})

    async def _create_app(self) -> None:
        sent = {"organization_id": self._organization, "name": uuid4().hex}
        self._apps += await self._twice("createApp", "/apps", sent, "id")

    async def _create_key(self) -> None:
        app = self._random.choice(self._apps)
        self._keys += await self._twice("createKey", f"/apps/{app}/keys", {"name": uuid4().hex}, "key_id")

    async def _twice(self, operation: str, path: str, sent: dict[str, Any], name: str) -> list[str]:
        """The same call to two processes at once: one of them does it."""
        key = uuid4().hex
        answers = await asyncio.gather(
            *(self._once(self.urls[number % len(self.urls)], operation, "POST", path, sent, key) for number in (0, 1))
        )
        ids = {answer[name] for answer in answers if answer is not None and name in answer}
        if len(ids) > 1:
            self.tally.findings.append(f"{operation} was done twice for one Idempotency-Key: {sorted(ids)}")
        return sorted(ids)

    def _any(self) -> str:
        return self._random.choice(self.urls)

    async def _once(
        self, url: str, operation: str, method: str, path: str, sent: dict[str, Any], key: str | None = None
    ) -> dict[str, Any] | None:
        """The answer; None if there was none, or if it was done by another. Comes back when it is told to."""
        assert self._session is not None
        while True:
            request_id = uuid4().hex
            headers = {"X-Request-Id": request_id, **({} if key is None else {"Idempotency-Key": key})}
            try:
                async with self._session.request(
                    method, url + "/api/v1" + path, json=sent, headers=headers
                ) as response:
                    document: dict[str, Any] = await response.json(content_type=None)
            except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError):
                self.tally.lost += 1  # a process was killed: whether it was done, the database tells
                await asyncio.sleep(0.05)
                return None
            if response.headers.get("Idempotency-Replayed") == "true" or document.get("code") == "secret_already_shown":
                self.tally.repeated += 1
                return document
            if response.status < 300:
                self.tally.done[request_id] = operation
                return document
            if response.status in AGAIN and document.get("code") in (
                "call_under_way",
                "database_unavailable",
                "overloaded",
            ):
                self.tally.turned_away += 1
                await asyncio.sleep(0.05)
                continue
            if operation == "amendKey" and document.get("code") == "conflict":
                return None  # another caller has revoked it meanwhile
            self.tally.findings.append(f"{operation}: {response.status} {document.get('code')}")
            return None


async def findings(connection: Connection, tally: Tally) -> list[str]:
    """What does not hold; empty if all does."""
    found = list(tally.findings)
    verdict = await verify(connection)
    if verdict.finding is not None:
        found.append(f"the chain: {verdict.finding.says}")
    # Of what a command has done, before any call, no caller was told.
    rows = await connection.fetch(
        "SELECT * FROM audit_log WHERE outcome = 'done' AND operation <> 'migrateDatabase' ORDER BY number"
    )
    by_request = Counter((row["request_id"], row["operation"]) for row in rows)
    told = set(by_request)
    found += [f"done, and in no row: {each}" for each in sorted(set(tally.done.items()) - told)[:5]]
    found += [f"in more than one row: {each}" for each, count in by_request.items() if count > 1][:5]
    if tally.lost == 0:
        found += [
            f"in a row, and answered to nobody as done: {each}" for each in sorted(told - set(tally.done.items()))[:5]
        ]
    for operation, statement in (
        ("createApp", "SELECT id::text FROM apps"),
        ("createKey", "SELECT id FROM api_keys"),
        ("revokeKey", "SELECT id FROM api_keys WHERE revoked_at IS NOT NULL"),
    ):
        are = {row["id"] for row in await connection.fetch(statement)}
        tell = {row["resource_id"] for row in rows if row["operation"] == operation}
        if are != tell:
            found.append(f"{operation}: {len(are - tell)} without a row, {len(tell - are)} rows without one")
    names: dict[str, str] = {}
    for row in rows:
        if row["resource_type"] == "key":
            before, after = (json.loads(row[side]) if row[side] else {} for side in ("before", "after"))
            if "name" in before and before["name"] != names[row["resource_id"]]:
                found.append(f"row {row['number']} tells of another name before than the row before it gave")
            names[row["resource_id"]] = after.get("name", names.get(row["resource_id"], ""))
    are_named = {row["id"]: row["name"] for row in await connection.fetch("SELECT id, name FROM api_keys")}
    found += [f"{key} has another name than its last row tells" for key in are_named if are_named[key] != names[key]][
        :5
    ]
    changes = await connection.fetchval("SELECT count(*) FROM key_limit_changes")
    if changes != (tell_of := sum(row["operation"] == "putKeyLimits" for row in rows)):
        found.append(f"{changes} changes of limits, and {tell_of} rows that tell of them")
    return found
