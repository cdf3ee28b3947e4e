"""schemathesis against a running sidecar: requests made of its OpenAPI document, and their answers held to it."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.interlock_dev import InterlockDev

RUN = "from schemathesis.cli import schemathesis; schemathesis()"
HOOKS = '''\
"""A stream that is followed has no end, unless it is asked to."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.path == "/v1/audit/follow" and isinstance(case.query, dict):
        case.query["until_now"] = "true"


@schemathesis.deserializer("application/x-ndjson")
def lines(context, response):
    import json

    told = [json.loads(line) for line in response.text.splitlines()]
    assert told[-1]["type"] == "end"
    return told[-1]
'''
CONFIG = """\
base-url = "{url}"
headers = {{ Authorization = "Bearer {key}" }}
request-timeout = 20
continue-on-failure = true

[warnings]
display = []

# What these refuse is no matter of one value's shape: whether a URL may be reached,
# whether a name goes with a role, whether text can be printed,
# whether two fields go together, whether a day comes before another.
{free}
"""
FREE = """
[[operations]]
include-path = "{path}"
[operations.checks.positive_data_acceptance]
enabled = false
"""
JUDGED_AS_A_WHOLE = (
    "/v1/tools",
    "/v1/apply",
    "/v1/keys",
    "/v1/switches/{scope}",
    "/v1/runs/{run_id}",
    "/v1/events",
    "/v1/metrics",
    "/v1/policies/{agent_id}",
    "/v1/policies/{agent_id}/from-template",
    "/v1/me/alerts",
    "/v1/me/notifications",
    "/v1/ai/run",
)


@dataclass(frozen=True, slots=True)
class Found:
    """0 if it found nothing, and what it printed."""

    returncode: int
    output: str


async def schemathesis(dev: InterlockDev, folder: Path, *, examples: int, phases: str) -> Found:
    """Asks every operation so many times a phase, with values that are allowed and with others."""
    free = "".join(FREE.format(path=path) for path in JUDGED_AS_A_WHOLE)
    (folder / "schemathesis.toml").write_text(CONFIG.format(url=dev.url, key=dev.key, free=free))
    (folder / "hooks.py").write_text(HOOKS)
    options = ("--max-examples", str(examples), "--phases", phases, "--no-color")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, "--config-file", "schemathesis.toml"),
        *("run", f"{dev.url}/openapi.json", *options),
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return Found(process.returncode, output.decode())
