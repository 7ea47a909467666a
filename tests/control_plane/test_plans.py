"""Plans over the API: those of the configuration to be read, those of published routes to be changed, too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from click.testing import CliRunner

from ostiary.cli.main import main
from ostiary.control_plane import routes
from ostiary.control_plane.db import Connection
from ostiary.control_plane.plans import store
from ostiary.core.config.composition import check_published
from ostiary.core.model import Configuration, Overage, Period, Plan, Quota, Rate, Window
from ostiary.core.published import PublishedRoutes, document_sha256
from tests.control_plane.support import OPERATOR_TOKEN, SERVICE_ROLE, Api, Reply, configuration_for, serving, url_for


async def test_plans_are_told_as_the_configuration_has_them(database: str) -> None:
    """A portal would show a customer limits that do not hold."""
    standard = Plan(
        "standard",
        rate=Rate(100, 60, 600),
        windows=(Window(10_000, 3600),),
        quotas=(Quota(1_000_000, Period.DAY),),
        concurrency=50,
        overage=Overage.WARN,
    )
    configuration = replace(configuration_for(database), plans={"standard": standard, "free": Plan("free")})
    async with serving(configuration) as api:
        listed = (await api.get("/plans")).document
        assert ([plan["name"] for plan in listed["data"]], listed["total"]) == (["free", "standard"], 2)
        read = await api.get("/plans/standard")
        assert read.document == listed["data"][1]
        terms = {"mode": "enforce", "refused": "free", "counting": "exact"}
        assert read.document == {
            "name": "standard",
            "rate": {"requests": 100, "per": "minute", "burst": 600, **terms},
            "limits": [{"requests": 10_000, "per": "hour", **terms}],
            "quotas": [{"requests": 1_000_000, "per": "day", **terms}],
            "concurrency": 50,
            "concurrency_mode": "enforce",
            "overage": "warn",
            "by": "key",
            "version": None,
        }
        assert (await api.get("/plans/standard", headers={"If-None-Match": read.headers["ETag"]})).status == 304
        assert [(await api.get(f"/plans/{name}")).status for name in ("none", "a b", "x" * 65)] == [404, 404, 404]


DOCUMENT = """\
version: 1
plans:
  gold: {limits: [{requests: 5, per: minute}]}
  silver: {quotas: [{requests: 7, per: day}]}
