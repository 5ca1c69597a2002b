"""What DBOS was configured with."""

from __future__ import annotations

from typing import Any

from dbos._utils import GlobalParams

from crewai_dbos._dbos_seam.instance import constructed_instance


def configuration() -> dict[str, Any] | None:
    """What the DBOS instance of this process was configured with; None if there is none.

    By the names of `DBOSConfig`, as far as the doctor needs them. What is DBOS's own choice is
    left out.
    """
    instance = constructed_instance()
    if instance is None:
        return None
    version, executor = GlobalParams.app_version, GlobalParams.executor_id
    if instance._launched and version == instance._registry.compute_app_version(
        instance._config["name"]
    ):
        version = ""
    found = {
        "system_database_url": instance._config.get("system_database_url"),
        "system_database_engine": instance._config.get("system_database_engine"),
        "application_version": version,
        "executor_id": "" if executor == "local" else executor,
    }
    return {name: value for name, value in found.items() if value}


def whole_configuration() -> dict[str, Any] | None:
    """All that the DBOS instance of this process was configured with, its keys included."""
    instance = constructed_instance()
    if instance is None:
        return None
    keys = {name: getattr(instance, name) for name in ("conductor_key", "transact_enterprise_key")}
    return {**instance._config, **keys}


def application_name() -> str | None:
    """What the launched application is called in its rows."""
    return GlobalParams.app_name
