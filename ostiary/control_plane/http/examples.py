"""Examples in the OpenAPI document: made from the schemas, so that no operation is without one and none is out of date.

A field whose schema has `examples` gives its own; the others are known by name here, or follow from their type. A test holds
every example against its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_UUID = "0b6e8f0e-4c55-4b53-9d0a-2f6f1f0a7c11"
_KEY_ID = "ak_live_4fZ8Qm1sT0bYc7RkW2xPqD"

# What a field of this name holds, where its schema admits it.
_BY_NAME: Mapping[str, Any] = {
    "id": _UUID,
    "organization_id": "5d3c1a52-7a8e-4f0b-8a51-6f1f3f6f1c02",
    "app_id": _UUID,
    "user_id": "c7a1d2de-93a4-4d0e-9a0d-0f3a8c1b2e33",
    "key_id": _KEY_ID,
    "name": "Shop",
    "description": "The shop's own back end.",
    "email": "ada@example.com",
    "password": "correct horse battery staple",
    "new_password": "correct horse battery staple",
    "reason": "It was in a public repository.",
    "revoked_at": None,
    "revoked_reason": None,
    "ends_at": None,
    "grace_seconds": 86_400,
    "approval_reason": "Checked by hand.",
    "secret": "sk_live_9dRk2VtYw0QmXe7bZs4HcLp1NfGa6UjTi8OyBv3CqKr5uWx",
    "secret_hint": "uWx5",
    "plan": "standard",
    "scopes": ["clients:read"],
    "allowed_ips": ["203.0.113.0/24"],
    "allowed_origins": ["https://app.example.com"],
    "website": "https://app.example.com",
    "redirect_uris": ["https://app.example.com/callback"],
    "ip": "203.0.113.7",
    "last_used_ip": "203.0.113.7",
    "last_used_user_agent": "curl/8.5.0",
    "user_agent": "curl/8.5.0",
    "route": "clients",
    "method": "GET",
    "path_template": "/v1/clients/{id}",
    "status": 200,
    "country": "DE",
    "request_id": "3f0d9a6c1e7b4d5f8a2c6b9e0d1f4a7c",
    "changed_by": "operator",
    "per": "hour",
    "requests": 10_000,
    "burst": 600,
    "calls": 1284,
    "errors": 3,
    "share": 0.25,
    "total": 1,
    "limit": "standard:hour",
    "quota": "standard:day",
    "subject": f"k:{_KEY_ID}",
    "threshold": 80,
    "calls_max": 100_000,
    "next_cursor": None,
    "environment": "live",
    "expires_in_days": None,
    "ip_hash": None,
}
_DEPTH_MAX = 12


def example(schema: Schema, components: Mapping[str, Schema], *, name: str | None = None) -> Any:
    """A value that `schema` admits; `components` are the schemas that it refers to by name. Raises ValueError, naming the
    field, where none can be made up: give the field `examples`."""
    return _example(schema, components, name or "the whole", _DEPTH_MAX)


def _example(schema: Schema, components: Mapping[str, Schema], name: str, depth: int) -> Any:
    if depth == 0:
        raise ValueError(f"the schema of {name} contains itself: give it `examples`")
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return _example(components[schema["$ref"].rsplit("/", 1)[1]], components, name, depth - 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _BY_NAME[name] if _BY_NAME.get(name) in schema["enum"] else schema["enum"][0]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        if name in _BY_NAME and _BY_NAME[name] is None and {"type": "null"} in choices:
            return None
        return _example(next(each for each in choices if each != {"type": "null"}), components, name, depth - 1)
    if schema.get("type") == "object" and "properties" in schema:
        return {
            field: _example(described, components, field, depth - 1)
            for field, described in schema["properties"].items()
            if _belongs(field, described, schema)
        }
    if _fits(_BY_NAME.get(name), schema):
        return _BY_NAME[name]  # a test holds it against the rest of the schema
    return _of_type(schema, components, name, depth)


def _belongs(field: str, described: Schema, schema: Schema) -> bool:
    """What may be left out is told of only where it is known what it would be."""
    known = _BY_NAME.get(field) is not None or any(
        "examples" in each for each in (described, *described.get("anyOf", ()))
    )
    return known or field in schema.get("required", ())


def _of_type(schema: Schema, components: Mapping[str, Schema], name: str, depth: int) -> Any:
    match schema.get("type"):
        case "array":
            items = schema.get("items", {})
            return [_example(items, components, name.removesuffix("s"), depth - 1)] if items else []
        case "boolean":
            return False
        case "integer":
            return max(1, schema.get("minimum", 0))
        case "number":
            return float(max(12.5, schema.get("minimum", 0)))
        case "null":
            return None
        case "object":
            return {}
        case "string" if schema.get("format") == "date-time":
            return "2030-01-31T09:30:00Z"
        case "string" if schema.get("format") == "date":
            return "2030-01-31"
        case "string" if "pattern" not in schema or "uuid" in schema.get("description", "").lower():
            return _UUID if "pattern" in schema else "text"
    raise ValueError(f"no example for {name}: give the field `examples`")


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
}


def _fits(value: Any, schema: Schema) -> bool:
    return value is not None and isinstance(value, _TYPES.get(schema.get("type", ""), ()))
