"""The demo's customer: an organization, an app and its keys, made through the control-plane API as anybody would."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp

from ostiary.core.model import Environment
from ostiary.demo.configuration import SCOPES

ORGANIZATION = "Demo Weddings Ltd"
APP = "Demo app"
# Names are looked for in pages of 100. A demo whose data has more than this many is no demo any more.
PAGES_MAX = 100
ANSWER_SECONDS = 10.0


class ProvisioningFailed(RuntimeError):
    """The control plane refused or did not answer. The text has its reason."""


@dataclass(frozen=True, slots=True, repr=False)
class MadeKey:
    """A new key. Its secret is in the answer that made it and nowhere else."""

    id: str
    secret: str
    environment: Environment
    plan: str

    def __repr__(self) -> str:
        return f"MadeKey({self.id!r})"


@dataclass(frozen=True, slots=True)
class DemoKeys:
    """`earlier` are the ids of keys that earlier starts with the same data made: they still work."""

    app_id: str
    live: MadeKey
    test: MadeKey
    small: MadeKey
    earlier: tuple[str, ...]


class ControlPlaneClient:
    """The few calls that a demo makes. Use it as a context."""

    def __init__(self, url: str, token: str) -> None:
        self._session = aiohttp.ClientSession(
            url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )

    async def make_keys(self) -> DemoKeys:
        """Finds or makes the organization and the app, makes three new keys. Raises ProvisioningFailed."""
        organization_id = await self._find_or_make("/api/v1/organizations", {"name": ORGANIZATION})
        app_id = await self._find_or_make("/api/v1/apps", {"organization_id": organization_id, "name": APP})
        earlier = [str(row["key_id"]) for row in await self._all(f"/api/v1/apps/{app_id}/keys", {}) if _is_valid(row)]
        return DemoKeys(
            app_id=app_id,
            live=await self._make_key(app_id, Environment.LIVE, "standard"),
            test=await self._make_key(app_id, Environment.TEST, "standard"),
            small=await self._make_key(app_id, Environment.LIVE, "small"),
            earlier=tuple(earlier),
        )

    async def _make_key(self, app_id: str, environment: Environment, plan: str) -> MadeKey:
        answer = await self._call(
            "POST",
            f"/api/v1/apps/{app_id}/keys",
            json={
                "name": f"demo {environment} {plan}",
                "environment": environment.value,
                "scopes": list(SCOPES),
                "plan": plan,
            },
        )
        return MadeKey(id=answer["key_id"], secret=answer["secret"], environment=environment, plan=plan)

    async def _find_or_make(self, path: str, fields: dict[str, str]) -> str:
        filters = {name: value for name, value in fields.items() if name != "name"}
        for row in await self._all(path, filters):
            if row["name"] == fields["name"]:
                return str(row["id"])
        return str((await self._call("POST", path, json=fields))["id"])

    async def _all(self, path: str, filters: dict[str, str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        query = {**filters, "limit": "100"}
        for _ in range(PAGES_MAX):
            page = await self._call("GET", path, params=query)
            rows += page["data"]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        return rows

    async def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            async with self._session.request(method, path, **arguments) as answer:
                if answer.status >= 400:
                    raise ProvisioningFailed(f"{method} {path} answered {answer.status}: {await answer.text()}")
                content: dict[str, Any] = await answer.json()
                return content
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProvisioningFailed(f"{method} {path} had no answer: {error}") from error

    async def __aenter__(self) -> ControlPlaneClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()


def _is_valid(row: dict[str, Any]) -> bool:
    return row.get("revoked_at") is None
