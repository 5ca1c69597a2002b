"""``crewai-dbos worker``: a process that carries out the runs of a module's definitions."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Annotated, NoReturn

import typer

from crewai_dbos._commands import logs
from crewai_dbos._commands.options import SCHEMA, Url, serializer

logger = logging.getLogger("crewai_dbos")


def worker(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE[:DEFINITION]",
            help="The modules with the definitions, or their files. All that they define is "
            "carried out.",
        ),
    ],
    db_url: Url = None,
    lease: Annotated[
        float, typer.Option(min=1, help="Seconds of silence after which others take it for dead.")
    ] = 30.0,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that runs have to end when it is stopped.")
    ] = 30.0,
    name: Annotated[
        str | None,
        typer.Option(help="Of the application, as in its DBOS config; by default the module's."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            help="Of the application (application_version), as its runs were started with; by "
            "default what DBOS makes of the definitions."
        ),
    ] = None,
    health_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve /live, /ready, /status and /metrics there."),
    ] = None,
    health_host: Annotated[
        str, typer.Option(help="The address for that: a container is probed from outside.")
    ] = "0.0.0.0",
    log_level: Annotated[
        logs.Level | None,
        typer.Option(
            case_sensitive=False,
            help="What is logged; without it info, and of DBOS's own lines warnings. Of libraries "
            "no more than warnings.",
        ),
    ] = None,
    log_format: Annotated[
        logs.Format,
        typer.Option(case_sensitive=False, help="How a line looks; json is an object in each."),
    ] = logs.Format.TEXT,
) -> None:
    """Carry out runs beside other workers on the same database, until SIGTERM or Ctrl-C.

    Exits with 0 when it was stopped, and with 2 if it can't begin.
    """
    from dbos import error as dbos_errors
    from sqlalchemy.exc import SQLAlchemyError

    from crewai_dbos import _import_path
    from crewai_dbos._dbos_seam import unreachable
    from crewai_dbos._fleet.stop_signals import Terminated
    from crewai_dbos.errors import CrewaiDbosError
    from crewai_dbos.worker import Worker

    _import_path.look_here()
    packages = [each.partition(":")[0].partition(".")[0] for each in targets]
    logs.set_up(log_level or logs.Level.INFO, log_format, packages)
    has_begun = False
    try:
        module, *_ = [_import_path.target(each)[0].__name__ for each in targets]
        logs.hold()
        _construct(name, module.partition(".")[0], db_url, version)
        if log_level is not None:
            logs.tell_of_dbos(log_level)
        made = Worker(lease=lease, grace=grace, health_port=health_port, health_host=health_host)
        with logs.without_failed_launch(), made as started:
            has_begun = True
            _tell_of_others()
            logger.info(
                "Worker %s of %s carries out %s. Ctrl-C to stop.",
                started.executor_id,
                _application(),
                _known(),
            )
            if started.health_port is not None:
                logger.info("Its health is served at %s:%d.", health_host, started.health_port)
            started.run()
    except Terminated:
        if not has_begun:
            logger.info("The worker was told to stop while it began.")
    except KeyboardInterrupt:
        if not has_begun:
            raise
    except (_import_path.NotFoundError, CrewaiDbosError) as error:
        logs.tell_the_end(str(error))
        if not has_begun:
            raise typer.Exit(2) from None
        _exit(2)
    except (SQLAlchemyError, dbos_errors.DBOSException) as error:
        if has_begun:
            raise
        first = ""
        if unreachable.is_forbidden(error):
            first = " Make the tables first, as a role that may: crewai-dbos migrate"
        logs.tell_the_end(f"The worker can't begin: {unreachable.told(error)}{first}")
        _exit(2)
    _exit(0)


def _exit(code: int) -> NoReturn:
    """End the process; Python would wait for the threads of runs that are others' by now."""
    if any(not each.daemon for each in threading.enumerate()[1:]):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    raise typer.Exit(code)


def _construct(name: str | None, module: str, db_url: str | None, version: str | None) -> None:
    """Construct DBOS, if the module has not."""
    from dbos import DBOS, DBOSConfig

    from crewai_dbos._dbos_seam.configuration import configuration, whole_configuration
    from crewai_dbos.errors import DefinitionError

    if not _definitions():
        raise DefinitionError(
            "There is no DBOSAgent, DBOSCrew or DBOSFlow in what was imported. Build them at the "
            "top level of the module."
        )
    config, whole = configuration(), whole_configuration()
    if config is None or whole is None:
        given: DBOSConfig = {"name": name or module, "log_level": "WARNING"}
        if db_url is not None:
            given["system_database_url"] = db_url
        if version is not None:
            given["application_version"] = version
        if (its_schema := SCHEMA.get()) is not None:
            given["dbos_system_schema"] = its_schema
        if (its_serializer := serializer()) is not None:
            given["serializer"] = its_serializer
        DBOS(config=given)
    elif db_url is not None and config.get("system_database_url") not in (None, db_url):
        raise DefinitionError(
            "The module constructs DBOS with another database than --db-url (or "
            "DBOS_SYSTEM_DATABASE_URL) names. Give it there, or here."
        )
    elif SCHEMA.get() not in (None, whole.get("dbos_system_schema") or "dbos"):
        raise DefinitionError(
            "The module constructs DBOS itself, and with another schema than --schema (or "
            "CREWAI_DBOS_SCHEMA) names. Give dbos_system_schema there."
        )
    elif name is not None and whole.get("name") != name:
        raise DefinitionError(
            "The module constructs DBOS itself, and under another name than --name. Give the name "
            "there."
        )
    elif version is not None and version != (
        config.get("application_version") or os.environ.get("DBOS__APPVERSION")
    ):
        raise DefinitionError(
            "The module constructs DBOS itself, and not with the version of --version. Give "
            "application_version there."
        )


def _application() -> str:
    from crewai_dbos._dbos_seam import recovering

    return f"application {recovering.configured_name()!r}, version {recovering.version()!r}"


def _tell_of_others() -> None:
    """Say which runs wait here that this worker does not take."""
    from crewai_dbos._dbos_seam import recovering
    from crewai_dbos._dbos_seam.database import launched_database

    name, version = recovering.configured_name(), recovering.version()
    found = recovering.of_others(launched_database(), name, version)
    for other, its_version, count, run_ids in found:
        logger.warning(
            "Not taken: %d %s of application %r, %s (--name and --version say which are this "
            "worker's): %s",
            count,
            "run" if count == 1 else "runs",
            other,
            "whichever version" if its_version is None else f"version {its_version!r}",
            ", ".join(run_ids) + (", ..." if count > len(run_ids) else ""),
        )


def _definitions() -> dict[str, list[str]]:
    from crewai_dbos._runs.registry import REGISTRIES

    found = {noun: registry.names() for noun, registry in REGISTRIES.items()}
    return {noun: names for noun, names in found.items() if names}


def _known() -> str:
    """What the worker has, in words."""
    return "; ".join(f"{noun} {', '.join(names)}" for noun, names in _definitions().items())
