"""The operator's live commands as people and scripts run them: on a terminal, in a pipe, and when things go wrong."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.acceptance.scene import Scene
from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev, until
from tests.redis_server import RedisServer
from tests.terminal import CTRL_C, Terminal
from tests.tool import Tool

HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]all [blink]fine[/]\r\n\u202egnp.\x9b31m"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def settings(dev: InterlockDev, key: str | None = None) -> Mapping[str, str]:
    return {"INTERLOCK_BASE_URL": dev.url, "INTERLOCK_API_KEY": dev.key if key is None else key}


def widest(shown: str) -> int:
    """The columns of the widest line. A screen begins where the cursor goes home."""
    return max(len(ESCAPES.sub("", line)) for line in re.split(r"\r\n|\x1b\[H", shown))


class Command:
    """A command in a pipe, which a test reads line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process, self._out, self._err = process, process.stdout, process.stderr

    async def line(self) -> str:
        async with asyncio.timeout(30):
            return (await self._out.readline()).decode()

    async def events(self, count: int) -> list[dict[str, Any]]:
        return [json.loads(await self.line()) for _ in range(count)]

    async def said(self) -> str:
        """A line on stderr."""
        async with asyncio.timeout(30):
            return (await self._err.readline()).decode()

    async def ended(self) -> tuple[int, str, str]:
        async with asyncio.timeout(30):
            out, err = await self.process.communicate()
        return self.process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def running(*arguments: str, at: Mapping[str, str]) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "interlock.cli.main", *arguments),
        env={**os.environ, **at},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def following(command: Command, dev: InterlockDev, agent: str = "beacon") -> None:
    """Returns when the command has shown something: from then on it follows."""

    async def call_again_and_again() -> None:
        while True:
            await dev.call("no-such-tool", agent=agent, at=os.urandom(8).hex())
            async with dev.client() as api:
                await api.post(f"/v1/agents/{agent}/enable", json={})
            await asyncio.sleep(0.1)

    calling = asyncio.create_task(call_again_and_again())
    try:
        await command.line()
    finally:
        calling.cancel()


# top


