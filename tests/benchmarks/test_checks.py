from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from benchmarks.checks import check_job
from benchmarks.load import LoadFailed


@contextmanager
def gateway_that_reports(*accepted: int) -> Iterator[int]:
    """An admin listener whose worker speaks of so many calls, one more report each time it is asked; gives the port."""
    reports = list(accepted)

    class Status(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            counted = reports.pop(0) if len(reports) > 1 else reports[0]
            reported = {"spool": {"accepted": counted}, "limiter": {"decided_without_store": 3}}
            body = json.dumps({"workers": [{"reported": reported if counted else None}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Status) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_the_report_that_counts_speaks_of_every_row() -> None:
    """Workers report once a second: an older report would miss the decisions of the last run."""
    with gateway_that_reports(0, 90, 100) as port:
        check = check_job(answered=98, rows=100, runs=1, probes=2, admin_port=port)
    assert check.reconciles
    assert check.decided_without_redis == 3


def test_a_gateway_that_counts_less_than_its_rows_is_not_believed() -> None:
    """Rows that no worker speaks of were not written by what was measured."""
    with gateway_that_reports(90) as port, pytest.raises(LoadFailed, match="100 calls"):
        check_job(answered=98, rows=100, runs=1, probes=2, admin_port=port, patience_seconds=0.2)
