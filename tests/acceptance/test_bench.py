"""`make bench` as a stranger runs it, but short: that it measures what it says. How fast is not asked here."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bench.load import Calls, Load, Sample
from tests.acceptance.test_demo import running
from tests.tool import Tool

ROOT = Path(__file__).parents[2]

needs_wrk = pytest.mark.skipif(
    shutil.which("wrk") is None, reason="wrk, which makes the load, is not on PATH: apt-get install wrk"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the benchmark keeps its data. Its name is short: a socket will be in it."""
    with tempfile.TemporaryDirectory(prefix="b-") as made:
        yield Path(made)


def bench(folder: Path, *options: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder), "PATH": os.environ["PATH"] if path is None else path}
    command = [sys.executable, "-m", "bench", "--out", str(folder / "out" / "latest.json"), *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False)


def lines_of(told: dict[str, Any]) -> list[tuple[str, int, str]]:
    cells = [line["cell"] for line in told["lines"]]
    return [(cell["calls"], cell["connections"], cell["way"]) for cell in cells]


@needs_wrk
def test_a_quick_run_measures_every_way_without_an_error_and_leaves_nothing_behind(folder: Path) -> None:
    ran = bench(folder, "--quick")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = json.loads((folder / "out" / "latest.json").read_text())

    nginx = [] if "no nginx on PATH" in ran.stdout else ["nginx"]
    every = itertools.product(["differ", "repeat"], [16], ["direct", *nginx, "embedded", "remote"])
    assert lines_of(told) == list(every)
    assert told["errors"] == 0
    assert all(line["calls_per_s"] > 0 and line["errors"] == 0 for line in told["lines"])
    assert (told["setting"]["aof"], told["setting"]["rounds"]) == ("always", 1)
    roles = {way: list(account["resident_mib"]) for way, account in told["interlock"].items()}
    assert roles == {"embedded": ["dev"], "remote": ["sidecar", "engine"]}
    for account in told["interlock"].values():
        assert account["executed"]["settled"] > 0
        assert account["executed"]["scripts_per_settled_call"] == 2
    for line in ("| differ |    16 | Interlock embedded |", "holds   errors: 0", "append-only file: always"):
        assert line in ran.stdout

    assert [left.name for left in folder.iterdir()] == ["out"]
    assert not [line for line in running() if str(folder) in line]


def test_without_wrk_it_says_how_to_get_it(folder: Path) -> None:
    ran = bench(folder, "--quick", path=str(folder))
    assert ran.returncode == 1
    assert "apt-get install wrk" in ran.stderr
    assert not list(folder.iterdir())


@needs_wrk
async def test_answers_that_are_not_2xx_are_errors(tool: Tool) -> None:
    async def fails(_: web.Request) -> web.Response:
        return web.Response(status=500)

    tool.does(fails)
    sample = await load(tool, Calls.DIFFER)
    assert sample.errors == sample.calls > 0


@needs_wrk
@pytest.mark.parametrize("calls", list(Calls))
async def test_calls_that_differ_never_send_a_body_twice_and_calls_that_repeat_only_one(
    tool: Tool, calls: Calls
) -> None:
    sample = await load(tool, calls)
    bodies = [request.body for request in tool.received]
    assert sample.errors == 0
    assert len(bodies) >= sample.calls > 1
    assert len(set(bodies)) == (len(bodies) if calls is Calls.DIFFER else 1)


async def load(tool: Tool, calls: Calls) -> Sample:
    return await Load().run(tool.url, {}, calls, connections=4, seconds=1)