async def test_top_shows_agents_live_fits_its_terminal_and_leaves_it_whole(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    await scene.policy(max_spend_usd_per_day=10, max_actions_per_hour=50)
    await scene.call(name, {"order": 1}, headers={"Interlock-Spend-Usd": "9"})
    async with Terminal("top", "--interval", "0.2", "--sort", "seen", settings=settings(scene.first)) as top:
        shown = await top.until(scene.agent)
        shown = await top.until("1/50", after=shown)
        shown = await top.until("█████████░", after=shown)
        shown = await top.until("$9.00/10.00", after=shown)
        await scene.call(name, {"order": 2})
        await top.until("2/50", after=shown)
        await scene.ask("POST", f"/v1/agents/{scene.agent}/disable", {"reason": HOSTILE})
        shown = await top.until("OFF", after=shown)
        top.resize(120, 40)
        narrow = widest(top.shown[:shown])

        async def widened() -> bool:
            return widest(top.shown[shown:]) > narrow

        await until(widened)
        assert (narrow, widest(top.shown[shown:])) == (80, 120)
        top.type(CTRL_C)
        assert await top.ended() == 130
        assert top.shown.rindex("\x1b[?1049l") > top.shown.rindex("\x1b[?1049h")
        assert top.shown.rindex("\x1b[?25h") > top.shown.rindex("\x1b[?25l")
        assert top.settings_as_before
        assert "Traceback" not in top.shown


async def test_top_outlives_a_terminal_that_is_dragged_to_another_size(scene: Scene) -> None:
    async with Terminal("top", "--interval", "0.2", settings=settings(scene.first)) as top:
        shown = await top.until("calls/min")
        for width in range(2_000):
            top.resize(80 + width % 40, 24)
        await top.until("calls/min", after=shown)
        await top.until("calls/min", after=len(top.shown))
        top.type(CTRL_C)
        assert await top.ended() == 130


async def test_top_leaves_the_terminal_whole_also_when_it_is_terminated(scene: Scene) -> None:
    async with Terminal("top", settings=settings(scene.first)) as top:
        await top.until("calls/min")
        assert top.process is not None
        top.process.send_signal(signal.SIGTERM)
        assert await top.ended() == 143
        assert top.shown.rindex("\x1b[?1049l") > top.shown.rindex("\x1b[?1049h")
        assert top.shown.rindex("\x1b[?25h") > top.shown.rindex("\x1b[?25l")


async def test_top_in_a_dumb_terminal_prints_one_table_after_the_other(scene: Scene) -> None:
    dumb = {**settings(scene.first), "TERM": "dumb"}
    async with Terminal("top", "-i", "0.2", settings=dumb, size=(80, 24)) as top:
        shown = await top.until("calls/min")
        await top.until("calls/min", after=shown)
        top.type(CTRL_C)
        assert await top.ended() == 130
        assert "\x1b" not in top.shown


async def test_top_for_scripts_prints_once(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    await scene.call(name, {"order": 1})
    at = settings(scene.first)
    async with running("top", "--once", at=at) as table, running("top", "--json", "--sort", "agent", at=at) as listed:
        code, out, err = await table.ended()
        assert (code, err) == (0, "")
        assert re.search(rf"^{scene.agent} +on +[\d.]+ +1 ", out, re.MULTILINE)
        assert "\x1b" not in out
        code, out, _ = await listed.ended()
        assert code == 0
        names = [agent["agent_id"] for agent in json.loads(out)]
        assert names == sorted(names)
        assert scene.agent in names


async def test_top_goes_on_when_the_api_is_away_for_a_while(interlock_dev: StartDev, redis_url: str) -> None:
    dev = await interlock_dev(redis_url)
    async with Terminal("top", "-i", "0.2", settings=settings(dev)) as top:
        await top.until("calls/min")
        await dev.kill()
        shown = await top.until("cannot be reached")
        await dev.start()
        async with dev.client() as api:
            await api.post("/v1/agents/newcomer/enable", json={})
        await top.until("newcomer", after=shown)
        top.type(CTRL_C)
        assert await top.ended() == 130


async def test_top_ends_with_a_word_on_a_whole_terminal_when_its_key_is_revoked(scene: Scene) -> None:
    made = await scene.ask("POST", "/v1/keys", {"role": "viewer"})
    async with Terminal("top", "-i", "0.2", settings=settings(scene.first, made["key"])) as top:
        await top.until("calls/min")
        await scene.ask("DELETE", f"/v1/keys/{made['key_id']}")
        assert await top.ended() == 1
        restored = top.shown.rindex("\x1b[?1049l")
        assert top.shown.index("Invalid API key") > restored
        assert top.shown.rindex("\x1b[?25h") > top.shown.rindex("\x1b[?25l")


@pytest.mark.parametrize("size", [(20, 3), (1, 1), (300, 100)], ids=str)
async def test_top_bears_any_size_of_a_terminal(scene: Scene, size: tuple[int, int]) -> None:
    async with Terminal("top", "-i", "0.2", settings=settings(scene.first), size=size) as top:
        shown = await top.until("\x1b[H", after=await top.until("\x1b[?25l"))
        await top.until("\x1b[H", after=shown)
        top.type(CTRL_C)
        assert await top.ended() == 130
        assert "Traceback" not in top.shown


# calls follow, audit tail


async def test_calls_are_followed_in_colour_on_a_terminal(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    async with Terminal("calls", "follow", "--agent", scene.agent, settings=settings(scene.first)) as follow:
        sent = 0
        while "EXECUTE" not in follow.shown:
            sent += 1
            await scene.call(name, {"order": sent})
        again = await scene.call(name, {"order": sent})
        assert again.header("Interlock-Decision") == "dedup"
        await follow.until("\x1b[36mREPLAY")
        await scene.policy(blocked_tools=[name])
        await scene.call(name, {"order": 0})
        line = await follow.until("\x1b[31mBLOCKED")
        await follow.until("tool_explicitly_blocked", after=line)
        assert "\x1b[32mEXECUTE" in follow.shown
        assert "\x1b[32mSUCCEEDED" in follow.shown
        follow.type(CTRL_C)
        assert await follow.ended() == 130
        assert "Traceback" not in follow.shown


async def test_what_is_followed_is_filtered_and_events_are_lines_for_programs(scene: Scene, tool: Tool) -> None:
    wanted, other = await scene.register(tool.url, name="billing.charge"), await scene.register(tool.url)
    filters = ("--tool", "billing.*", "--verdict", "replay", "--verdict", "SUCCEEDED")
    async with running(
        "calls", "follow", "--agent", scene.agent, *filters, "--json", at=settings(scene.first)
    ) as follow:
        seen = asyncio.create_task(follow.events(2))
        while not seen.done():
            for name in (other, wanted, wanted):
                await scene.call(name, {"order": os.urandom(4).hex()})
                await scene.call(name, {"order": 1})
    events = await seen
    assert {event["tool"] for event in events} == {wanted}
    assert {event["verdict"] for event in events} <= {"REPLAY", "SUCCEEDED"}


async def test_tail_begins_with_the_latest_and_shows_them_as_they_are(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    for order in range(3):
        await scene.call(name, {"order": order})
    at = settings(scene.first)
    async with running("audit", "tail", "--agent", scene.agent, "-n", "2", "--json", at=at) as tail:
        code, out, err = await tail.ended()
        assert (code, err) == (0, "")
    assert [json.loads(line) for line in out.splitlines()] == (await scene.events())[-2:]


async def test_nothing_is_lost_or_shown_twice_across_restarts(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    dev = await interlock_dev(own_redis.url)
    await dev.register(tool.url)
    async with running("audit", "tail", "-f", "-n", "0", "--json", at=settings(dev)) as tail:
        await following(tail, dev)
        for outage in (dev.kill, dev.stop, None):
            await asyncio.gather(*(dev.call(order=os.urandom(4).hex(), agent=f"a{n}") for n in range(5)))
            if outage is None:
                own_redis.kill()
                assert "Not following" in await tail.said()
                own_redis.start()
            else:
                await outage()
                assert "Not following" in await tail.said()
                await dev.start()
            await until(partial(_serves, dev))
            assert await tail.said() == "Following again.\n"
        await dev.call(agent="a9", order="last")
        seen: list[tuple[str, int]] = []
        while ("a9", 2) not in seen:
            (event,) = await tail.events(1)
            seen.append((event["agent_id"], event["seq"]))
        assert len(seen) == len({*seen})
        async with dev.client() as api:
            for agent in ("a0", "a1", "a2", "a3", "a4", "a9"):
                listed = (await api.get("/v1/audit", params={"agent_id": agent, "limit": 1000})).json()
                recorded = [event["seq"] for event in listed]
                assert [seq for name, seq in seen if name == agent] == recorded


async def _serves(dev: InterlockDev) -> bool:
    return (await dev.call(order=os.urandom(4).hex(), agent="a1")).status_code == 200


async def test_a_revoked_key_ends_what_follows_with_a_word(scene: Scene) -> None:
    made = await scene.ask("POST", "/v1/keys", {"role": "viewer"})
    async with running("audit", "tail", "-f", at=settings(scene.first, made["key"])) as tail:
        await following(tail, scene.first)
        await scene.ask("DELETE", f"/v1/keys/{made['key_id']}")
        code, _, err = await tail.ended()
    assert code == 1
    assert "Invalid API key" in err
    assert "Next: " in err


async def test_who_has_read_enough_is_no_error(scene: Scene) -> None:
    async with running("audit", "tail", "-n", "1", at=settings(scene.first)) as first:
        await first.ended()
    shell = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m interlock.cli.main audit tail -f -n 100 | head -1",
        env={**os.environ, **settings(scene.first)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    calling = asyncio.create_task(_keep_going(scene))
    try:
        async with asyncio.timeout(30):
            out, err = await shell.communicate()
    finally:
        calling.cancel()
    assert (shell.returncode, len(out.splitlines()), err) == (0, 1, b"")


async def _keep_going(scene: Scene) -> None:
    while True:
        await scene.ask("POST", f"/v1/agents/{scene.agent}/enable", {})
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("agents", "list"),
        ("agents", "show", "AGENT"),
        ("top", "--once"),
        ("audit", "show", "--agent", "AGENT"),
        ("audit", "tail", "--agent", "AGENT"),
        ("tools", "show", "TOOL"),
        ("keys", "list"),
    ],
    ids=" ".join,
)
async def test_what_others_wrote_is_shown_harmlessly(scene: Scene, tool: Tool, arguments: tuple[str, ...]) -> None:
    name = await scene.register(tool.url, description=HOSTILE)
    await scene.ask("POST", "/v1/keys", {"role": "viewer", "label": HOSTILE})
    await scene.ask("POST", f"/v1/agents/{scene.agent}/disable", {"reason": HOSTILE})
    named = [{"AGENT": scene.agent, "TOOL": name}.get(word, word) for word in arguments]
    async with Terminal(*named, settings=settings(scene.first), size=(200, 50)) as terminal:
        assert await terminal.ended() == 0
        shown = ESCAPES.sub("", terminal.shown)
        assert not re.search(r"[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u202e]", shown)
        assert "\x1b[2J" not in terminal.shown
        if "reason" in shown or "description" in shown:
            assert "[red]all [blink]fine[/]" in shown


@pytest.mark.parametrize(
    "arguments", [("audit", "tail", "-f"), ("calls", "follow"), ("top",), ("agents", "list")], ids=" ".join
)
async def test_an_api_that_is_not_there_is_said_at_once_with_what_to_do(arguments: tuple[str, ...]) -> None:
    nowhere = {"INTERLOCK_BASE_URL": "http://127.0.0.1:1", "INTERLOCK_API_KEY": "once_live_" + "a" * 43}
    async with running(*arguments, at=nowhere) as command:
        code, out, err = await command.ended()
    assert (code, out) == (3, "")
    assert "http://127.0.0.1:1" in err
    assert "Next: is it running? `interlock dev` starts one" in err
