"""A gateway of real processes for a test: started, asked, signalled, and gone when the test ends."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self, TypeVar

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DEADLINE_SECONDS = 30.0

CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: {port}, workers: {workers}}}
  admin: {{host: 127.0.0.1, port: {admin_port}}}
  drain: {drain}
stores:
  spool: {directory}
upstreams:
  origin:
    targets: [{{url: "http://127.0.0.1:9"}}]
routes:
{routes}
keys:
  - {{id: canary_key, secret: "${{OSTIARY_TEST_SECRET}}", environment: test}}
"""
ROUTE = """\
  - name: {name}
    match: {{path: /{name}}}
    upstream: origin
    auth: {{schemes: [anonymous]}}
"""
SECRET = "canary-Zx81-0123456789-0123456789-0123456789"


def eventually(question: Callable[[], T | None], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """The first answer that is true. Fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.005)
    raise AssertionError(f"not within {seconds} s: {what}")


def wait_seconds(seconds: float) -> None:
    """Lets a load run for so long. Not for waiting until something has happened: that is `eventually`."""
    time.sleep(seconds)


class GatewayProcess:
    """A supervisor as a process of its own: `python -m` with `arguments`. Its standard output goes to `stdout`, if given.
    `package` is the folder that has `ostiary`: this checkout, or what `scripts/compile` made of it."""

    def __init__(
        self, arguments: Sequence[str], stdout: IO[bytes] | None = None, *, package: Path = REPOSITORY
    ) -> None:
        environment = os.environ | {"PYTHONPATH": str(package), "OSTIARY_TEST_SECRET": SECRET}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *arguments],  # -P: not the checkout that this runs in
            cwd=REPOSITORY,
            env=environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._ended: queue.Queue[None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.text.append(line)
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                pass
        self._ended.put(None)

    def logged(self, event: str, **fields: object) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["event"] == event and fields.items() <= line.items()]

    def wait_for_log(self, event: str, **fields: object) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            lines = self.logged(event, **fields)
            return lines[0] if lines else None

        try:
            return eventually(found, f"{event} in the log")
        except AssertionError as error:
            raise AssertionError(f"{error}; the log is:\n{''.join(self.text)}") from None

    def wait_ready(self) -> Self:
        self.wait_for_log("ready")
        return self

    @property
    def port(self) -> int:
        return int(self.wait_for_log("started")["listen"].rpartition(":")[2])

    @property
    def admin_port(self) -> int:
        return int(self.wait_for_log("started")["admin"].rpartition(":")[2])

    def admin(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.admin("/status")[1])
        return found

    def worker_pids(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["workers"] if worker["state"] == "ready"]

    def wait_for_workers(self, count: int = 2, *, without: int = 0) -> list[int]:
        """The pids of the workers once so many are ready, and `without` is not among them."""

        def question() -> list[int] | None:
            pids = self.worker_pids()
            return pids if len(pids) == count and without not in pids else None

        return eventually(question, f"{count} workers without {without}")

    def get(self, path: str = "/", headers: Mapping[str, str] | None = None) -> str:
        """One request on a connection of its own."""
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  our own
            body: str = answer.read().decode()
            return body

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit status, once the log has been read to its end."""
        status = self.process.wait(DEADLINE_SECONDS)
        self._ended.get(timeout=DEADLINE_SECONDS)
        self._ended.put(None)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._ended.get(timeout=DEADLINE_SECONDS)  # the pipe ends when the last child is gone


class TinyGateway(GatewayProcess):
    """A gateway whose workers run the tiny service. `workers` is how many it has."""

    def __init__(self, directory: Path, *, workers: int = 2, drain: str = "10s", port: int = 0) -> None:
        self.path = directory / "gateway.yaml"
        self._fill = {"workers": workers, "drain": drain, "port": port, "admin_port": 0, "directory": directory}
        self.write("first")
        super().__init__(["tests.support.run_gateway", str(self.path)])

    def write(self, *routes: str, **changes: object) -> None:
        """Replaces the configuration file, as an editor does."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(self.configuration(*routes, **changes))
        fresh.replace(self.path)

    def configuration(self, *routes: str, **changes: object) -> str:
        fill = self._fill | changes
        return CONFIGURATION.format(**fill, routes="".join(ROUTE.format(name=name) for name in routes))


def is_alive(pid: int) -> bool:
    """A process that has ended and is not waited for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
