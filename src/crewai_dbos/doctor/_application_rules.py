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
    unseen = "" if known else ", as far as can be seen"
    where = '"application_version" in the DBOS config'
    if not known:
        where += ", DBOS__APPVERSION, or --version of crewai-dbos worker"
    fix = (
        f"Set {where}, and change it only for a release that must not go on with the runs of the "
        "one before."
    )
    if application.workflows:
        yield found(
            "application-version",
            "warning" if known else "hint",
            f"The application_version is not set{unseen}. DBOS "
            "makes one from the source of your @DBOS.workflow() functions: when that changes, runs "
            "that are not finished are not recovered.",
            fix,
        )
    elif application.on_sqlite is False:
        yield found(
            "application-version",
            "hint",
            f"The application_version is not set{unseen}. DBOS makes one that changes after an "
            "update of DBOS, and with the number of functions decorated @DBOS.step(): nobody goes "
            "on with the runs of the one before.",
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
    elif application.config and executor in (None, "local") and application.on_sqlite is False:
        given = "No executor_id is set, so this process is 'local'"
        if executor is not None:
            given = "The executor_id of this process is 'local'"
        yield found(
            "several-processes",
            "hint",
            f"{given}, as is any other on the same database that sets none. One that starts takes "
            "over the runs of the others.",
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


def queue_limit(subject: Subject) -> Iterator[Finding]:
    application = subject.application
    several = application.on_sqlite is False or application.processes > 1
    for of, limit in application.limits.items():
        if several and limit <= application.processes:
            runs = "run is" if limit == 1 else "runs are"
            yield found(
                "queue-limit",
                "hint",
                f"{of} is limited: {limit} {runs} at work at once, in all processes together. A "
                "run whose process has died keeps its place until another goes on with it. When "
                "as many processes die, nothing is taken until then, and nobody says so.",
                "Let each process be a Worker, which frees the places of dead ones when their "
                "leases have run out; or give a limit that is greater than the number of "
                "processes that may die together, or one for each process (worker_concurrency).",
            )


APPLICATION_RULES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    application_version,
    several_processes,
    queue_limit,
)
