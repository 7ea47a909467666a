"""Published routes over the API: what is applied, compared, refused, rolled back, and what gateways say."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from ostiary.control_plane.db import Connection
from ostiary.core.model import Configuration
from ostiary.core.published import PublishedRoutes, document_sha256
from tests.control_plane.support import Api, Reply, configuration_for, serving

DOCUMENT = """\
version: 1
plans:
  gold: {limits: [{requests: 5, per: minute}]}
upstreams:
  origin: {targets: [{url: "http://10.0.0.1:9000"}]}
routes:
  - name: clients   # everything about clients
    match: {path: /clients, methods: [GET, POST]}
    upstream: origin
    auth: {schemes: [bearer], scopes: {GET: [clients:read], POST: [clients:write]}}
"""
OPEN = DOCUMENT.replace("GET: [clients:read]", "GET: []")


async def apply(api: Api, document: str, base: int, **fields: object) -> Reply:
    return await api.post("/routes/versions", {"document": document, "base": base, **fields})


async def applied(api: Api, document: str, base: int) -> dict[str, Any]:
    reply = await apply(api, document, base)
    assert reply.status == 201, reply.text
    found: dict[str, Any] = reply.document
    return found


async def test_a_document_is_applied_as_a_numbered_version(api: Api) -> None:
    """There would be nothing to roll back to, and nobody would know who changed what."""
    assert (await api.get("/routes")).status == 404
    reply = await apply(api, DOCUMENT, 0, note="the first")
    assert reply.status == 201, reply.text
    assert reply.headers["Location"] == "/api/v1/routes/versions/1"
    assert {change["subject"] for change in reply.document["changes"]} == {
        "plan gold",
        "upstream origin",
        "route clients",
    }
    await applied(api, OPEN, 1)
    current = (await api.get("/routes")).document
    assert (current["number"], current["document"], current["sha256"]) == (2, OPEN, document_sha256(OPEN))
    assert current["content"]["routes"][0]["name"] == "clients"
    first = (await api.get("/routes/versions/1")).document
    assert (first["document"], first["note"], first["author"]) == (DOCUMENT, "the first", "operator token")
    assert (await api.get("/routes/versions/3")).status == 404
    listed = (await api.get("/routes/versions?limit=1")).document
    assert ([each["number"] for each in listed["data"]], listed["total"]) == ([2], 2)
    rest = (await api.get(f"/routes/versions?limit=1&cursor={listed['next_cursor']}")).document
    assert ([each["number"] for each in rest["data"]], rest["next_cursor"]) == ([1], None)


async def test_an_invalid_document_is_refused_with_every_mistake_and_changes_nothing(api: Api) -> None:
    """Row 111: half of a document in force, or one that no gateway can take."""
    await applied(api, DOCUMENT, 0)
    bad = DOCUMENT.replace("upstream: origin", "upstream: orgin").replace("[bearer]", "[magic]") + "\t"
    bad = bad.removesuffix("\t")
    for path, fields in (("/routes/versions", {"base": 1}), ("/routes/diff", {})):
        reply = await api.post(path, {"document": bad, **fields})
        assert (reply.status, reply.code) == (422, "invalid_fields")
        assert [(error["field"], error["line"]) for error in reply.document["errors"]] == [
            ("document", 9),
            ("document", 10),
        ]
        assert "did you mean 'origin'?" in reply.document["errors"][0]["problem"]
    for hostile in (
        "version: 1\nroutes: [",
        "",
        "a: &a [*a]",
        "keys: []",
        "\x00",
        "version: 1\nversion: 1\nroutes: []",
    ):
        assert (await apply(api, hostile, 1)).status in (400, 422), hostile
    assert (await api.get("/routes")).document["number"] == 1


async def test_who_made_a_document_from_another_version_is_told(api: Api) -> None:
    """What another has applied meanwhile would be undone, and nobody told."""
    await applied(api, DOCUMENT, 0)
    reply = await apply(api, OPEN, 0)
    assert (reply.status, reply.code, reply.document["about"]) == (409, "conflict", "/api/v1/routes/versions/1")
    assert (await apply(api, OPEN, 7)).status == 409
    assert (await api.post("/routes/rollback", {"number": 1, "base": 0})).status == 409
    assert (await apply(api, OPEN, -1)).status == 422
    assert (await api.post("/routes/versions", {"document": OPEN})).fields["base"] == "is required"


async def test_a_difference_says_how_many_keys_gain_or_lose_access(api: Api) -> None:
    """`scope clients:read removed` looks harmless; that twelve keys gain access does not."""
    app_id = await api.app()
    for _ in range(3):
        await api.key(app_id, scopes=["orders:read"], environment="live")
    await api.key(app_id, scopes=["clients:*"], environment="live", plan="standard")
    revoked = await api.key(app_id, scopes=["orders:read"])
    await api.post(f"/keys/{revoked['key_id']}/revoke", {"reason": "gone"})
    await applied(api, DOCUMENT.replace("gold", "standard"), 0)
    opened = (await api.post("/routes/diff", {"document": OPEN.replace("gold", "standard")})).document
    (change,) = opened["changes"]
    assert (change["subject"], change["field"]) == ("route clients", "auth.scopes")
    assert change["meaning"].endswith("scope clients:read removed (GET): 3 keys gain access")
    assert (change["keys_gaining"], change["keys_losing"], opened["base"]) == (3, 0, 1)
    tighter = DOCUMENT.replace("gold", "standard").replace("[clients:read]", "[clients:read, audit:read]")
    (change,) = (await api.post("/routes/diff", {"document": tighter})).document["changes"]
    assert change["meaning"].endswith("scope audit:read added (GET): 1 key loses access")
    gone = "version: 1\nroutes: []\nplans: {}\n"
    meanings = {
        c["subject"]: c["meaning"] for c in (await api.post("/routes/diff", {"document": gone})).document["changes"]
    }
    assert meanings["plan standard"] == "OPEN: 1 key of this plan is held to no plan from now on"
    assert meanings["route clients"].endswith("1 key loses access")
    test_only = DOCUMENT.replace("gold", "standard").replace("upstream: origin", "upstream: {test: origin}")
    (change,) = (await api.post("/routes/diff", {"document": test_only})).document["changes"]
    assert (change["field"], change["keys_losing"]) == ("upstream", 1)


async def test_comments_and_order_are_no_difference_and_references_are(api: Api) -> None:
    """Noise hides what matters; and what a host puts in can't be seen from here, so that it is asked for must be told."""
    await applied(api, DOCUMENT, 0)
    head, _, tail = DOCUMENT.partition("plans:")
    plans, _, rest = tail.partition("upstreams:")
    same = f"{head}upstreams:{rest}\n# the end\nplans:{plans}"
    assert (await api.post("/routes/diff", {"document": same})).document["changes"] == []
    referring = DOCUMENT.replace("http://10.0.0.1:9000", "${ORIGIN:-http://10.0.0.1:9000}")
    (change,) = (await api.post("/routes/diff", {"document": referring})).document["changes"]
    assert (change["kind"], change["subject"], change["after"]) == (
        "added",
        "reference",
        "${ORIGIN:-http://10.0.0.1:9000}",
    )


