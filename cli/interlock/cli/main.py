"""The `interlock` command."""

from importlib.metadata import version
from typing import Annotated

import typer

from interlock.cli import agents, audit, calls, check_config, dev, engine, keys, policies, sidecar, switch, tools

app = typer.Typer(
    help="A safety interlock for AI agents: the sidecar that stands between an agent and its tools.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, role in (("dev", dev), ("sidecar", sidecar), ("engine", engine), ("check-config", check_config)):
    app.command(name, rich_help_panel="Run it")(role.command)
for group in (agents, tools, policies, keys, switch, calls, audit):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2], rich_help_panel="Operate it, over its API")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"interlock {version('interlock')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it, and leave.")] = (
        False
    ),
) -> None:
    pass


def main() -> None:
    """The entry point of the installed command."""
    app()


if __name__ == "__main__":
    main()
