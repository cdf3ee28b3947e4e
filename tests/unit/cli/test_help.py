"""Help teaches: what each command is for, and an example that is one."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
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

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "helm" / "interlock" / "README.md"]
"""Pages whose commands people copy."""
OPERATORS = set("();<>|&")

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


def test_the_first_help_says_where_to_begin() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    for word in ("interlock dev", "INTERLOCK_API_KEY", "interlock tools put", "INTERLOCK_BASE_URL"):
        assert word in shown.output


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_on_a_page_is_one_with_options_that_it_has(page: Path) -> None:
    for words in _commands(page.read_text()):
        path = tuple(words[:2]) if tuple(words[:2]) in PATHS else tuple(words[:1])
        if path[0].startswith("-"):
            continue  # options of the whole program
        assert path in PATHS, words
        given = words[len(path) :]
        if given and hasattr(PATHS[path], "commands"):
            pytest.fail(f"no command: interlock {shlex.join(words)}")
        if any(word.startswith("-") for word in given):  # else it may be named in passing, without its arguments
            PATHS[path].make_context(path[-1], given)


def _commands(page: str) -> Iterator[list[str]]:
    """The words after `interlock` of each command in a block of code or between backticks."""
    blocks = re.findall(r"^( *)```sh\n(.*?)^\1```", page, re.MULTILINE | re.DOTALL)
    lines = [line for _, block in blocks for line in block.replace("\\\n", " ").split("\n")]
    lines += re.findall(r"^ {4}(interlock .*)$", page, re.MULTILINE)
    lines += [" ".join(span.split()) for span in re.findall(r"(?<!`)`((?:\.venv/bin/)?interlock [^`]*)`(?!`)", page)]
    for line in lines:
        tokens = _tokens(line.replace("SEQ", "1").replace("[--", "--").replace("]", ""))
        for index, token in enumerate(tokens):
            begins = index == 0 or "=" in tokens[index - 1] or set(tokens[index - 1]) <= OPERATORS
            if begins and (token == "interlock" or token.endswith("bin/interlock")):
                rest = tokens[index + 1 :]
                ends = (at for at, word in enumerate(rest) if set(word) <= OPERATORS)
                if words := [word for word in rest[: next(ends, len(rest))] if word != "…"]:
                    yield words


def _tokens(line: str) -> list[str]:
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    return list(words)


def test_a_command_starts_without_loading_what_it_does_not_need() -> None:
    code = "import sys, interlock.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if any(name == of or name.startswith(f"{of}.") for of in HEAVY)} == set()
