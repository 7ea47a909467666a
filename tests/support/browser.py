"""A real browser without a window: Chromium (Debian's package), driven over its DevTools protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

SECONDS_MAX = 60.0  # a page of 2 MB of script, on a machine with others at work


def program() -> str | None:
    """Where it is, if it is installed."""
    return shutil.which("chromium")


class Page:
    """One tab. What it asked of the network, and what went wrong in it, is kept."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.asked: list[str] = []
        self.wrong: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._do(f"{domain}.enable")

    def open(self, url: str) -> None:
        self._do("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Its value, as JSON. Fails when it throws."""
        answer = self._do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if (thrown := answer.get("exceptionDetails")) is not None:
            raise AssertionError(f"{expression}: {thrown.get('exception', {}).get('description', thrown['text'])}")
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Its first value that is true."""
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.05)
        shown = str(self.evaluate("document.body.innerText"))[-2000:]
        raise AssertionError(f"not within {SECONDS_MAX} s: {expression}\n{shown}\n{self.wrong}")

    def click(self, selector: str) -> None:
        """The first that there is, as soon as there is one."""
        self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, selector: str, text: str) -> None:
        """Into the first field of this kind, keystroke by keystroke for all that the page can tell."""
        self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self._do("Input.insertText", text=text)

    def _do(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=SECONDS_MAX))
            if message.get("id") == self._number:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self._keep(message.get("method", ""), message.get("params", {}))

    def _keep(self, event: str, told: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.asked.append(str(told["request"]["url"]))
        elif event == "Runtime.exceptionThrown":
            self.wrong.append(str(told["exceptionDetails"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.wrong.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")


@contextmanager
def browsing() -> Iterator[Page]:
    found = program()
    assert found is not None, "there is no chromium: apt-get install chromium"
    with tempfile.TemporaryDirectory(prefix="ostiary-browser-", ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [
                *(
                    found,
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--no-first-run",
                ),
                *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
                *("--remote-debugging-port=0", f"--user-data-dir={home}", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = _port(process, Path(home) / "DevToolsActivePort")
            request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new", method="PUT")
            with urllib.request.urlopen(request, timeout=SECONDS_MAX) as answer:  # noqa: S310  our own
                address = str(json.load(answer)["webSocketDebuggerUrl"])
            with connect(address, max_size=None, open_timeout=SECONDS_MAX) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            process.wait(SECONDS_MAX)


def _port(process: subprocess.Popen[bytes], file: Path) -> int:
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        assert process.poll() is None, "chromium has ended by itself"
        if file.exists() and (lines := file.read_text().split()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("chromium opens no port for its DevTools")
