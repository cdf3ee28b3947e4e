"""`GET /v1/audit/follow` as any HTTP client sees it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.acceptance.scene import Scene
from tests.conftest import StartDev

PATH = "/v1/audit/follow"


class Lines:
    """The lines of an answer, each of them JSON."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self, kind: str = "") -> dict[str, Any]:
        """The next line of a kind, or (empty) the next event."""
        async with asyncio.timeout(20):
            async for line in self._lines:
                told = json.loads(line)
                if told["type"] == kind or (not kind and "seq" in told):
                    return dict(told)
        raise AssertionError(f"it ended without {kind or 'an event'}")


@asynccontextmanager
async def following(client: httpx.AsyncClient, **asked: Any) -> AsyncIterator[Lines]:
    async with client.stream("GET", PATH, params=asked) as response:
        assert response.status_code == 200, await response.aread()
        yield Lines(response)


async def test_events_are_those_that_the_trail_lists_and_a_cursor_goes_on(scene: Scene) -> None:
    async with scene.first.client() as client, following(client, agent_id=scene.agent) as lines:
        assert lines.response.headers["Content-Type"] == "application/x-ndjson"
        assert lines.response.headers["X-Request-Id"]
        await lines.next("cursor")
        await scene.ask("POST", f"/v1/agents/{scene.agent}/disable", {"reason": "one"})
        first = await lines.next()
        cursor = (await lines.next("cursor"))["cursor"]
    await scene.ask("POST", f"/v1/agents/{scene.agent}/enable", {"reason": "two"}, at=scene.second)
    async with scene.second.client() as client:  # another sidecar, another engine
        asked = {"agent_id": scene.agent, "cursor": cursor, "until_now": "true"}
        answer = await client.get(PATH, params=asked)
    second, position, end = [json.loads(line) for line in answer.text.splitlines()]
    assert [first, second] == await scene.events()
    assert (position["type"], end) == ("cursor", {"type": "end", "reason": "ended"})


@pytest.mark.parametrize(
    "asked",
    [
        {"cursor": "nonsense"},
        {"cursor": "x1"},
        {"last": 101},
        {"last": -1},
        {"agent_id": "a b"},
        {"limit": 5},
        {"cursor": "s1"},
    ],
    ids=str,
)
async def test_a_question_that_makes_no_sense_is_refused_before_anything_is_told(scene: Scene, asked: Any) -> None:
    async with scene.first.client() as client:
        refused = await client.get(PATH, params=asked)
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["msg"]


@pytest.mark.parametrize(("key", "status"), [("", 401), ("once_live_" + "a" * 43, 403)])
async def test_without_a_good_key_nothing_is_told(scene: Scene, key: str, status: int) -> None:
    async with scene.first.client(key) as client:
        assert (await client.get(PATH)).status_code == status


async def test_a_page_cannot_follow(scene: Scene) -> None:
    async with scene.first.client() as client:
        assert (await client.get(PATH, headers={"Origin": "https://page.example"})).status_code == 403


async def test_who_follows_is_told_of_the_end_and_does_not_hold_it_up(interlock_dev: StartDev, redis_url: str) -> None:
    dev = await interlock_dev(redis_url)
    async with dev.client() as client, following(client) as lines, following(client) as silent:
        await lines.next("cursor")
        await silent.next("cursor")
        async with asyncio.timeout(10):  # its grace is 30 s
            stopping = asyncio.create_task(dev.stop())
            assert (await lines.next("end"))["reason"] == "draining"
            assert await stopping == 0


async def test_a_revoked_key_is_told_so_in_the_last_line(scene: Scene) -> None:
    made = await scene.ask("POST", "/v1/keys", {"role": "viewer"})
    async with scene.first.client(made["key"]) as client, following(client) as lines:
        await lines.next("cursor")
        await scene.ask("DELETE", f"/v1/keys/{made['key_id']}", at=scene.second)
        end = await lines.next("end")
    assert end == {"type": "end", "reason": "invalid_key", "message": "Invalid API key"}


async def test_agents_are_listed_in_pages(scene: Scene) -> None:
    names = [f"{scene.agent}.{number}" for number in range(5)]
    for name in names:
        await scene.ask("POST", f"/v1/agents/{name}/enable", {})
    after, found = scene.agent, []
    while page := await scene.ask("GET", f"/v1/agents?after={after}&limit=2"):
        found += [agent["agent_id"] for agent in page if agent["agent_id"].startswith(scene.agent)]
        after = page[-1]["agent_id"]
    assert found == names
    own = await scene.key(names[3])
    async with scene.first.client(own) as client:
        assert [agent["agent_id"] for agent in (await client.get("/v1/agents")).json()] == [names[3]]
        assert (await client.get("/v1/agents", params={"after": names[3]})).json() == []
        assert (await client.get("/v1/agents", params={"limit": 1001})).status_code == 422
