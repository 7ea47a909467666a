"""The OpenAPI document: valid, whole, and true."""

from __future__ import annotations

import re
from typing import Any

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from ostiary.control_plane.app import build_app
from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.http.edge import OPEN
from ostiary.control_plane.http.problems import ProblemCode
from ostiary.core.model import Configuration
from tests.control_plane.people import by_password, person
from tests.control_plane.support import OPERATOR_TOKEN, Api, Reply


async def test_the_document_is_valid_openapi_3_1(api: Api) -> None:
    """Client generators would refuse it."""
    document = (await api.get("/api/v1/openapi.json", token=None)).document
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


async def test_every_route_is_described_and_every_description_is_a_route(
    configuration: Configuration, api: Api
) -> None:
    """Something could be called that nobody can read about."""
    app = await build_app(configuration)
    routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    await app.cleanup()
    document = (await api.get("/api/v1/openapi.json")).document
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert routes - {("GET", path) for path in OPEN} == described


async def test_answers_are_as_described(api: Api) -> None:
    """A generated client would fail on a real answer."""
    document = (await api.get("/api/v1/openapi.json")).document
    app_id = await api.app()
    created = await api.post(f"/apps/{app_id}/keys", {"name": "x", "expires_in_days": 1})
    key_id = created.document["key_id"]
    for template, method, reply in [
        ("/organizations", "post", await api.post("/organizations", {"name": "O"})),
        ("/apps/{app_id}/keys", "post", created),
        ("/organizations", "get", await api.get("/organizations?limit=1")),
        ("/organizations", "post", await api.post("/organizations", {"name": ""})),
        ("/apps", "get", await api.get("/apps")),
        ("/apps/{app_id}", "get", await api.get(f"/apps/{app_id}")),
        ("/apps/{app_id}", "get", await api.get("/apps/none")),
        ("/apps/{app_id}/keys", "get", await api.get(f"/apps/{app_id}/keys")),
        ("/keys/{key_id}", "get", await api.get(f"/keys/{key_id}")),
        ("/keys/{key_id}", "patch", await api.request("PATCH", f"/keys/{key_id}", json={"name": "y", "plan": None})),
        ("/keys/{key_id}/rotate", "post", await api.post(f"/keys/{key_id}/rotate", {})),
        (
            "/keys/{key_id}/generations/{number}",
            "delete",
            await api.request("DELETE", f"/keys/{key_id}/generations/1"),
        ),
        (
            "/keys/{key_id}/generations/{number}",
            "delete",
            await api.request("DELETE", f"/keys/{key_id}/generations/2"),
        ),
        ("/keys/{key_id}/revoke", "post", await api.post(f"/keys/{key_id}/revoke", {"reason": "x"})),
        ("/keys/{key_id}/rotate", "post", await api.post(f"/keys/{key_id}/rotate", {})),
        ("/apps/{app_id}/usage", "get", await api.get(f"/apps/{app_id}/usage?days=2")),
        ("/usage/daily", "get", await api.get("/usage/daily")),
        ("/usage/summary", "get", await api.get("/usage/summary")),
        ("/usage/daily", "get", await api.get("/usage/daily?days=0")),
    ]:
        _check_against(document, template, method, reply)


def _check_against(document: dict[str, Any], template: str, method: str, reply: Reply) -> None:
    described = document["paths"][f"/api/v1{template}"][method]["responses"][str(reply.status)]
    schema = described["content"][reply.headers["Content-Type"]]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(reply.document)


