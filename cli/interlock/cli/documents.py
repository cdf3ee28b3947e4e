"""Tools and policies written down: one YAML (so also JSON) mapping a file."""
# ruff: noqa: PLC0415 - YAML is loaded where a file is read

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from interlock.cli.client import USAGE, ApiError

FromFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read it from a YAML or JSON file (- is standard input).")
]


def document(path: Path | None) -> dict[str, object]:
    """The mapping in a file; empty without one. Raises ApiError for a file that cannot be read as one."""
    if path is None:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        value = YAML(typ="safe", pure=True).load(text)
        json.dumps(value, allow_nan=False)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ApiError(f"{path}: {error}", USAGE) from error
    except (TypeError, ValueError) as error:  # a date, a set, NaN: in YAML, but not in JSON
        raise ApiError(f"{path}: holds a value that JSON does not have: {error}", USAGE) from error
    if not isinstance(value, dict):
        raise ApiError(f"{path}: is not a mapping of fields", USAGE)
    return value


def given(**flags: object) -> dict[str, object]:
    """The flags that were given: what takes precedence over a file."""
    return {name: value for name, value in flags.items() if value is not None and value != []}
