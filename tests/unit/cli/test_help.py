"""Help teaches: what each command is for, and an example that is one."""

import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from interlock.cli.examples import EXAMPLES
from interlock.cli.main import app

HEAVY = {"httpx", "grpc", "google.protobuf", "aiohttp", "redis", "pydantic", "ruamel", "rich.live", "structlog"}
"""What an operator's command, a TAB and `--help` need not wait for."""

PATHS: dict[tuple[str, ...], Any] = {}
for _name, _command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined] # it is a group
    PATHS[(_name,)] = _command
    PATHS |= {(_name, below): of for below, of in getattr(_command, "commands", {}).items()}

OF_EACH = pytest.mark.parametrize("path", sorted(PATHS), ids=" ".join)


@OF_EACH
def test_each_command_says_what_it_is_for_and_shows_an_example(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert shown.exit_code == 0
    said = PATHS[path].help.strip().split("\n")[0]
    assert said.endswith((".", ":")) or "." in PATHS[path].help, said
    assert EXAMPLES.get(path), f"an example for `interlock {' '.join(path)}` in cli/examples.py"
    for example in EXAMPLES[path]:
        assert f"$ {example}" in shown.output


def test_there_is_no_example_for_a_command_that_is_gone() -> None:
    assert {*EXAMPLES} <= {*PATHS}


@pytest.mark.parametrize("example", [example for examples in EXAMPLES.values() for example in examples])
def test_each_example_is_a_command_as_it_is_written_and_fits_a_terminal(example: str) -> None:
    assert len(example) <= 76
    program, *words = shlex.split(example)
    assert program == "interlock"
    path = tuple(words[:2]) if tuple(words[:2]) in PATHS else (words[0],)
    command = PATHS[path]
    command.make_context(words[len(path) - 1], words[len(path) :])  # raises for what is not an option of it


def test_a_command_starts_without_loading_what_it_does_not_need() -> None:
    code = "import sys, interlock.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if any(name == of or name.startswith(f"{of}.") for of in HEAVY)} == set()