async def test_schemas_refuse_what_the_api_refuses(api: Api) -> None:
    """The document would promise what the API does not keep: they are one declaration."""
    document = (await api.get("/api/v1/openapi.json")).document
    validator = Draft202012Validator({"$ref": "#/components/schemas/NewKey", "components": document["components"]})
    app_id = await api.app()
    for fields in (
        {"name": ""},
        {"name": " x"},
        {"name": "x" * 201},
        {"name": "x", "scopes": ["A"]},
        {"name": "x", "unknown": 1},
        {"name": "x", "environment": "prod"},
        {"name": "x", "expires_in_days": 0},
        {"name": 1},
        {},
    ):
        assert not validator.is_valid(fields)
        assert (await api.post(f"/apps/{app_id}/keys", fields)).status == 422
    assert validator.is_valid({"name": "x", "scopes": ["clients:read"], "environment": "live"})
    validator = Draft202012Validator({"$ref": "#/components/schemas/KeyChanges", "components": document["components"]})
    key_id = (await api.key(app_id))["key_id"]
    for changes in ({"name": None}, {"scopes": None}, {"environment": "live"}, {"plan": 1}, {"allowed_ips": None}):
        assert not validator.is_valid(changes)
        assert (await api.request("PATCH", f"/keys/{key_id}", json=changes)).status == 422
    assert validator.is_valid({"plan": None, "allowed_origins": []})


async def test_the_docs_page_names_every_operation_and_problem_and_loads_nothing(api: Api) -> None:
    """The page would lag behind the API, or call a foreign host."""
    page = await api.get("/docs/reference", token=None)
    document = (await api.get("/api/v1/openapi.json")).document
    for path in document["paths"]:
        assert path in page.text
    for code in ProblemCode:
        assert f'id="{code.code}"' in page.text
    assert not re.search(r"<script|<link|<img|https?://", page.text)
    assert "script-src" not in page.headers["Content-Security-Policy"]


async def test_every_operation_has_examples_error_answers_and_security(api: Api) -> None:
    """Whoever reads the document would have to guess what a call looks like, or how it fails."""
    document = (await api.get("/api/v1/openapi.json")).document
    components = document["components"]

    def check(media: dict[str, Any]) -> None:
        examples = [media["example"]] if "example" in media else [each["value"] for each in media["examples"].values()]
        validator = Draft202012Validator(
            {**media["schema"], "components": components}, format_checker=Draft202012Validator.FORMAT_CHECKER
        )
        for example in examples:
            validator.validate(example)

    for path, item in document["paths"].items():
        for method, operation in item.items():
            where = f"{method} {path}"
            for alternative in operation["security"]:
                assert set(alternative) <= set(components["securitySchemes"]), where
            if "requestBody" in operation:
                check(operation["requestBody"]["content"]["application/json"])
            succeeded = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            failed = [answer for status, answer in operation["responses"].items() if status.startswith(("4", "5"))]
            assert succeeded, where
            assert {"401", "422", "429", "500", "503"} <= operation["responses"].keys(), where
            for answer in succeeded:
                check(answer["content"]["application/json"])
            for answer in failed:
                check(answer["content"]["application/problem+json"])


async def test_the_security_of_every_operation_is_what_the_matrix_and_the_method_say(api: Api) -> None:
    """A generated client would send a token to what makes somebody known, or a browser's call without what is asked of it."""
    document = (await api.get("/api/v1/openapi.json")).document
    bearers: list[dict[str, Any]] = [{"operatorToken": []}, {"platformToken": []}, {"accessToken": []}]
    described = {}
    for item in document["paths"].values():
        for method, operation in item.items():
            described[operation["operationId"]] = operation["security"]
            if MATRIX[operation["operationId"]].unknown:
                wanted = []
            elif method == "get":
                wanted = [*bearers, {"session": []}]
            else:
                wanted = [*bearers, {"session": [], "ownPage": []}]
            assert operation["security"] == wanted, operation["operationId"]
    assert described.keys() == MATRIX.keys()
    # What is said once, for operations that say nothing, opens nothing.
    assert [] not in (document["security"], described["getMe"])
    for subject in ("Organizations", "users", "apps", "keys", "plans", "routes", "usage", "audit"):
        assert subject in document["info"]["summary"]


