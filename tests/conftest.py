import contextlib
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

# Set before crewAI is imported: it reads these then. Child processes inherit them.
_home = tempfile.TemporaryDirectory(prefix="crewai-dbos-home-")
os.environ.update(
    HOME=_home.name,
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_DISABLE_VERSION_CHECK="true",
    CREWAI_TESTING="true",
    CREWAI_TRACING_ENABLED="false",
    OTEL_SDK_DISABLED="true",
)
# Every client of an LLM reads this file, which has all authorities; no test speaks TLS.
_one, _end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
_authorities = Path(_home.name, "authorities.pem")
_authorities.write_text(_one + _end)
os.environ["SSL_CERT_FILE"] = str(_authorities)
# Of a terminal that no test has: readline sets them where it is imported, as in xdist's workers.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CREWAI_STORAGE_DIR"):
    os.environ.pop(name, None)

gc.disable()  # all that is made by an import stays

from crewai_dbos.control import Control  # noqa: E402
from crewai_dbos.testing.crash._databases import Databases  # noqa: E402
from support.cpu import pytest_addoption, pytest_configure  # noqa: E402, F401
from support.entries import pytest_runtest_setup  # noqa: E402, F401
from support.launching import make_database  # noqa: E402
from support.postgres import Postgres, running_postgres  # noqa: E402

# Looking at what is still there takes a tenth of the time by default: at crewAI's modules, which
# are a million objects, and at what a run holds as long as it goes on.
gc.freeze()
gc.set_threshold(20_000, 20, 50)
gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, so that the workers end at about the same time."""
    long = {item.path for item in items if item.get_closest_marker("crash")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """The tests themselves stay, too."""
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Databases of the server, which are emptied and used again: that is faster than a new one."""
    with contextlib.closing(
        Databases(postgres.url("postgres"), tmp_path_factory.mktemp("databases"))
    ) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh system database for DBOS, once on each kind."""
    if request.param == "sqlite":
        make_database(url := f"sqlite:///{tmp_path}/dbos.sqlite")
        yield url
        return
    databases: Databases = request.getfixturevalue("databases")
    with databases.fresh() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """A kind of database, as `CrashTest` takes it."""
    if request.param == "sqlite":
        return "sqlite"
    return str(request.getfixturevalue("postgres").url("postgres"))


@pytest.fixture
def control(url: str) -> Iterator[Control]:
    """Of the database `url`, which a module or a package of tests has."""
    with Control(url) as found:
        yield found
