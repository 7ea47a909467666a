"""What node_origin.js does, as a WSGI application for gunicorn."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any

_numbers = itertools.count(1)


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}\n".encode("latin-1")
    headers = [
        [name[5:].replace("_", "-").lower(), value] for name, value in environ.items() if name.startswith("HTTP_")
    ]
    answer = json.dumps(headers).encode()
    start_response(
        "200 OK",
        [
            ("X-Number", str(next(_numbers))),
            ("X-Saw", hashlib.sha256(start + body).hexdigest()),
            ("Content-Length", str(len(answer))),
        ],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer]
