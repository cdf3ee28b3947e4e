"""`interlock apply`: makes tools and policies what files say they are to be.

Manifests are imported when one is read: the other commands should not wait for all that judging them needs.
"""
# ruff: noqa: PLC0415 - see above

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from interlock.cli.client import FAILED, USAGE, connected
from interlock.cli.output import AsJson, cell, show_json
from interlock.cli.problems import ConfigurationError

CHANGES = 5
STDIN = Path("-")
TIMEOUT_S = 60.0
EXIT_CODES = (
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage or files, 3 the API cannot be reached; with "
    "--detailed-exitcode 5 instead of 0 if something changes. The API is found by INTERLOCK_BASE_URL and "
    "INTERLOCK_API_KEY."
)
_SIGNS = {"create": "+", "update": "~", "adopt": "~", "delete": "-", "conflict": "!"}
_DONE = {"create": "created", "update": "updated", "adopt": "adopted", "delete": "deleted", "conflict": "conflicting"}

Change = Mapping[str, Any]


def apply(
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="A YAML file, a folder of them, or - for standard input; repeatable."),
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    owner: Annotated[str, typer.Option(help="Who manages it, if no file says so; else nothing is pruned.")] = "",
    prune: Annotated[bool, typer.Option(help="Delete what the owner manages and the files no longer name.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Take over what another owner manages.")] = False,
    detailed_exitcode: Annotated[bool, typer.Option("--detailed-exitcode", help="5 if something changes.")] = False,
    show_schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the files and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make tools and policies what the files say. Repeated, it changes nothing."""
    if show_schema:
        from interlock.cli import manifest

        show_json(manifest.schema())
        return
    if not file:
        raise typer.BadParameter("name a file or a folder: -f PATH")
    how = {"dry_run": dry_run, "prune": prune, "force": force}
    tree = _tree(file, owner)
    answer = _applied(tree, how)
    changed = [change for change in answer["changes"] if change["action"] != "unchanged"]
    if as_json:
        show_json(answer)
    else:
        typer.echo("\n".join(report(answer["changes"], tree["tools"], dry_run=dry_run)))
    if any(change["action"] == "conflict" for change in changed):
        raise typer.Exit(FAILED)
    if detailed_exitcode and changed:
        raise typer.Exit(CHANGES)


def report(changes: Sequence[Change], tools: Mapping[str, Any], *, dry_run: bool) -> Iterator[str]:
    """What was, or would be, changed: a line for each thing, one below it for each field, and the sum.

    Of a new tool only what its file says of it is told, not all that it has by default.
    """
    for change in changes:
        if change["action"] != "unchanged":
            yield f"{_SIGNS[change['action']]} {_name(change)}{_about(change)}"
            yield from (f"    {line}" for line in _lines(change, tools.get(_key(change), {})))
        if change.get("held_off"):
            yield f"! {_name(change)}: stays off, it was disabled by hand; interlock tools enable lifts that"
    count = Counter(change["action"] for change in changes)
    told = [f"{count[action]} {done}" for action, done in _DONE.items() if count[action]]
    yield f"{'would be: ' if dry_run else ''}{', '.join([*told, str(count['unchanged']) + ' unchanged'])}"


def _about(change: Change) -> str:
    action = change["action"]
    if action == "adopt":
        return " (was nobody's)"
    return " (managed by another owner)" if action == "conflict" else ""


def _lines(change: Change, written: Mapping[str, Any]) -> Iterator[str]:
    created = change["action"] == "create"
    for field in change["fields"]:
        if "changed" in field:
            yield f"{field['field']}: {'set' if created else 'changed'}"
        elif not created:
            yield f"{field['field']}: {cell(field['before'])} → {cell(field['after'])}"
        elif change["kind"] == "policy" or field["field"].partition(".")[0] in written:
            yield f"{field['field']}: {cell(field['after'])}"


def _name(change: Change) -> str:
    return f"{change['kind']} {_key(change)}"


def _key(change: Change) -> str:
    """As a file names it."""
    scope = change.get("scope_id", "global")
    return str(change["name"] if scope == "global" else f"{scope}/{change['name']}")


def _tree(paths: Sequence[Path], owner: str) -> Mapping[str, Any]:
    """What the files say as the API takes it. A problem ends the command."""
    from interlock.cli import manifest
    from interlock.cli.references import References

    try:
        loaded = manifest.load(paths, owner=owner, references=References(), read=_read)
    except ConfigurationError as error:
        raise _unusable(error.message) from None
    if len(loaded.trees) > 1:
        raise _unusable("there is more than one namespace: apply the files of each by itself")
    for warning in loaded.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    if not loaded.owner:
        typer.echo("Note: without an owner nothing is pruned; name one by `owner:` or --owner", err=True)
    return next(iter(loaded.trees.values()))


def _unusable(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(USAGE)


def _applied(tree: Mapping[str, object], how: Mapping[str, bool]) -> Any:
    body = json.loads(json.dumps({**tree, **how}, default=_number))
    with connected(TIMEOUT_S) as api:
        return api.post("apply", body=body)


def _number(value: object) -> float:
    if not isinstance(value, Decimal):
        raise TypeError(type(value).__name__)
    return float(value)


def _read(file: Path) -> bytes:
    from interlock.cli import manifest

    if file != STDIN:
        return manifest.read_file(file)
    found = sys.stdin.buffer.read(manifest.MAX_BYTES + 1)
    if len(found) > manifest.MAX_BYTES:
        raise OSError(0, f"larger than {manifest.MAX_BYTES} bytes", str(file))
    return found
