"""Proof: what signed bodies take while they are held back. A hundred uploads of 1 MiB at once, and one of 100 MiB where a
route allows it, by each scheme that signs: the worker's memory stays flat, every byte arrives. Then a disk that is full:
what has no room gets a clear error, and nothing is left on it (needs root, for a file system of 8 MiB)."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.acceptance import stack
from tests.acceptance.large_bodies import MIB, ResidentMemory, resident_bytes
from tests.support.gateway_process import SECRET, GatewayProcess, eventually
from tests.support.messages import request
from tests.support.signatures import signed_upload

SCHEMES = ("hmac", "hmac-body", "http-signature")
AT_ONCE = 100
# Of a hundred connections, what each has in memory before the file (64 KiB), and reads at a time; a hundred whole bodies
# would be 100 MiB.
GROWTH_BYTES_MAX = 32 * MIB


class Origin(BaseHTTPRequestHandler):
    """Answers with the SHA-256 of the body."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        digest, left = sha256(), int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(left, 1 << 16))
            if not piece:
                return
            digest.update(piece)
            left -= len(piece)
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


class Upload(threading.Thread):
    """One signed upload. All but its last bytes are sent, then `release` is waited for: so that all are held at once."""

    def __init__(self, port: int, scheme: str, body: bytes, release: threading.Event) -> None:
        super().__init__(daemon=True)
        lines = signed_upload(scheme, "/u", body, key_id=stack.KEY_ID, secret=SECRET.encode())
        self._head = request("/u", *lines, b"Content-Length: %d" % len(body), method=b"POST")
        self._port, self._body, self._release = port, body, release
        self.answer = b""

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=120) as sock:
            try:
                sock.sendall(self._head + self._body[:-1])
                self._release.wait(120)
                sock.sendall(self._body[-1:])
            except OSError:
                pass  # refused; the answer says why
            while piece := _receive(sock):
                self.answer += piece


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


def held_bytes(gateway: GatewayProcess) -> int:
    lines = gateway.admin("/metrics")[1].splitlines()
    return int(sum(float(line.split()[1]) for line in lines if line.startswith("held_body_bytes")))


def uploads(gateway: GatewayProcess, scheme: str, count: int, size: int) -> list[str]:
    """What went wrong."""
    (pid,) = gateway.worker_pids()
    rest_bytes = resident_bytes(pid)
    release, body = threading.Event(), os.urandom(size)
    threads = [Upload(gateway.port, scheme, body, release) for _ in range(count)]
    began = time.monotonic()
    with ResidentMemory(pid, since_bytes=rest_bytes) as memory:
        for thread in threads:
            thread.start()
        eventually(lambda: held_bytes(gateway) >= count * (size - 1), "all bodies are held", 60)
        release.set()
        for thread in threads:
            thread.join(120)
    seconds = time.monotonic() - began
    eventually(lambda: held_bytes(gateway) == 0, "nothing is held", 10)
    title = f"{scheme}, {count} x {size / MIB:.0f} MiB"
    print(
        f"{title:28} in {seconds:5.1f} s   worker {rest_bytes / MIB:5.1f} MiB at rest, "
        f"grew by {memory.growth_bytes / MIB:4.1f} MiB   ({memory.samples} samples)"
    )
    digest = sha256(body).hexdigest().encode()
    wrong = [thread.answer for thread in threads if not thread.answer.endswith(digest)]
    failures = [f"{title}: {len(wrong)} answers are wrong, such as {wrong[0][:200]!r}"] if wrong else []
    if memory.growth_bytes > GROWTH_BYTES_MAX:
        failures.append(f"{title}: grew by {memory.growth_bytes / MIB:.1f} MiB")
    return failures


@contextmanager
def small_disk(directory: Path, mib: int) -> Iterator[None]:
    """A file system of that size. Raises OSError where there may be none."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(directory)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise OSError("no file system of its own can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def full_disk(port: int) -> list[str]:
    """Twenty uploads of 1 MiB at once to a disk of 8, by each scheme: some get in, the rest 503; then the disk is empty."""
    failures = []
    with (
        tempfile.TemporaryDirectory() as name,
        small_disk(Path(name) / "spool", 8),
        stack.gateway(Path(name), {"/**": port}, workers=1, scheme=", ".join(SCHEMES)) as gateway,
    ):
        (pid,) = gateway.worker_pids()
        files = len(os.listdir(f"/proc/{pid}/fd"))
        for scheme in SCHEMES:
            release, body = threading.Event(), os.urandom(MIB)
            threads = [Upload(gateway.port, scheme, body, release) for _ in range(20)]
            for thread in threads:
                thread.start()
            eventually(lambda: held_bytes(gateway) > 7 * MIB, "the disk is full")
            release.set()
            for thread in threads:
                thread.join(60)
            good = sum(b" 200 " in thread.answer[:16] for thread in threads)
            refused = sum(b" 503 " in thread.answer[:16] and b"overloaded" in thread.answer for thread in threads)
            eventually(lambda: held_bytes(gateway) == 0, "nothing is held", 10)
            disk = os.statvfs(Path(name) / "spool")
            print(f"{scheme}, a disk of 8 MiB: {good} taken, {refused} refused with 503 overloaded, none left on it")
            if good + refused != 20 or not good or disk.f_bfree != disk.f_blocks:
                failures.append(
                    f"{scheme}: {good} + {refused} of 20, and {disk.f_blocks - disk.f_bfree} blocks are left"
                )
        eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= files + 3, "descriptors are closed", 10)
        print(f"the log says: {', '.join(sorted({line['reason'] for line in gateway.logged('overloaded')}))}")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove signed-bodies", description=__doc__)
    parser.parse_args()
    failures: list[str] = []
    with Server(("127.0.0.1", 0), Origin) as origin:
        port = origin.server_address[1]
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "spool").mkdir()
            with stack.gateway(
                Path(name), {"/**": port}, workers=1, scheme=", ".join(SCHEMES), route=", max_signed_body: 200MiB"
            ) as gateway:
                release = threading.Event()
                release.set()
                first = Upload(
                    gateway.port, "hmac", b"x" * 100_000, release
                )  # what a first call takes is no matter of size
                first.run()
                for scheme in SCHEMES:
                    failures += uploads(gateway, scheme, AT_ONCE, MIB)
                    failures += uploads(gateway, scheme, 1, 100 * MIB)
        try:
            failures += full_disk(port)
        except OSError as error:
            print(f"a full disk: not run, {error}")
        origin.shutdown()
    for failure in failures:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