upstreams: {origin: {targets: [{url: "http://10.0.0.1:9000"}]}}
routes: [{name: clients, match: {path: /clients, methods: [GET]}, upstream: origin, auth: {schemes: [bearer]}}]
"""


def _publishing(database: str) -> Configuration:
    """With a plan in the file, which no gateway goes by."""
    return replace(configuration_for(url_for(SERVICE_ROLE, database)), published=PublishedRoutes())


async def _apply(api: Api, document: str, base: int) -> None:
    reply = await api.post("/routes/versions", {"document": document, "base": base})
    assert reply.status == 201, reply.text


async def _limits(api: Api) -> dict[str, int]:
    listed = (await api.get("/plans")).document
    assert listed["total"] == len(listed["data"])
    return {plan["name"]: (plan["limits"] or plan["quotas"])[0]["requests"] for plan in listed["data"]}


async def test_where_routes_are_published_the_plans_are_those_of_the_version_in_force(database: str) -> None:
    """A portal would show limits of a file that no gateway goes by, and not the plans that keys are given. Also where another
    control plane has published them."""
    async with serving(_publishing(database)) as api, serving(_publishing(database)) as other:
        assert await _limits(api) == await _limits(other) == {}
        assert (await api.get("/plans/standard")).status == 404
        await _apply(api, DOCUMENT, 0)
        assert await _limits(api) == await _limits(other) == {"gold": 5, "silver": 7}
        before = (await other.get("/plans/gold")).headers["ETag"]
        await _apply(api, DOCUMENT.replace("requests: 5", "requests: 6").replace("silver", "bronze"), 1)
        assert await _limits(api) == await _limits(other) == {"bronze": 7, "gold": 6}
        changed = await other.get("/plans/gold", headers={"If-None-Match": before})
        assert (changed.status, changed.document["limits"][0]["requests"]) == (200, 6)
        assert (await other.get("/plans/silver")).status == 404


async def test_plans_of_a_version_that_this_release_does_not_take_are_refused(
    database: str, connection: Connection
) -> None:
    """Something half read, or nothing at all, would be shown as what holds."""
    async with serving(_publishing(database)) as api:
        await connection.execute(
            "INSERT INTO route_versions (number, document, sha256, normal_form, author) "
            "VALUES (1, 'version: 99', repeat('0', 64), '{\"routes\": [], \"plans\": {\"x\": {}}}', 'x')"
        )
        for path in ("/plans", "/plans/x"):
            reply = await api.get(path)
            assert (reply.status, reply.code) == (409, "conflict")


async def test_plans_of_the_file_are_changed_there(api: Api) -> None:
    """A plan would be made that no gateway goes by."""
    for method, path, options in (
        ("POST", "/plans", {"json": {"name": "gold"}}),
        ("PUT", "/plans/standard", {"json": {"concurrency": 1}}),
        ("DELETE", "/plans/standard", {}),
    ):
        reply = await api.request(method, path, **options)
        assert (reply.status, reply.code) == (409, "conflict")
        assert "routes: {from: control_plane}" in reply.document["detail"]
    assert (await api.get("/routes")).status == 404


GOLD = {
    "name": "gold",
    "rate": {"requests": 100, "per": "minute", "burst": 600},
    "limits": [{"requests": 10_000, "per": "hour"}, {"requests": 500, "per": "hour", "mode": "shadow"}],
    "quotas": [{"requests": 1_000_000, "per": "day", "refused": "charged"}],
    "concurrency": 50,
    "overage": "charge",
    "by": "organization",
}


async def test_a_plan_is_made_changed_and_deleted_as_versions_of_the_routes(database: str) -> None:
    """There would be two truths: gateways go by versions, and could not be rolled back to what plans were."""
    async with serving(_publishing(database)) as api, serving(_publishing(database)) as other:
        await _apply(api, "# ours\n" + DOCUMENT.replace("  gold: {limits: [{requests: 5, per: minute}]}\n", ""), 0)
        made = await api.post("/plans", {**GOLD, "note": "for those who pay", "quotas": GOLD["quotas"]})
        assert made.status == 201, made.text
        assert made.headers["Location"] == "/api/v1/plans/gold"
        read = await other.get("/plans/gold")
        assert read.document == made.document
        assert (read.document["version"], read.document["by"], read.document["overage"]) == (
            2,
            "organization",
            "charge",
        )
        assert read.document["limits"][1] == {
            "requests": 500, "per": "hour", "mode": "shadow", "refused": "free", "counting": "exact",
        }  # fmt: skip
        version = (await api.get("/routes")).document
        assert (version["number"], version["note"], version["author"]) == (2, "for those who pay", "operator token")
        assert version["document"].startswith("# ours\nversion: 1\nplans:\n")
        assert version["content"]["plans"]["gold"]["concurrency"] == 50
        assert (await api.post("/plans", GOLD)).code == "conflict"

        changed = await other.request("PUT", "/plans/gold", json={"concurrency": 9})
        assert (changed.status, changed.document["concurrency"], changed.document["quotas"]) == (200, 9, [])
        assert changed.document["version"] == 3
        same = await api.request("PUT", "/plans/gold", json={"concurrency": 9, "overage": "block", "limits": []})
        assert (same.status, same.document["version"]) == (200, 3), "it says the same: no version"
        assert (await api.request("PUT", "/plans/none", json={"concurrency": 9})).status == 404

        rolled = await api.post("/routes/rollback", {"number": 2, "base": 3})
        assert {change["subject"] for change in rolled.document["changes"]} == {"plan gold"}
        assert (await other.get("/plans/gold")).document["concurrency"] == 50
        gone = await api.request("DELETE", "/plans/gold")
        assert (gone.status, gone.document["name"], gone.document["version"]) == (200, "gold", 5)
        assert (await other.get("/plans/gold")).status == 404
        assert (await api.request("DELETE", "/plans/gold")).status == 404
        assert (await api.get("/routes")).document["note"] == "plan gold removed"


async def test_the_first_plan_makes_the_first_version(database: str) -> None:
    """Whoever begins with plans would be told to write routes first."""
    async with serving(_publishing(database)) as api:
        assert (await api.request("DELETE", "/plans/gold")).status == 404
        assert (await api.post("/plans", {"name": "2030"})).document["version"] == 1
        assert (await api.get("/routes")).document["content"] == {"version": 1, "plans": {"2030": {}}, "routes": []}


async def test_a_plan_is_held_to_the_rules_of_the_file(database: str) -> None:
    """A plan that no gateway can take, or that lets nobody through, would be refused by all of them, or hold."""
    async with serving(_publishing(database)) as api:
        await _apply(
            api,
            DOCUMENT.replace("upstream: origin,", "upstream: origin, cost: {default: 6},").replace(
                "requests: 5", "requests: 6"
            ),
            0,
        )
        wrong = {
            "limits": [{"requests": 5, "per": "hour"}, {"requests": 6, "per": "hour"}],
            "rate": {"requests": 1, "per": "day", "burst": 10**12},
            "overage": "warn",
            "concurrency_mode": "shadow",
        }
        reply = await api.request("PUT", "/plans/gold", json=wrong)
        assert (reply.status, reply.code) == (422, "invalid_fields")
        assert {error["pointer"] for error in reply.document["errors"]} == {
            "#/rate", "#/limits", "#/overage", "#/concurrency_mode",
        }  # fmt: skip
        typed = await api.post("/plans", {"name": "a b", "limits": [{"requests": 0, "per": "month"}], "tier": 1})
        assert {error["pointer"] for error in typed.document["errors"]} == {
            "#/name", "#/limits/0/requests", "#/limits/0/per", "#/tier",
        }  # fmt: skip
        # By itself it is a plan; with what else is published, nobody could ever call.
        reply = await api.request("PUT", "/plans/gold", json={"limits": [{"requests": 5, "per": "minute"}]})
        assert (reply.status, [error["pointer"] for error in reply.document["errors"]]) == (422, ["#"])
        assert "could never pass" in reply.document["errors"][0]["problem"]
        assert (await api.get("/routes")).document["number"] == 1


async def test_a_plan_that_keys_have_is_not_deleted(database: str, connection: Connection) -> None:
    """Its keys would be held to no limits at all."""
    async with serving(_publishing(database)) as api:
        await _apply(api, DOCUMENT, 0)
        first, second = await api.app(), await api.app(await api.organization("other"))
        keys = [(await api.key(app_id, plan="gold"))["key_id"] for app_id in (first, first, second)]
        reply = await api.request("DELETE", "/plans/gold")
        assert (reply.status, reply.code) == (409, "conflict")
        assert reply.document["detail"].startswith("3 keys in force have it, of 2 apps")
        await api.request("PATCH", f"/keys/{keys[0]}", json={"plan": "silver"})
        await api.post(f"/keys/{keys[1]}/revoke", {"reason": "over"})
        assert "1 key in force has it, of 1 app" in (await api.request("DELETE", "/plans/gold")).document["detail"]
        await connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", keys[2])
        assert (await api.request("DELETE", "/plans/gold")).status == 200


async def until_waiting(connection: Connection) -> None:
    """Until somebody waits for a lock that this transaction holds."""
    for _ in range(1000):
        if await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        ):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waited")


async def test_a_key_is_not_given_a_plan_that_is_being_deleted(database: str, connection: Connection) -> None:
    """Between the look for the plan and the commit of the key it would go, and the key be held to nothing."""
    async with serving(_publishing(database)) as api, serving(_publishing(database)) as other:
        await _apply(api, DOCUMENT, 0)
        app_id = await api.app()
        for number in range(3):
            if number:
                await api.post("/plans", {"name": "gold"})
            made, deleted = await asyncio.gather(
                other.post(f"/apps/{app_id}/keys", {"name": "k", "plan": "gold"}),
                api.request("DELETE", "/plans/gold"),
            )
            assert (made.status, deleted.status) in ((201, 409), (422, 200)), (made.text, deleted.text)
            if made.status == 201:
                await api.post(f"/keys/{made.document['key_id']}/revoke", {"reason": "over"})
                assert (await api.request("DELETE", "/plans/gold")).status == 200
        # Held open in the middle, it is seen for certain: who gives it waits for who deletes it, and the other way round.
        await api.post("/plans", {"name": "gold"})
        holds: list[tuple[Callable[[Connection, str], Awaitable[None]], Callable[[], Coroutine[Any, Any, Reply]]]] = [
            (store.claim, lambda: other.post(f"/apps/{app_id}/keys", {"name": "k", "plan": "gold"})),
            (store.share, lambda: api.request("DELETE", "/plans/gold")),
        ]
        for hold, call in holds:
            async with connection.transaction():
                await hold(connection, "gold")
                waiting = asyncio.create_task(call())
                await until_waiting(connection)
                assert not waiting.done()
            assert (await waiting).status in (201, 409), (await waiting).text


async def test_who_did_not_see_the_last_change_is_refused(database: str) -> None:
    """Of two who edit a plan the slower would undo what the faster did; and so would who published it by a file."""
    async with serving(_publishing(database)) as api, serving(_publishing(database)) as other:
        await _apply(api, DOCUMENT, 0)
        tag = (await api.get("/plans/gold")).headers["ETag"]
        await _apply(api, DOCUMENT.replace("requests: 7", "requests: 8"), 1)  # another plan: no reason to refuse
        first = await other.request("PUT", "/plans/gold", json={"concurrency": 1}, headers={"If-Match": tag})
        assert first.status == 200, first.text
        changes: list[tuple[str, dict[str, Any]]] = [("PUT", {"json": {"concurrency": 2}}), ("DELETE", {})]
        for method, options in changes:
            reply = await api.request(method, "/plans/gold", headers={"If-Match": tag}, **options)
            assert (reply.status, reply.code) == (412, "precondition_failed")
        await _apply(api, DOCUMENT, 3)
        late = await api.request(
            "PUT", "/plans/gold", json={"concurrency": 3}, headers={"If-Match": first.headers["ETag"]}
        )
        assert late.status == 412
        stale = await api.post("/routes/versions", {"document": DOCUMENT, "base": 3})
        assert stale.code == "conflict"


async def test_a_version_that_comes_in_between_is_seen(database: str, connection: Connection) -> None:
    """Compared with one version and made from the next, a change would undo what nobody has seen."""
    async with serving(_publishing(database)) as api:
        await _apply(api, DOCUMENT, 0)
        tag = (await api.get("/plans/gold")).headers["ETag"]
        text = DOCUMENT.replace("requests: 5", "requests: 6")
        async with connection.transaction():
            await routes.lock(connection)
            changing = asyncio.create_task(
                api.request("PUT", "/plans/gold", json={"concurrency": 1}, headers={"If-Match": tag})
            )
            await until_waiting(connection)
            await connection.execute(
                "INSERT INTO route_versions (number, document, sha256, normal_form, author) VALUES (2, $1, $2, $3, 'x')",
                text,
                document_sha256(text),
                json.dumps(check_published(text, name="d").normal_form),
            )
        assert (await changing).status == 412
        assert (await api.get("/plans/gold")).document["limits"][0]["requests"] == 6


async def test_changes_of_plans_and_routes_at_once_lose_nothing(database: str) -> None:
    """Of two changes that begin with one version, the one that is published last would take the other back."""
    async with serving(_publishing(database)) as one, serving(_publishing(database)) as other:
        await _apply(one, DOCUMENT, 0)

        async def publish(api: Api) -> None:
            while True:
                current = (await api.get("/routes")).document
                text = current["document"].replace("name: clients", "name: customers")
                reply = await api.post("/routes/versions", {"document": text, "base": current["number"]})
                if reply.status == 201:
                    return
                assert reply.status in (409, 503), reply.text

        made = await asyncio.gather(
            *((one, other)[number % 2].post("/plans", {"name": f"p{number}"}) for number in range(8)), publish(one)
        )
        assert [reply.status for reply in made if reply is not None] == [201] * 8
        current = (await one.get("/routes")).document
        assert current["content"]["routes"][0]["name"] == "customers"
        assert set(current["content"]["plans"]) == {"gold", "silver", *(f"p{number}" for number in range(8))}
        assert current["number"] == 10


async def test_a_repeated_call_makes_one_plan_and_the_log_has_who_made_it(
    database: str, connection: Connection
) -> None:
    """A client that lost the answer would be told that the plan is another's; and nobody who had changed it."""
    async with serving(_publishing(database)) as api:
        for _ in range(2):
            assert (await api.post("/plans", GOLD, idempotency_key="once")).status == 201
        assert (await api.request("PUT", "/plans/gold", json={**GOLD, "concurrency": 9, "name": None})).status == 422
        terms = {name: value for name, value in GOLD.items() if name != "name"}
        assert (await api.request("PUT", "/plans/gold", json={**terms, "concurrency": 9})).status == 200
        assert (await api.request("DELETE", "/plans/gold", params={"note": "over"})).status == 200
        rows = await connection.fetch(
            "SELECT operation, resource_id, organization_id, before, after FROM audit_log "
            "WHERE resource_type = 'plan' ORDER BY number"
        )
        assert [tuple(row)[:3] for row in rows] == [
            ("createPlan", "gold", None), ("replacePlan", "gold", None), ("deletePlan", "gold", None),
        ]  # fmt: skip
        assert json.loads(rows[0]["after"])["concurrency"] == 50
        assert (json.loads(rows[1]["before"]), json.loads(rows[1]["after"])) == (
            {"concurrency": 50, "version": 1}, {"concurrency": 9, "version": 2},
        )  # fmt: skip
        assert rows[2]["after"] is None
        events = (await api.get("/events?after=0")).document["data"]
        assert [event["kind"] for event in events] == ["plan.created", "plan.changed", "plan.deleted"]