async def test_every_security_scheme_lets_in_as_it_is_described(api: Api) -> None:
    """The document would ask for what is refused, or keep quiet about what is taken."""
    schemes = (await api.get("/api/v1/openapi.json")).document["components"]["securitySchemes"]
    program = await api.post("/platform-tokens", {"name": "ci", "platform_role": "auditor"})
    assert program.status == 201, program.text
    rosa = await person(api, "rosa@example.com", organization_id=await api.organization(), role="owner")
    signed_in = await by_password(api, "/sign-in", rosa.email)
    cookie = signed_in.headers["Set-Cookie"].partition(";")[0]
    assert cookie.partition("=")[0] == schemes["session"]["name"]
    tokens = {
        "operatorToken": OPERATOR_TOKEN,
        "platformToken": program.document["token"],
        "accessToken": rosa.token,
    }
    assert tokens.keys() | {"session", "ownPage"} == schemes.keys()
    for name, token in tokens.items():
        assert (schemes[name]["type"], schemes[name]["scheme"]) == ("http", "bearer")
        assert (await api.get("/organizations", token=token)).status == 200, name
    assert (schemes["session"]["type"], schemes["session"]["in"]) == ("apiKey", "cookie")
    session = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
    assert (await api.get("/me", token=None, headers=session)).status == 200
    assert (await api.request("POST", "/sign-out", token=None, headers=session)).code == "foreign_page"
    assert (schemes["ownPage"]["type"], schemes["ownPage"]["in"]) == ("apiKey", "header")
    with_header = {**session, schemes["ownPage"]["name"]: "1"}
    assert (await api.request("POST", "/sign-out", token=None, headers=with_header)).status == 200


async def test_examples_of_requests_are_taken_by_the_api(api: Api) -> None:
    """The document would show what is refused."""
    document = (await api.get("/api/v1/openapi.json")).document

    def example(path: str, method: str) -> dict[str, Any]:
        content = document["paths"][f"/api/v1{path}"][method]["requestBody"]["content"]
        taken: dict[str, Any] = content["application/json"]["example"]
        return taken

    organization = await api.post("/organizations", example("/organizations", "post"))
    app = await api.post("/apps", {**example("/apps", "post"), "organization_id": organization.document["id"]})
    key = await api.post(f"/apps/{app.document['id']}/keys", example("/apps/{app_id}/keys", "post"))
    assert [reply.status for reply in (organization, app, key)] == [201, 201, 201]
    path = f"/keys/{key.document['key_id']}"
    for method, below in (("PATCH", ""), ("PUT", "/limits"), ("POST", "/rotate"), ("POST", "/revoke")):
        sent = example(f"/keys/{{key_id}}{below}", method.lower())
        assert (await api.request(method, path + below, json=sent)).status == 200, below


