"""The files under `examples`, as a stranger runs them beside `interlock dev`: each tells what it should."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.scene import Sidecars

EXAMPLES = Path(__file__).parents[2] / "examples"
TOLD = {
    "check_lock": ["1 of 5 deliveries handled", "first seen: True", "['sent', 'was sent before']"],
    "leases": ["executed by 1 of 3", "{'all is well'}"],
    "tool_calls": [
        "executed ok {'receipt': 1} risk: high",
        "dedup tool_idempotency {'receipt': 1} risk: high",
        "blocked max_spend_usd_per_day_exceeded None risk: high",
        "executed tool_error False",
    ],
    "keyed_runs": ["completed ok: True", "again: completed actions: 3", "failed code: True"],
    "account": ["plan: unlimited", "locked: 1 counted: True limit: None", "in all: unlimited"],
    "risk": ["executed risk: low", "disabled: anomaly: repeated_refusal", "blocked agent_disabled risk: high"],
    "policies": [
        "allowed: True calls a day: True",
        "['ok', 'ok', 'max_calls_per_tool_exceeded']",
        "spent: 1.0",
        "True",
    ],
    "kill_switch": [
        "executed",
        "enabled: False because: deletes too much",
        "blocked agent_disabled",
        "executed",
    ],
    "logs_and_metrics": [
        "['blocked', 'blocked', 'executed', 'executed', 'executed']",
        "3 actions, 2 blocked, 0.75 USD",
        "top tool: True",
    ],
    "tools_registry": [
        "secret: True told: False",
        "[True, True]",
        "tool_disabled ok",
        "deleted: True",
        "tool_not_found",
    ],
    "events": [
        "['note', 'run_started', 'tool_call', 'tool_result', 'run_finished']",
        "note the customer asked twice red",
        "runs: 1 events: True",
    ],
    "notifications": ["tool errors: False", "others as before: True", "tool errors: True"],
}


def test_every_example_is_run() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {*TOLD, "back_end"}


@pytest.mark.parametrize("name", TOLD)
async def test_the_example_tells_what_it_should(sidecars: Sidecars, name: str) -> None:
    environment = {
        **os.environ,
        "INTERLOCK_API_KEY": sidecars.first.key,
        "INTERLOCK_BASE_URL": f"{sidecars.first.url}/v1",
    }
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == TOLD[name]
