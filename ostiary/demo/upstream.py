"""A small product API to put the gateway before: the clients and weddings of a planner, in memory.

It knows nothing of keys or limits. It gets identified requests from the gateway, as any upstream does, and says in
`X-Served-For` which app it served, which shows that they arrive. It listens on 127.0.0.1 alone: whoever reaches an
upstream past the gateway is not checked by anyone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

# A demo left running keeps what is posted to it; this many small records are some 10 MB.
RECORDS_MAX = 10_000
BODY_BYTES_MAX = 64 * 1024
TEXT_CHARACTERS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Resource:
    """One collection: its name in URLs, and the text fields a record must have."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


CLIENTS = Resource("clients", required=("name", "email"), optional=("phone",))
WEDDINGS = Resource("weddings", required=("title", "date", "venue"), optional=("client_id",))

LIVE_RECORDS: dict[str, list[dict[str, str]]] = {
    "clients": [
        {"name": "Ada Okafor", "email": "ada@example.com", "phone": "+1 555 0100"},
        {"name": "Jonas Lind", "email": "jonas@example.com"},
        {"name": "Mei Tanaka", "email": "mei@example.com"},
    ],
    "weddings": [
        {"title": "Okafor and Reyes", "date": "2027-06-12", "venue": "Lakeside Hall", "client_id": "1"},
        {"title": "Lind and Berg", "date": "2027-08-28", "venue": "The Old Mill", "client_id": "2"},
    ],
}
SANDBOX_RECORDS: dict[str, list[dict[str, str]]] = {
    "clients": [{"name": "Test Client", "email": "test@example.com"}],
    "weddings": [{"title": "Test Wedding", "date": "2030-01-01", "venue": "Nowhere", "client_id": "1"}],
}


@dataclass(slots=True)
class Collection:
    """The records of one resource, by number, from 1 on."""

    resource: Resource
    records_max: int
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, fields: dict[str, str]) -> dict[str, Any]:
        number = len(self.records) + 1  # records are never removed
        self.records[number] = {"id": str(number), **fields}
        return self.records[number]

    def problems(self, fields: object) -> list[str]:
        """What keeps `fields` from becoming a record."""
        if not isinstance(fields, dict):
            return ["send a JSON object"]
        known = {*self.resource.required, *self.resource.optional}
        found = [f"{name} is required" for name in self.resource.required if not fields.get(name)]
        found += [f"{name} is not a field of {self.resource.name}" for name in fields if name not in known]
        found += [
            f"{name} must be a text of at most {TEXT_CHARACTERS_MAX} characters"
            for name in fields
            if name in known and not (isinstance(fields[name], str) and len(fields[name]) <= TEXT_CHARACTERS_MAX)
        ]
        return found


def build_app(records: dict[str, list[dict[str, str]]], *, records_max: int = RECORDS_MAX) -> web.Application:
    """The API with `records` in it: list, get and create for both resources, `/healthz`."""
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_say_whom_it_was_for])
    app.router.add_get("/healthz", _healthz)
    for resource in (CLIENTS, WEDDINGS):
        collection = Collection(resource, records_max)
        for fields in records[resource.name]:
            collection.add(fields)
        app.add_routes(_routes(collection))
    return app


def _routes(collection: Collection) -> Iterable[web.RouteDef]:
    base = f"/v1/{collection.resource.name}"

    async def list_records(request: web.Request) -> web.Response:
        records = list(collection.records.values())
        if text := request.query.get("q", "").lower():
            records = [record for record in records if any(text in str(value).lower() for value in record.values())]
        return web.json_response({"data": records, "total": len(records)})

    async def get_record(request: web.Request) -> web.Response:
        text = request.match_info["id"]
        record = collection.records.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else None
        if record is None:
            return web.json_response({"error": f"no such record in {collection.resource.name}"}, status=404)
        return web.json_response(record)

    async def create_record(request: web.Request) -> web.Response:
        try:
            fields = await request.json()
        except ValueError:
            return web.json_response({"errors": ["the body is not JSON"]}, status=400)
        if problems := collection.problems(fields):
            return web.json_response({"errors": problems}, status=422)
        if len(collection.records) >= collection.records_max:
            return web.json_response({"errors": [f"the demo holds {collection.records_max} records"]}, status=507)
        record = collection.add(fields)
        return web.json_response(record, status=201, headers={"Location": f"{base}/{record['id']}"})

    return [
        web.get(base, list_records),
        web.get(base + "/{id}", get_record),
        web.post(base, create_record),
    ]


async def _healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@web.middleware
async def _say_whom_it_was_for(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    if app := request.headers.get("X-Ostiary-App"):
        response.headers["X-Served-For"] = app
    return response


class SampleUpstream:
    """The API on a free port of 127.0.0.1, in the caller's event loop."""

    def __init__(self, records: dict[str, list[dict[str, str]]], *, records_max: int = RECORDS_MAX) -> None:
        self._runner = web.AppRunner(build_app(records, records_max=records_max), access_log=None)
        self._port: int | None = None

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        await self._runner.cleanup()
