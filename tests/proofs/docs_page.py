"""Proof: /docs works in a real browser (Debian's chromium): it shows every operation, a call is tried with a token and
answered, nothing is asked of another host, no script fails and the page's policy blocks nothing that it needs."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from ostiary.control_plane.db import migrate
from ostiary.demo.stores import EmbeddedPostgres
from tests.cli.conftest import OPERATOR_TOKEN
from tests.control_plane.fuzzing import serving_for_fuzz
from tests.proofs._program import conclude
from tests.support.browser import Page, browsing, program
from tests.support.directories import directory_for_all


def look(page: Page, url: str) -> list[str]:
    """What is not as it must be."""
    with urllib.request.urlopen(f"{url}/api/v1/openapi.json", timeout=20) as answer:  # noqa: S310  our own
        described = sum(len(methods) for methods in json.load(answer)["paths"].values())
    page.open(f"{url}/docs#not_found")
    page.until(f"document.querySelectorAll('.opblock').length === {described}")
    failures = []
    if not page.evaluate("document.getElementById('not_found') !== null"):
        failures.append("/docs#not_found leads nowhere")

    before = "#operations-sign-in-getMe"
    page.click(f"{before} button.opblock-summary-control")
    page.click(f"{before} button.try-out__btn")
    if (status := _execute(page, before)) != "401":
        failures.append(f"getMe without a token: {status}")
    page.click("button.authorize")
    page.type(".auth-container input", OPERATOR_TOKEN)
    page.click(".auth-container button.authorize")
    page.click(".modal-ux button.btn-done")
    page.click(f"{before} button.btn-clear")
    if (status := _execute(page, before)) != "200":
        failures.append(f"getMe with the operator's token: {status}")
    if "operator token" not in str(page.evaluate(f"document.querySelector('{before}').innerText")):
        failures.append("the answer to getMe is not shown")
    if page.evaluate("Object.keys(localStorage).concat(Object.keys(sessionStorage)).join()"):
        failures.append("the page keeps something in the browser")
    # A call that is answered 401 is told as an error of the network: one was asked for.
    failures += [each for each in page.wrong if "401" not in each]
    ours = urlsplit(url).netloc
    failures += [f"asked {each}" for each in page.asked if urlsplit(each).netloc != ours and each[:5] != "data:"]
    return failures


def _execute(page: Page, operation: str) -> str:
    page.click(f"{operation} button.execute")
    return str(
        page.until(
            f"(document.querySelector('{operation} .live-responses-table tbody .response-col_status') || {{}}).innerText"
        )
    ).split()[0]


def prove(directory: Path) -> list[str]:
    """What failed. Prints the figures."""
    began = time.monotonic()
    with EmbeddedPostgres(directory / "postgres") as postgres:
        asyncio.run(migrate(postgres.url()))
        with serving_for_fuzz(directory, postgres.url()) as served, browsing() as page:
            failures = look(page, served.url)
            shown = page.evaluate("document.querySelectorAll('.opblock').length")
            print(f"{shown} operations, {len(page.asked)} requests of the page, in {time.monotonic() - began:.1f} s")
    return failures


def main() -> None:
    argparse.ArgumentParser(prog="scripts/prove docs-page", description=__doc__).parse_args()
    if program() is None:
        conclude(["there is no chromium; install it with: apt-get install chromium"])
    with directory_for_all() as directory:
        failures = prove(directory)
    conclude(failures)


if __name__ == "__main__":
    main()