async def test_links_lead_from_what_was_made_or_listed_to_what_can_be_done_with_it(api: Api) -> None:
    """A client that follows them would ask for another thing, or for none; and of an operation that is added nobody would see
    where its id comes from."""
    paths = (await api.get("/api/v1/openapi.json")).document["paths"]
    described = {each["operationId"]: (path, each) for path, item in paths.items() for each in item.values()}

    async def followed(source: str, status: int, reply: Reply, target: str, **path: str) -> Reply:
        assert reply.status == status, reply.text
        link = described[source][1]["responses"][str(status)]["links"][target]
        assert link["operationId"] == target
        values = {
            name: path[expression.rpartition(".")[2]]
            if expression.startswith("$request.path.")
            else pointed_at(reply.document, expression.removeprefix("$response.body#"))
            for name, expression in link["parameters"].items()
        }
        return await api.get(described[target][0].format_map(values))

    def pointed_at(document: Any, pointer: str) -> str:
        for step in pointer.split("/")[1:]:
            document = document[int(step)] if isinstance(document, list) else document[step]
        return str(document)

    made = await api.post("/organizations", {"name": "Acme"})
    organization_id = made.document["id"]
    await person(api, "rosa@example.com", organization_id=organization_id, role="owner")
    found = await followed("createOrganization", 201, made, "getOrganization")
    assert found.document == made.document
    found = await followed("listOrganizations", 200, await api.get("/organizations"), "getOrganization")
    assert found.document == made.document
    made = await api.post("/apps", {"organization_id": organization_id, "name": "Shop"})
    assert (await followed("createApp", 201, made, "getApp")).document == made.document
    made = await api.post(f"/apps/{made.document['id']}/keys", {"name": "phone"})
    found = await followed("createKey", 201, made, "getKey")
    assert found.document["name"] == "phone"
    apps = await api.get("/apps")
    keys = await followed("listApps", 200, apps, "listKeys")
    assert (await followed("listKeys", 200, keys, "getKey")).document == found.document
    members = await api.get(f"/organizations/{organization_id}/members")
    found = await followed("listMembers", 200, members, "getMember", organization_id=organization_id)
    assert found.document["email"] == "rosa@example.com"

    linked = {
        target
        for _, each in described.values()
        for answer in each["responses"].values()
        for target in answer.get("links", {})
    }
    without = {identifier for identifier, (path, _) in described.items() if "{" in path} - linked
    assert without == {"endGeneration"}, "nothing says where the id comes from"


async def test_the_interactive_page_loads_from_this_server_alone_and_keeps_the_links_of_problems(api: Api) -> None:
    """A page from a foreign host could read the operator token; a problem's `type` would lead nowhere."""
    page = await api.get("/docs", token=None)
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://|<script>|<style|style=|\son[a-z]+=", page.text)
    loaded = re.findall(r'(?:src|href)="(/docs/assets/[^"]+)"', page.text)
    assert len(loaded) == 4
    for path in loaded:
        asset = await api.get(path, token=None)
        assert asset.status == 200
        assert asset.headers["Content-Type"].startswith("text/css" if path.endswith(".css") else "text/javascript")
    assert "SwaggerUIBundle" in (await api.get("/docs/assets/swagger-ui-bundle.js", token=None)).text
    assert "/api/v1/openapi.json" in (await api.get("/docs/assets/start.js", token=None)).text
    for code in ProblemCode:
        assert f'id="{code.code}"' in page.text
    assert 'href="/docs/reference"' in page.text


async def test_problems_point_at_the_place_in_the_body(api: Api) -> None:
    """A form could not show a problem beside its field."""
    app_id = await api.app()
    sent = {"name": "", "scopes": ["ok", "NOT"], "allowed_ips": [1], "a/b~c": 1, "plan": "none such"}
    reply = await api.post(f"/apps/{app_id}/keys", sent)
    pointers = {error["field"]: error["pointer"] for error in reply.document["errors"]}
    assert pointers == {
        "name": "#/name",
        "scopes.1": "#/scopes/1",
        "allowed_ips.0": "#/allowed_ips/0",
        "a/b~c": "#/a~1b~0c",
    }
    unspeakable = await api.post("/organizations", {"name": "x", "a password": 1, "t" * 33: 1})
    assert {error["field"] for error in unspeakable.document["errors"]} == {""}
    assert "password" not in unspeakable.text
    missing = await api.post("/organizations", {})
    assert missing.document["errors"] == [{"field": "name", "problem": "is required", "pointer": "#/name"}]
    by_rule = await api.post(f"/apps/{app_id}/keys", {"name": "x", "plan": "none such"})
    assert [error["pointer"] for error in by_rule.document["errors"]] == ["#/plan"]
    whole = await api.request("PATCH", f"/keys/{(await api.key(app_id))['key_id']}", json={})
    assert [error["pointer"] for error in whole.document["errors"]] == ["#"]
    in_query = await api.get("/organizations?limit=x")
    assert in_query.document["errors"] == [{"field": "limit", "problem": "must be a whole number"}]