async def test_plans_are_made_replaced_and_deleted_from_a_shell(database: str) -> None:
    """The platform team would write JSON by hand to sell a plan."""
    async with serving(_publishing(database)) as api:
        url = str(api.client.make_url("")).rstrip("/")

        async def run(*words: str) -> Any:
            arguments = ["plans", *words, "--url", url, "--json"]
            done = await asyncio.to_thread(
                CliRunner().invoke, main, arguments, env={"OSTIARY_OPERATOR_TOKEN": OPERATOR_TOKEN}
            )
            assert done.exit_code == 0, done.output
            return json.loads(done.stdout)

        made = await run(
            *("create", "gold", "--rate", "100/minute+600", "--limit", "5/hour", "--limit", "2/hour,shadow"),
            *("--quota", "9/day,charged", "--overage", "warn", "--by", "app", "--note", "spring"),
        )
        assert made["rate"]["burst"] == 600
        assert [(each["requests"], each["mode"]) for each in made["limits"]] == [(5, "enforce"), (2, "shadow")]
        assert (made["quotas"][0]["refused"], made["overage"], made["by"]) == ("charged", "warn", "app")
        assert (await api.get("/routes")).document["note"] == "spring"
        assert (await run("replace", "gold", "--concurrency", "3"))["quotas"] == []
        assert (await run("delete", "gold", "--note", "over"))["version"] == 3


async def test_a_document_that_can_t_be_edited_in_place_is_left_as_it_is(database: str) -> None:
    """Another plan would change with it, and nobody be told."""
    for silver, gold, bronze in (
        ("*terms", "&terms {limits: [{requests: 5, per: minute}]}", "{}"),  # no document without its anchor
        ("{limits: *l}", "{limits: &l [{requests: 5, per: minute}]}", "{limits: &l [{requests: 9, per: day}]}"),
    ):
        text = f"version: 1\nplans:\n  bronze: {bronze}\n  gold: {gold}\n  silver: {silver}\nroutes: []\n"
        async with serving(_publishing(database)) as api:
            current = (await api.get("/routes/status")).document["current"]
            await _apply(api, text, 0 if current is None else current["number"])
            reply = await api.request("PUT", "/plans/gold", json={"concurrency": 1})
            assert (reply.status, reply.code, reply.document["about"]) == (409, "conflict", "/api/v1/routes")
            assert (await api.request("PUT", "/plans/silver", json={"concurrency": 1})).status == 200
            assert (await api.get("/plans/gold")).document["limits"][0]["requests"] == 5
