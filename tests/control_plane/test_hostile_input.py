"""Row 128, at random: whatever is sent to whatever operation, the answer is one that the OpenAPI document names for it, and
never a fault."""

from __future__ import annotations

import json
import random
import re
from typing import Any
from urllib.parse import quote

from tests.control_plane.support import Api

CALLS = 1500
# Of the request line, aiohttp takes 8190 bytes.
TARGET_LENGTH_MAX = 8000
TEXTS = [
    "", "x", "clients:read", "live", "test", "standard", "2030-01-01T00:00:00Z", "0000-00-00T00:00:00Z", "10.0.0.0/8", "::/0",
    "https://example.com", "' OR 1=1; --", "\\", "%00", "\u202e", "\U0001f600", "é" * 300, "x" * 3000, "../..", "\n", "\x7f",
    "00000000-0000-0000-0000-000000000000", "ak_live_0000000000000000000000", "WzEsMl0", "null", "1e400", "٣",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2**31, 2**53, 2**63, 1.5, -0.0, 1e300]


def _value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(8 if depth < 3 else 5)
    match kind:
        case 0 | 1 | 2:
            return chance.choice(TEXTS)
        case 3:
            return chance.choice(NUMBERS)
        case 4:
            return chance.choice([None, True, False])
        case 5 | 6:
            return [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            return {chance.choice(TEXTS): _value(chance, depth + 1) for _ in range(chance.randrange(4))}


def _document(chance: random.Random, schema: dict[str, Any]) -> Any:
    if chance.random() < 0.1:
        return _value(chance)
    names = [name for name in schema["properties"] if name in schema.get("required", ()) or chance.random() < 0.3]
    document = {name: _value(chance) for name in names}
    if chance.random() < 0.1:
        document[chance.choice(TEXTS)] = _value(chance)
    return document


async def test_no_input_is_a_fault(api: Api) -> None:
    """Row 128: never 500, and never a status that a client was not told of."""
    chance = random.Random(128)
    described = (await api.get("/api/v1/openapi.json")).document
    app_id = await api.app()
    key_id = (await api.key(app_id))["key_id"]
    operations = [
        (path, method, item) for path, methods in described["paths"].items() for method, item in methods.items()
    ]
    seen: set[int] = set()
    for number in range(CALLS):
        path, method, item = operations[number % len(operations)]
        known = {"app_id": app_id, "key_id": key_id}

        def segment(match: re.Match[str], known: dict[str, str] = known) -> str:
            name = match[1]
            if name in known and chance.random() < 0.7:
                return known[name]
            return quote(chance.choice(TEXTS) or "x", safe="")

        address = re.sub(r"\{(.*?)\}", segment, path)
        options: dict[str, Any] = {}
        if method == "post" and "requestBody" in item:
            reference = item["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            document = _document(chance, described["components"]["schemas"][reference])
            options = {"data": json.dumps(document).encode(), "headers": {"Content-Type": "application/json"}}
            if chance.random() < 0.2:
                options["headers"]["Idempotency-Key"] = f"k{chance.randrange(20)}"
        else:
            names = [parameter["name"] for parameter in item.get("parameters", ()) if parameter["in"] == "query"]
            chosen = [name for name in [*names, "unknown"] if chance.random() < 0.3]
            address += "?" + "&".join(f"{name}={quote(chance.choice(TEXTS), safe='')}" for name in chosen)
        reply = await api.request(method.upper(), address, **options)
        if len(address) > TARGET_LENGTH_MAX and reply.status == 400:  # before it is known which operation is meant
            continue
        assert str(reply.status) in item["responses"] or reply.status in (404, 405), (method, address, reply.text)
        assert reply.status < 500, (method, address, options, reply.text)
        seen.add(reply.status)
    assert seen >= {200, 201, 404, 409, 422}, "the inputs reach too little"
