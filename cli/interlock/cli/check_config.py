"""`interlock check-config`: everything that is wrong with a configuration, at once."""

import json
from pathlib import Path

import typer

from interlock.cli.configuration import load, schema
from interlock.cli.needs import load_for
from interlock.cli.problems import ConfigurationError, UnreadableFileError
from interlock.cli.role import Role

INVALID = 1
USAGE = 2


def print_schema() -> None:
    """Prints the JSON schema of the configuration file."""
    typer.echo(json.dumps(schema(), indent=2))


def check(config: Path | None, role: Role | None) -> None:
    """Prints what is wrong with the configuration, or that nothing is."""
    try:
        load_for(role, config) if role else load(config)
    except ConfigurationError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(INVALID) from error
    except UnreadableFileError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(USAGE) from error
    typer.echo(f"{config or 'the environment'}: no problems")
