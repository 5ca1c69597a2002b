"""``crewai-dbos serve``: the page and the API of a database."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any

import typer

from crewai_dbos._commands.options import Url, open_control

_MISSING = "The page and the HTTP API need an extra: pip install 'crewai-dbos[cli,http]'"


def serve(
    db_url: Url = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    queue: Annotated[
        str | None,
        typer.Option(help="The queue of kickoffs that name none. Workers register it."),
    ] = None,
    token: Annotated[
        list[str] | None,
        typer.Option(
            envvar="CREWAI_DBOS_TOKEN",
            help="What people log in with, and programs send as a bearer token. Better in the "
            "environment, as others see the arguments of a process; several with spaces between.",
        ),
    ] = None,
) -> None:
    """Serve the page at / and the API at /api, of a database alone: no code of yours.

    Crews and flows are kicked off by name: a worker that has one takes the run.

    Without a token only this machine is let in. Exits with 2 if it can't begin.
    """
    try:
        import uvicorn

        from crewai_dbos import http
    except ImportError:
        typer.echo(_MISSING, err=True)
        raise typer.Exit(2) from None

    if not token and not _is_this_machine(host):
        typer.echo(
            f"--host {host} is seen by other machines, so a token is needed: set "
            "CREWAI_DBOS_TOKEN. Make one: "
            'python -c "import secrets; print(secrets.token_urlsafe(32))"',
            err=True,
        )
        raise typer.Exit(2)
    with open_control(db_url) as control:
        app = http.application(
            control,
            definitions="workers",
            queue=queue,
            tokens=token or (),
            local_only=not token,
        )
        shown = f"[{host}]" if ":" in host else host

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                typer.echo(f"http://{shown}:{port}  (the API: /api). Ctrl-C to stop.")

        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            # What lets in this machine only takes nobody's address from a header.
            proxy_headers=bool(token),
            timeout_graceful_shutdown=2,
        )
        try:
            Server(config).run()
        except KeyboardInterrupt:
            pass
        except SystemExit:  # it has logged why
            raise typer.Exit(2) from None


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
