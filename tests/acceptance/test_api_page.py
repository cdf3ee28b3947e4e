"""What docs/api.md tells to type, typed in its order at a running sidecar: everything succeeds."""

import asyncio
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from interlock.proxy.api.routes import OPERATIONS
from interlock.proxy.run_operation import RUN
from tests.conftest import StartDev
from tests.tool import Tool

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ASKED = re.compile(r"localhost:8400(/v1/[^\s\"?]*)")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's reader has curl")
async def test_everything_that_the_page_tells_to_type_succeeds(interlock_dev: StartDev, tool: Tool) -> None:
    dev = await interlock_dev()
    script = "".join(BLOCKS).replace("localhost:8400", f"127.0.0.1:{dev.port}")
    script = script.replace("https://pay.example/charge", tool.url)
    # `--json` is of curl 7.82.
    script = script.replace("--json ", "-H 'Content-Type: application/json' --data ")
    # The slow part is to start a process 30 times.
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", 'curl() { command curl -sS --fail-with-body -w "\\n" "$@"; }\n' + script),
        env={**os.environ, "KEY": dev.key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await shell.communicate()
    said = output.decode()
    assert shell.returncode == 0, said
    assert '"decision":"executed"' in said
    assert '"status":"locked"' in said
    assert '"result":{"pages": 12}' in said or '"result":{"pages":12}' in said
    told = [json.loads(line) for line in said.splitlines() if line.startswith(("{", "["))]
    assert len(told) >= len(re.findall(r"\bcurl\b", script)) - 1


def test_the_page_shows_routes_that_there_are() -> None:
    known = [re.sub(r"\{\w+\}", "[^/]+", of.path) for of in (*OPERATIONS, RUN)]
    asked = ASKED.findall("".join(BLOCKS))
    assert len(asked) >= 25
    assert [path for path in asked if not any(re.fullmatch(pattern, path) for pattern in known)] == []
