"""The OpenAPI document: valid, whole, and true."""

from __future__ import annotations

import re
from typing import Any

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from ostiary.control_plane.app import build_app
from ostiary.control_plane.http.edge import OPEN
from ostiary.control_plane.http.problems import ProblemCode
from ostiary.core.model import Configuration
from tests.control_plane.support import Api, Reply


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
    page = await api.get("/docs", token=None)
    document = (await api.get("/api/v1/openapi.json")).document
    for path in document["paths"]:
        assert path in page.text
    for code in ProblemCode:
        assert f'id="{code.code}"' in page.text
    assert not re.search(r"<script|<link|<img|https?://", page.text)
    assert "script-src" not in page.headers["Content-Security-Policy"]