async def test_a_rollback_is_one_more_version(api: Api) -> None:
    """If history were rewritten, nobody could tell what was in force during an incident."""
    await applied(api, DOCUMENT, 0)
    await applied(api, OPEN, 1)
    before = (await api.post("/routes/diff", {"number": 1})).document
    rolled = await api.post("/routes/rollback", {"number": 1, "base": 2, "note": "clients could not call"})
    assert rolled.status == 201, rolled.text
    assert (rolled.document["number"], rolled.document["rolled_back_to"]) == (3, 1)
    assert rolled.document["changes"] == before["changes"]
    assert (await api.get("/routes")).document["document"] == DOCUMENT
    assert (await api.post("/routes/rollback", {"number": 9, "base": 3})).status == 404
    assert (await api.post("/routes/diff", {"number": 1, "document": OPEN})).status == 422


async def test_two_control_planes_at_once_lose_no_version(configuration: Configuration, connection: Connection) -> None:
    """Two operators apply at the same moment: one number for two documents, or a document that nobody ever sees again."""
    count = 6
    async with serving(configuration) as one, serving(configuration) as other:

        async def insist(api: Api, name: str) -> int:
            while True:
                base = (await api.get("/routes/status")).document["current"]
                reply = await apply(
                    api, DOCUMENT.replace("clients ", f"{name} "), 0 if base is None else base["number"]
                )
                if reply.status == 201:
                    return int(reply.document["number"])
                assert reply.status in (409, 503), reply.text

        names = [f"route-{number}" for number in range(count)]
        numbers = await asyncio.gather(*(insist((one, other)[n % 2], name) for n, name in enumerate(names)))
    assert sorted(numbers) == list(range(1, count + 1))
    rows = await connection.fetch("SELECT number, document FROM route_versions")
    by_number = {row["number"]: row["document"] for row in rows}
    assert all(names[n] in by_number[number] for n, number in enumerate(numbers))


async def test_a_repeated_apply_makes_one_version(api: Api) -> None:
    """A client that lost the answer would publish twice, or be refused for its own version."""
    for _ in range(2):
        reply = await api.post("/routes/versions", {"document": DOCUMENT, "base": 0}, idempotency_key="once")
        assert (reply.status, reply.document["number"]) == (201, 1)
    assert (await api.get("/routes/versions")).document["total"] == 1


