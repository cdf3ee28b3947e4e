"""`interlock check-config`: everything that is wrong with a configuration, at once, its manifests included."""

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from interlock.cli import manifest
from interlock.cli.configuration import load, schema
from interlock.cli.needs import load_for
from interlock.cli.problems import ConfigurationError, Problem, UnreadableFileError
from interlock.cli.references import References
from interlock.cli.role import Role

INVALID = 1
USAGE = 2


def print_schema() -> None:
    """Prints the JSON schema of the configuration file; that of a manifest is `interlock apply --schema`."""
    typer.echo(json.dumps(schema(), indent=2))


def check(config: Path | None, role: Role | None, manifests: Sequence[Path], *, resolve: bool = True) -> None:
    """Prints what is wrong with the configuration and with manifests, those that it names too; or that nothing is.

    Without `resolve` it is not asked where references lead.
    """
    problems: list[Problem] = []
    named: Sequence[Path] = ()
    try:
        configuration = load_for(role, config) if role else load(config)
        named = [path for path in configuration.engine.manifests if role is not None or path.exists()]
    except ConfigurationError as error:
        problems += error.problems
    except UnreadableFileError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(USAGE) from error
    problems += _manifest_problems([*manifests], resolve=resolve)
    problems += _manifest_problems([*named], resolve=resolve)
    if problems:
        typer.echo("\n".join(map(str, problems)), err=True)
        raise typer.Exit(INVALID)
    judged = [str(config or ("" if manifests else "the environment")), *map(str, manifests)]
    typer.echo(f"{', '.join(filter(None, judged))}: no problems")


def _manifest_problems(manifests: Sequence[Path], *, resolve: bool) -> list[Problem]:
    references = References() if resolve else None
    try:
        if manifests:
            _warn(manifest.load(manifests, references=references).warnings)
    except ConfigurationError as error:
        return [*error.problems]
    return []


def _warn(warnings: Sequence[Problem]) -> None:
    for warning in warnings:
        typer.echo(f"Warning: {warning}", err=True)
