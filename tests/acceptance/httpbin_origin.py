"""httpbin as a real upstream: gunicorn serves it, and what it got and gave is written down for every request.

`OSTIARY_TEST_RECORD` names the file that gets one JSON line a request: what the application read and wrote, before any
server or gateway has framed it, so that both directions can be compared byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

THREADS = 24  # more than the calls under way at once, so that /delay holds up nobody


class Recording:
    """The application around httpbin that writes down each request once its answer is whole."""

    def __init__(self, application: Any, record: int) -> None:
        self._application = application
        self._record = record

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        environ["wsgi.input"] = BytesIO(body)
        line: dict[str, object] = {
            "id": environ.get("HTTP_X_REQUEST_ID", ""),
            "method": environ["REQUEST_METHOD"],
            "target": environ["RAW_URI"],
            "body_bytes": len(body),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "headers": {name: value for name, value in environ.items() if name.startswith(("HTTP_", "CONTENT_"))},
        }

        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> Any:
            line["status"] = int(status.split()[0])
            line["answer_headers"] = headers
            return start_response(status, headers, error)

        return self._relay(self._application(environ, start), line)

    def _relay(self, pieces: Iterable[bytes], line: dict[str, object]) -> Iterator[bytes]:
        digest, count = hashlib.sha256(), 0
        try:
            for piece in pieces:
                digest.update(piece)
                count += len(piece)
                yield piece
        finally:
            if (close := getattr(pieces, "close", None)) is not None:
                close()
        line |= {"answer_bytes": count, "answer_sha256": digest.hexdigest()}
        os.write(self._record, json.dumps(line).encode() + b"\n")  # one write with O_APPEND: lines do not mix


def application() -> Recording:
    """What gunicorn serves."""
    from httpbin import app

    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    return Recording(app, os.open(os.environ["OSTIARY_TEST_RECORD"], flags, 0o600))


def command(port_file: str) -> list[str]:
    """gunicorn on a free port, which stands in `port_file` once it listens (`post_worker_init` writes it)."""
    return [
        *(sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", str(THREADS), "--workers", "1"),
        *("--bind", "127.0.0.1:0", "--log-level", "warning", "--worker-tmp-dir", os.path.dirname(port_file)),
        # Longer than the gateway keeps a connection: which of two closes first is another test's question.
        *("--keep-alive", "60", "--config", f"{os.path.dirname(__file__)}/gunicorn_settings.py"),
        "tests.acceptance.httpbin_origin:application()",
    ]