async def test_what_is_applied_is_in_the_audit_log_and_what_is_compared_is_not(
    api: Api, connection: Connection
) -> None:
    """Who opened a route to everyone could not be told from who looked what that would do."""
    await api.post("/routes/diff", {"document": DOCUMENT})
    sha = (await applied(api, DOCUMENT, 0))["sha256"]
    await api.post("/routes/rollback", {"number": 1, "base": 1, "note": "again"})
    rows = await connection.fetch("SELECT operation, resource_type, resource_id, after FROM audit_log ORDER BY number")
    assert [tuple(row)[:3] for row in rows] == [("applyRoutes", "routes", "1"), ("rollBackRoutes", "routes", "2")]
    assert json.loads(rows[1]["after"]) == {
        "number": 2, "sha256": sha, "routes": 1, "note": "again", "rolled_back_to": 1,
    }  # fmt: skip


async def test_a_version_is_never_changed(api: Api, connection: Connection) -> None:
    """A gateway that holds version 1 would hold something else than what the history says."""
    await applied(api, DOCUMENT, 0)
    for statement in ("UPDATE route_versions SET note = 'x'", "DELETE FROM route_versions", "TRUNCATE route_versions"):
        with pytest.raises(asyncpg.RaiseError, match="never changed"):
            await connection.execute(statement)


async def test_a_new_version_is_announced_when_it_is_committed(api: Api, connection: Connection) -> None:
    """Gateways would hear of it a poll later, or of one that was undone."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    await connection.add_listener("ostiary_routes", lambda *told: heard.put_nowait(str(told[3])))
    await applied(api, DOCUMENT, 0)
    assert (await apply(api, "routes: [", 1)).status == 422
    await applied(api, OPEN, 1)
    assert [await asyncio.wait_for(heard.get(), 10) for _ in range(2)] == ["1", "2"]


async def test_the_status_says_who_runs_what(api: Api, connection: Connection) -> None:
    """An operator would take a change for in force while a gateway refuses it."""
    assert (await api.get("/routes/status")).document == {"current": None, "nodes": []}
    await applied(api, DOCUMENT, 0)
    sha = (await applied(api, OPEN, 1))["sha256"]
    rows = [
        ("a", 2, sha, None, 0), ("b", 1, "x", None, 0), ("c", 1, "x", 2, 0), ("d", 2, sha, None, 60),
        ("e", 2, "0" * 64, None, 0),
    ]  # fmt: skip
    for node, version, sha256, refused, age in rows:
        await connection.execute(
            "INSERT INTO gateway_nodes (node, host, ostiary, version, sha256, refused_version, refused_problems, seen_at)"
            " VALUES ($1, 'h', '1', $2, $3, $4, $5, now() - $6 * interval '1 second')",
            node, version, sha256, refused, ["no"] if refused else [], age,
        )  # fmt: skip
    status = (await api.get("/routes/status")).document
    assert status["current"]["number"] == 2
    states = {node["node"]: node["state"] for node in status["nodes"]}
    assert states == {"a": "current", "b": "behind", "c": "refused", "d": "silent", "e": "behind"}


async def test_keys_have_the_plans_that_are_published(database: str) -> None:
    """A key could be given a plan that no gateway knows, and would be held to nothing."""
    configuration = configuration_for(database)
    published = Configuration(
        **{name: getattr(configuration, name) for name in ("gateway", "control_plane", "stores")},
        plans={}, upstreams={}, routes=(), keys={}, published=PublishedRoutes(),
    )  # fmt: skip
    async with serving(published) as api:
        app_id = await api.app()
        wanted = {"name": "a key", "plan": "gold"}
        assert "there are: none" in (await api.post(f"/apps/{app_id}/keys", wanted)).fields["plan"]
        await applied(api, DOCUMENT, 0)
        assert (await api.post(f"/apps/{app_id}/keys", wanted)).status == 201
        await applied(api, DOCUMENT.replace("gold", "silver"), 1)
        assert "there are: silver" in (await api.post(f"/apps/{app_id}/keys", wanted)).fields["plan"]


async def test_a_document_of_its_full_size_is_taken_and_no_larger_body(api: Api) -> None:
    """The bound of other operations, 64 KiB, is some three hundred routes."""
    head, _, tail = DOCUMENT.partition("\nroutes:\n")
    large = f"{head}\n# {'x' * 300_000}\nroutes:\n{tail}"
    await applied(api, large, 0)
    assert (await api.get("/routes")).document["document"] == large
    reply = await api.post_text("/routes/versions", json.dumps({"document": "#" * 5_000_000, "base": 1}))
    assert (reply.status, reply.code) == (413, "body_too_large")
    assert (await apply(api, "#" * 2_100_000, 1)).status == 422
    assert (await api.post_text("/organizations", json.dumps({"name": "x" * 70_000}))).status == 413
