"""Proof: every example of docs/signing signs what it sends, in each language whose runtime is on this machine; those that
are not are named. Against a gateway in this process, and an upstream that records what it was sent."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from ostiary.core.model import Authentication, Scheme
from tests.acceptance.signing_examples import BODY, RUNTIMES, TARGETS, call, command_of
from tests.support.gateway import KEY_ID, SECRET, configuration, key, route, running_gateway, upstream
from tests.support.origin import running_origin


async def run(names: list[str], directory: Path) -> list[str]:
    """What went wrong."""
    failures = []
    only = Authentication(schemes=frozenset({Scheme.HMAC}))
    async with running_origin() as origin:
        settings = configuration([upstream(origin.port)], [route(authentication=only)], keys=[key()])
        async with running_gateway(settings) as gateway:
            for name in names:
                began = time.monotonic()
                command = await asyncio.to_thread(command_of, name, directory)
                built = time.monotonic()
                calls = [
                    (method, target, body)
                    for target in TARGETS
                    for method, body in (("GET", ""), ("POST", BODY), ("DELETE", ""))
                ]
                for method, target, body in calls:
                    url = f"http://127.0.0.1:{gateway.port}{target}"
                    words = [method, url, *([body] if body else [])]
                    status, printed = await asyncio.to_thread(
                        call, command, *words, key_id=KEY_ID, secret=SECRET.decode()
                    )
                    if (status, printed.strip()) != (0, "200 ok"):
                        failures.append(f"{name}: {method} {target}: {printed.strip()}")
                        continue
                    seen = origin.seen[-1]
                    if (seen.method, seen.target, seen.body) != (method, target, body.encode()):
                        failures.append(f"{name}: the upstream saw {seen.method} {seen.target} {seen.body!r}")
                status, printed = await asyncio.to_thread(call, command, "GET", url, key_id=KEY_ID, secret="wrong" * 8)
                if status == 0 or not printed.startswith("401"):
                    failures.append(f"{name}: with a wrong secret: {printed.strip()}")
                seconds = (time.monotonic() - built) / (len(calls) + 1)
                print(
                    f"{name:10} {len(calls)} calls and a refusal; built in {built - began:.1f} s, {seconds:.2f} s a call"
                )
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove signing-examples", description=__doc__)
    parser.parse_args()
    missing = {name: runtime for name, (runtime,) in RUNTIMES.items() if shutil.which(runtime) is None}
    names = [name for name in RUNTIMES if name not in missing]
    with tempfile.TemporaryDirectory() as directory:
        failures = asyncio.run(run(names, Path(directory)))
    for name, runtime in missing.items():
        print(f"{name:10} not run: there is no {runtime}")
    for failure in failures:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
