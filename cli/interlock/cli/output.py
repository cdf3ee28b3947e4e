"""How operator commands show what they got: tables for people, JSON for programs."""
# ruff: noqa: PLC0415 - rich takes long to load, and neither `--json` nor completion needs it

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

Row = Mapping[str, Any]

_UNBROKEN = 10_000


def show_json(value: object) -> None:
    """Prints a value as JSON, as the API gave it."""
    typer.echo(json.dumps(value, indent=2))


def show_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Prints rows as a table."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(*(column.replace("_", " ") for column in columns), box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(escape(cell(row.get(column))) for column in columns))
    _console().print(table)


def show_fields(fields: Row) -> None:
    """Prints one thing, a field a line."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for name, value in fields.items():
        table.add_row(name.replace("_", " "), escape(cell(value)))
    _console().print(table)


def show_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool) -> None:
    """Prints a list either way."""
    if as_json:
        show_json(rows)
    else:
        show_table(rows, columns)


def show_one(fields: Row, *, as_json: bool) -> None:
    """Prints one thing either way."""
    if as_json:
        show_json(fields)
    else:
        show_fields(fields)


def cell(value: object) -> str:
    """A value as a person reads it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(cell(held) for held in value) or "none"  # an empty allowlist is not an absent one
    if isinstance(value, dict):
        return ", ".join(f"{name}: {cell(held)}" for name, held in value.items()) or "none"
    # What others wrote (labels, reasons) must not move the reader's cursor.
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))


def show_line(line: str) -> None:
    """Prints a line at once, also into a pipe: somebody waits for it."""
    print(line, flush=True)


def _console() -> "Console":
    """As wide as the terminal; in a pipe or a file so wide that no cell is broken."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _UNBROKEN)
