"""The rules for the application that runs a definition: how DBOS is configured, and how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from crewai_dbos.doctor._application import COMPUTED
from crewai_dbos.doctor._report import Finding, found
from crewai_dbos.doctor._subject import Subject


def application_version(subject: Subject) -> Iterator[Finding]:
    application = subject.application
    if application.version_is_pinned:
        return
    known = application.config is not None
    fix = (
        'Set "application_version" in the DBOS config, and change it only for a release that must '
        "not go on with the runs of the one before."
    )
    if application.workflows:
        yield found(
            "application-version",
            "warning" if known else "hint",
            f"The application_version is not set{'' if known else ', as far as can be seen'}. DBOS "
            "makes one from the source of your @DBOS.workflow() functions: when that changes, runs "
            "that are not finished are not recovered.",
            fix,
        )
    elif application.steps and known:
        yield found(
            "application-version",
            "hint",
            "The application_version is not set. DBOS makes one that changes with the number of "
            "functions decorated @DBOS.step(): a release with a tool more or less does not "
            "recover the runs of the one before.",
            fix,
        )


def several_processes(subject: Subject) -> Iterator[Finding]:
    application = subject.application
    executor = application.executor_id
    if application.processes > 1 and executor is not COMPUTED:
        known = application.config is not None
        shared = "'local'" if executor is None else repr(executor)
        yield found(
            "several-processes",
            "warning" if known else "hint",
            f"The environment asks for {application.processes} processes, and as far as can be "
            f"seen they have one executor_id, {shared}. One that starts takes over the runs of "
            "the others.",
            "Let each be a Worker, or give each an executor_id of its own that it keeps over "
            "restarts.",
        )
    elif executor is None and application.on_sqlite is False:
        yield found(
            "several-processes",
            "hint",
            "No executor_id is set, so this process is 'local', as is any other on the same "
            "database that sets none. One that starts takes over the runs of the others.",
            "If there is more than one, let each be a Worker (crewai-dbos worker), or give each an "
            "executor_id of its own that it keeps over restarts.",
        )
    elif executor is not None and application.on_sqlite:
        yield found(
            "several-processes",
            "hint",
            "An executor_id is set, as for several processes, and the database is SQLite. They "
            "see each other's runs only if they are on one machine and open one file.",
            "Set system_database_url to a Postgres if they are on several machines.",
        )


APPLICATION_RULES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    application_version,
    several_processes,
)
