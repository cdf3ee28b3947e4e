"""The README's way from nothing to a governed call of one's own API, run as it stands there."""

import asyncio
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import StartDev
from tests.tool import Tool

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TITLE = "Your own API, governed, in five minutes"


def blocks() -> list[str]:
    """What a reader is told to type, block by block."""
    found = re.search(rf"^## {TITLE}\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert found, TITLE
    return re.findall(r"^```sh\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)


async def test_the_first_thing_to_type_sets_up_and_runs_everything() -> None:
    first, *_ = blocks()
    command = first.partition("#")[0].split()
    make = await asyncio.create_subprocess_exec(*command, "--dry-run", cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    out, _ = await make.communicate()
    assert make.returncode == 0
    assert out.decode().rstrip().endswith(".venv/bin/interlock dev")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's user has curl")
async def test_what_comes_next_governs_a_call_of_ones_own_api(
    interlock_dev: StartDev, tool: Tool, tmp_path: Path
) -> None:
    dev = await interlock_dev(INTERLOCK_BOOTSTRAP_KEY="", INTERLOCK_ENGINE__MASTER_KEY="")
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / ".interlock").symlink_to(dev.data_dir)
    (clone / ".venv").symlink_to(ROOT / ".venv")
    own = {"http://127.0.0.1:9000/": tool.url, "localhost:8400": f"127.0.0.1:{dev.port}"}
    _, address, operator, agent, record = blocks()
    script = "\n".join((address, operator, agent, agent.splitlines()[-1], agent.splitlines()[-1], record))
    for told, here in own.items():
        assert told in script
        script = script.replace(told, here)

    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        cwd=clone,
        env={**os.environ, "INTERLOCK_BASE_URL": dev.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert shell.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(60):
            while not re.search(r"^shopper +on .* 2/2 ", said, re.MULTILINE):  # the last command shows it for good
                line = (await shell.stdout.readline()).decode()
                assert line, said
                said += line
    finally:
        if shell.returncode is None:
            os.killpg(shell.pid, signal.SIGTERM)
        await shell.wait()

    assert re.findall(r"^Interlock-Decision: (\w+)", said, re.MULTILINE) == ["executed", "executed", "blocked"]
    assert re.findall(r"HTTP/1.1 (\d+)", said) == ["200", "200", "429"]
    assert "RateLimit:" in said
    assert "max_actions_per_hour_exceeded" in said
    assert len(tool.received) == 2
    key = json.loads((dev.data_dir / "shopper.json").read_text())
    assert (key["role"], key["agent_id"]) == ("agent", "shopper")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130
