"""The real gateway with one open route before a plain origin, for tests of its processes: nothing but calls and answers."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.gateway_process import GatewayProcess
from tests.support.load import BODY_BYTES

CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: 2}}
  admin: {{host: 127.0.0.1, port: 0}}
upstreams:
  origin:
    targets: [{{url: "http://127.0.0.1:{origin}"}}]
routes:
  - {{name: all-{number}, match: {{path: /**}}, upstream: origin, auth: {{schemes: [anonymous]}}}}
"""


class Origin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(BODY_BYTES))
        self.end_headers()
        self.wfile.write(b"x" * BODY_BYTES)

    def log_message(self, format: str, *arguments: object) -> None:
        """Its log is of no interest."""


class OriginServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


@contextmanager
def origin(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    server = OriginServer(("127.0.0.1", 0), Origin)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def running(path: Path) -> Iterator[GatewayProcess]:
    """`ostiary gateway` with the file at `path`, ready."""
    gateway = GatewayProcess(["ostiary", "gateway", "-c", str(path)])
    try:
        yield gateway.wait_ready()
    finally:
        gateway.stop()
