"""Proof: the time of a refusal does not tell an unknown key from a known one with a wrong signature (row 53). One worker and
one connection; requests of both kinds in an order of chance, each timed by itself; Welch's t of the two means, of all times
and of those below the 99th and the 90th percentile, so that rare pauses hide no difference."""

from __future__ import annotations

import argparse
import random
import secrets
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.acceptance import stack
from tests.support.messages import request
from tests.support.signatures import hmac_lines, signature_lines

T_MAX = 4.5
SCHEMES = "hmac, http-signature"
COUNTED = "{per_address: 1000000, per_key: 1000000}"  # as always, with a bound that the proof does not reach
KNOWN, UNKNOWN = stack.KEY_ID, stack.KEY_ID[::-1]  # of one length
Lines = Callable[[str, str], tuple[bytes, ...]]


def by_hmac(target: str, key_id: str) -> tuple[bytes, ...]:
    return hmac_lines(target, key_id=key_id, secret=secrets.token_bytes(40))


def by_http_signature(target: str, key_id: str) -> tuple[bytes, ...]:
    return signature_lines(target, key_id=key_id, secret=secrets.token_bytes(40))


def welch(left: Sequence[float], right: Sequence[float]) -> float:
    """Welch's t of two samples."""
    spread = statistics.variance(left) / len(left) + statistics.variance(right) / len(right)
    return float((statistics.fmean(left) - statistics.fmean(right)) / spread**0.5)


def one(sock: socket.socket, data: bytes) -> float:
    """Microseconds from the request to its whole answer."""
    began = time.perf_counter_ns()
    sock.sendall(data)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(65536)
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(rest) < length:
        rest += sock.recv(65536)
    spent = (time.perf_counter_ns() - began) / 1000
    if b" 401 " not in head[:16] or b"credentials_invalid" not in rest:
        raise SystemExit(f"not the refusal that is measured: {answer!r}")
    return spent


def measure(port: int, lines: Lines, samples: int, chance: random.Random) -> dict[str, list[float]]:
    """Times by key id. A block of both kinds is made first and then sent, in an order of chance."""
    times: dict[str, list[float]] = {KNOWN: [], UNKNOWN: []}
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for warming in (True, False):
            left = 200 if warming else samples
            while left:
                block = min(left, 100)
                left -= block
                order = [KNOWN, UNKNOWN] * block
                chance.shuffle(order)
                made = [(key_id, request("/t", *lines("/t", key_id), close=False)) for key_id in order]
                for key_id, data in made:
                    spent = one(sock, data)
                    if not warming:
                        times[key_id].append(spent)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove timing", description=__doc__)
    parser.add_argument(
        "--samples", type=int, default=20_000, help="of each kind (default 20000, half a minute in all)"
    )
    samples = parser.parse_args().samples
    chance = random.Random(secrets.randbits(64))
    failures = []
    with (
        tempfile.TemporaryDirectory() as name,
        stack.gateway(Path(name), {"/**": 9}, workers=1, scheme=SCHEMES, failed_attempts=COUNTED) as gateway,
    ):
        for title, lines in (("hmac", by_hmac), ("http-signature", by_http_signature)):
            times = measure(gateway.port, lines, samples, chance)
            known, unknown = times[KNOWN], times[UNKNOWN]
            both = known + unknown
            found = [welch(known, unknown)]
            for share in (0.99, 0.90):
                bound = sorted(both)[int(len(both) * share) - 1]
                found.append(welch([t for t in known if t <= bound], [t for t in unknown if t <= bound]))
            medians = statistics.median(known), statistics.median(unknown)
            print(
                f"{title:15} 2 x {samples}: wrong signature {medians[0]:.2f} µs, unknown key {medians[1]:.2f} µs (medians); "
                f"Welch's t {found[0]:+.2f}, below the 99th percentile {found[1]:+.2f}, below the 90th {found[2]:+.2f}"
            )
            if max(map(abs, found)) >= T_MAX:
                failures.append(f"{title}: t is {max(found, key=abs):+.2f}, and {T_MAX} would be found by who asks")
    for failure in failures:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
