"""Two teams on one Interlock, as the page on namespaces has it: commands, routes and calls, at two sidecars."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev
from tests.tool import Tool

PAGE = (Path(__file__).parents[2] / "docs" / "namespaces.md").read_text()
FIT = 37
PLANS = {"small": {"runs_per_month": FIT, "tools": 1}}


@pytest.fixture
async def pair(interlock_dev: StartDev, redis_url: str) -> AsyncIterator[tuple[InterlockDev, InterlockDev]]:
    settings = {"INTERLOCK_ENGINE__PLANS": json.dumps(PLANS), "INTERLOCK_SIDECAR__ENGINE__TIMEOUT_MS": "20000"}
    yield await interlock_dev(redis_url, **settings), await interlock_dev(redis_url, **settings)


def interlock(at: InterlockDev, line: str, folder: Path) -> str:
    """What a command of the page prints, with what follows # left out."""
    environment = {**os.environ, "INTERLOCK_BASE_URL": at.url, "INTERLOCK_API_KEY": at.key}
    program = f"{sys.executable} -m interlock.cli.main"
    ran = subprocess.run(
        ["sh", "-c", re.sub(r"^interlock ", program + " ", line, flags=re.MULTILINE)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
    )
    assert ran.returncode == 0, (line, ran.stdout, ran.stderr)
    return ran.stdout


async def asked(at: InterlockDev, method: str, path: str, body: Any = None, *, namespace: str = "") -> httpx.Response:
    """As the admin, in a namespace."""
    headers = {"Interlock-Namespace": namespace} if namespace else {}
    async with at.client() as client:
        return await client.request(method, path, json=body, headers=headers)


async def test_two_teams_are_set_up_in_five_commands(
    pair: tuple[InterlockDev, InterlockDev], tool: Tool, tmp_path: Path
) -> None:
    first, second = pair
    section = PAGE.split("## Two teams in five commands")[1].split("## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    lines = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert len(lines) == 5
    printed = [await asyncio.to_thread(interlock, first, line, tmp_path) for line in lines]
    keys = [found for text in printed for found in re.findall(r"once_live_\w+", text)]
    assert len(keys) == 2
    assert all(name in printed[-1] for name in ("team-a", "team-b", "default"))

    async with second.client(keys[0]) as a, second.client(keys[1]) as b:
        for client in (a, b):
            assert (await client.post("/v1/tools", json={"name": "charge", "url": tool.url})).status_code == 200
        agent = {"Interlock-Agent": "shopper"}
        denied = await a.post("/tools/charge", json={"n": 1}, headers=agent)
        assert (denied.status_code, denied.json()["reason"]) == (403, "no_policy")
        assert denied.json()["matched_rule"] == "namespace's default_policy: deny"
        assert (await b.post("/tools/charge", json={"n": 1}, headers=agent)).status_code == 200
        assert [len((await client.get("/v1/agents/shopper/logs")).json()) for client in (a, b)] == [1, 1]
        assert (await a.get("/v1/namespaces")).status_code == 403
        assert (await a.get("/v1/tools", headers={"Interlock-Namespace": "team-b"})).status_code == 403
        named = await a.post("/tools/charge", json={}, headers={**agent, "Interlock-Namespace": "team-b"})
        assert (named.status_code, named.json()["reason"]) == (400, "invalid_header")

    (block,) = re.findall(r"```sh\n(cat > team-b.*?)```", PAGE, re.DOTALL)
    await asyncio.to_thread(interlock, first, block, tmp_path)
    shown = json.loads(await asyncio.to_thread(interlock, first, "interlock namespaces show team-b --json", tmp_path))
    assert shown["default_policy"] == {"blocked_tools": ["payments.*"], "max_actions_per_hour": 100}
    assert shown["usage"]["runs"] == 1
    changes = await asyncio.to_thread(interlock, first, "interlock audit changes --namespace team-b --json", tmp_path)
    told = [(event["seq"], event["type"], event["verdict"]) for event in json.loads(changes)]
    assert told == [(1, "namespace", "CREATED"), (2, "key", "CREATED"), (3, "tool", "CREATED"), (4, "namespace", "SET")]
    gone = "interlock namespaces delete team-b --force"
    await asyncio.to_thread(interlock, second, gone, tmp_path)
    async with first.client(keys[1]) as b:
        ended = await b.post("/tools/charge", json={"n": 2}, headers=agent)
        assert (ended.status_code, ended.json()["reason"]) == (403, "invalid_key")


async def test_a_plan_lets_exactly_as_many_calls_through_as_it_allows_and_says_so_in_each_dialect(
    pair: tuple[InterlockDev, InterlockDev], tool: Tool
) -> None:
    first, second = pair
    await first.register(tool.url)
    assert (await asked(first, "POST", "/v1/namespaces/default", {"plan": "small"})).status_code == 200
    calls = await asyncio.gather(*((first, second)[n % 2].call(agent=f"a{n % 3}", n=n) for n in range(300)))
    assert Counter(call.status_code for call in calls) == {200: FIT, 402: 300 - FIT}
    assert len(tool.received) == FIT
    refused = next(call for call in calls if call.status_code == 402)
    problem = refused.json()
    assert (problem["reason"], problem["plan"], problem["limit"], problem["usage"]) == (
        *("max_runs_per_month_exceeded", "small", FIT, FIT),
    )
    assert problem["matched_rule"] == "plan small: runs_per_month: 37"
    assert problem["retry_after"] == int(refused.headers["Retry-After"]) > 0
    run = await asked(second, "POST", "/v1/ai/run", {"agent_id": "a1", "tool": "charge", "args": {"n": 999}})
    detail = run.json()["detail"]
    assert (run.status_code, detail["error"], detail["plan"], detail["limit"]) == (
        402,
        "payment_required",
        "small",
        FIT,
    )
    another = await asked(second, "POST", "/v1/tools", {"name": "another", "url": tool.url})
    detail = another.json()["detail"]
    assert (another.status_code, {name: detail[name] for name in ("error", "plan", "limit", "usage")}) == (
        402,
        {"error": "payment_required", "plan": "small", "limit": 1, "usage": 1},
    )
    assert (await asked(first, "GET", "/v1/namespaces/default")).json()["usage"]["runs"] == FIT
