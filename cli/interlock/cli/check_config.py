"""`interlock check-config`: everything that is wrong with a configuration, at once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from interlock.cli.configuration import ConfigurationError, UnreadableFileError, load, schema
from interlock.cli.roles import Role, load_for

INVALID = 1
USAGE = 2


def command(
    config: Annotated[Path | None, typer.Option(help="A YAML file; INTERLOCK_… variables win over it.")] = None,
    role: Annotated[Role | None, typer.Option(help="Also ask whether this role could start with it, here.")] = None,
    show_schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of the file, and leave.")
    ] = False,
) -> None:
    """Say whether the configuration holds. Exit codes: 0 it does, 1 it does not, 2 it cannot be read."""
    if show_schema:
        typer.echo(json.dumps(schema(), indent=2))
        return
    try:
        load_for(role, config) if role else load(config)
    except ConfigurationError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(INVALID) from error
    except UnreadableFileError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(USAGE) from error
    typer.echo(f"{config or 'the environment'}: no problems")
