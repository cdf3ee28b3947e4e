"""FollowEvents by direct gRPC: nothing lost and nothing twice, whoever is slow, new, restarted, draining or revoked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
from grpc import aio
from redis.asyncio import Redis

from interlock.governance.errors import InterlockError, UnauthenticatedError, UnavailableError
from interlock.governance.status import error_of
from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import namespaces_pb2, namespaces_pb2_grpc
from interlock.policy import following
from tests.integration.engines import EngineClient, running_engine
from tests.interlock_dev import until
from tests.redis_server import RedisServer

Seen = tuple[str, int]
"""An event's agent and seq."""


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[EngineClient]:
    async with running_engine(redis_url) as client:
        await client.put_tool()
        yield client


class Follower:
    """Reads a stream in the background."""

    def __init__(self, client: EngineClient, **asked: Any) -> None:
        self.events: list[ad.Event] = []
        self.cursor = ""
        self.began = asyncio.Event()
        self.error: InterlockError | None = None
        self.call = client.audit.FollowEvents(ad.FollowEventsRequest(**asked), metadata=client.metadata)
        self._news = asyncio.Condition()
        self.reading = asyncio.create_task(self._read())

    @property
    def seen(self) -> list[Seen]:
        return [(event.agent_id, event.seq) for event in self.events]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: len(self.events) >= count)

    async def _read(self) -> None:
        try:
            async for told in self.call:
                async with self._news:
                    self.events += told.events
                    self.cursor = told.cursor or self.cursor
                    if told.cursor:
                        self.began.set()
                    self._news.notify_all()
        except aio.AioRpcError as failed:
            self.error = error_of(failed)


@contextlib.asynccontextmanager
async def following_at(client: EngineClient, **asked: Any) -> AsyncIterator[Follower]:
    """A follower for whom the beginning lies behind."""
    follower = Follower(client, **asked)
    async with asyncio.timeout(20):
        await follower.began.wait()
    yield follower
    follower.call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await follower.reading


async def test_events_come_as_they_are_recorded_also_of_agents_nobody_knew(engine: EngineClient) -> None:
    await engine.authorize("before")
    async with following_at(engine) as follower:
        await engine.authorize("after")
        await follower.until(1)
        await asyncio.gather(*(engine.authorize("first", agent_id=f"new-{number}") for number in range(30)))
        await follower.until(31)
    assert follower.seen[0] == ("bot-1", 2)
    assert sorted(follower.seen[1:]) == sorted((f"new-{number}", 1) for number in range(30))


async def test_one_agents_events_are_those_of_its_trail(engine: EngineClient) -> None:
    async with following_at(engine, agent_id="bot-1") as follower:
        await asyncio.gather(*(engine.authorize(f"{n}", agent_id=f"bot-{n % 2}") for n in range(250)))
        await follower.until(125)
        listed = await engine.ask(engine.audit.ListEvents, ad.ListEventsRequest(agent_id="bot-1", limit=1000))
        assert follower.events == [*listed.events]


@pytest.mark.parametrize("agent", ["bot-1", ""], ids=["one agent", "all agents"])
async def test_a_cursor_goes_on_where_it_was_got(engine: EngineClient, agent: str) -> None:
    async with following_at(engine, agent_id=agent) as first:
        await asyncio.gather(*(engine.authorize(f"{n}", agent_id="bot-1") for n in range(40)))
        await first.until(40)
    await asyncio.gather(*(engine.authorize(f"gap {n}", agent_id="bot-1") for n in range(40)))
    if not agent:
        await asyncio.gather(*(engine.authorize("gap", agent_id=f"new-{n}") for n in range(40)))
    expected = {*(("bot-1", seq) for seq in range(1, 81)), *(() if agent else ((f"new-{n}", 1) for n in range(40)))}
    async with following_at(engine, agent_id=agent, cursor=first.cursor) as second:
        await engine.authorize("last", agent_id="bot-1")
        async with asyncio.timeout(20):
            while ("bot-1", 81) not in second.seen:
                await second.until(len(second.events) + 1)
    assert len({*second.seen}) == len(second.seen)  # what was told since the cursor may come again, but once
    assert {*first.seen} | {*second.seen} == {*expected, ("bot-1", 81)}
    in_order = [seq for agent_id, seq in second.seen if agent_id == "bot-1"]
    assert in_order == sorted(in_order)


async def test_it_begins_with_the_latest_if_asked_to_and_ends_with_now(engine: EngineClient) -> None:
    for number in range(6):
        await engine.authorize(f"{number}", agent_id=f"bot-{number % 3}")
    for last, seen in ((0, []), (4, [("bot-2", 1), ("bot-0", 2), ("bot-1", 2), ("bot-2", 2)]), (100, None)):
        follower = Follower(engine, last=last, until_now=True)
        async with asyncio.timeout(20):
            await follower.reading
        assert follower.error is None
        assert follower.seen == seen if seen is not None else len(follower.seen) == 6
    one = Follower(engine, agent_id="bot-1", last=1, until_now=True)
    await one.reading
    assert one.seen == [("bot-1", 2)]


async def test_a_slow_reader_loses_nothing_and_holds_up_nobody(engine: EngineClient) -> None:
    slow = engine.audit.FollowEvents(ad.FollowEventsRequest(), metadata=engine.metadata)
    await slow.read()  # and no more for now
    async with following_at(engine) as other:
        for batch in range(10):
            await asyncio.gather(*(engine.authorize(f"{batch}.{n}", agent_id=f"bot-{n}") for n in range(100)))
        await other.until(1000)
    seen: list[Seen] = []
    async with asyncio.timeout(20):
        while len(seen) < 1000:
            seen += [(event.agent_id, event.seq) for event in (await slow.read()).events]
    slow.cancel()
    assert sorted(seen) == sorted(other.seen)
    assert len({*seen}) == 1000


async def test_it_ends_with_ok_when_the_engine_drains(redis_url: str) -> None:
    async with running_engine(redis_url) as client, following_at(client) as follower:
        stuck = client.audit.FollowEvents(ad.FollowEventsRequest(), metadata=client.metadata)
        await stuck.read()
        assert client.engine is not None
        await client.engine.drain()
        async with asyncio.timeout(5):
            await follower.reading
        assert await follower.call.code() is grpc.StatusCode.OK
        stuck.cancel()


async def test_a_revoked_keys_stream_ends(engine: EngineClient) -> None:
    made = await engine.new_key(ad.ROLE_VIEWER)
    async with following_at(engine.speaking_with(made.key)) as follower:
        await engine.ask(engine.keys.RevokeKey, ad.RevokeKeyRequest(key_id=made.info.key_id))
        async with asyncio.timeout(10):
            await follower.reading
    assert isinstance(follower.error, UnauthenticatedError)
    assert follower.error.reason == "invalid_key"


async def test_an_agents_key_follows_its_own_agent_only(engine: EngineClient) -> None:
    own = engine.speaking_with((await engine.new_key(ad.ROLE_AGENT, "bot-1")).key)
    async with following_at(own) as follower:
        await engine.authorize("another's", agent_id="bot-2")
        await engine.authorize("its own")
        await follower.until(1)
    assert follower.seen == [("bot-1", 1)]
    denied = Follower(own, agent_id="bot-2")
    await denied.reading
    assert denied.error is not None
    assert denied.error.reason == "permission_denied"


async def test_an_admin_follows_and_lists_another_namespace_by_its_name_and_nobody_else_does(
    engine: EngineClient,
) -> None:
    there = (*engine.metadata, ("interlock-namespace", "team-a"))
    namespace = namespaces_pb2.PutNamespaceRequest(name="team-a")
    await namespaces_pb2_grpc.NamespacesStub(engine.channel).PutNamespace(namespace, metadata=engine.metadata)
    await engine.agents.DisableAgent(ad.DisableAgentRequest(agent_id="theirs"), metadata=there)
    await engine.authorize("ours")
    asked = ad.FollowEventsRequest(last=100, until_now=True)
    told = [event async for message in engine.audit.FollowEvents(asked, metadata=there) for event in message.events]
    listed = await engine.agents.ListAgents(ad.ListAgentsRequest(), metadata=there)
    assert {event.agent_id for event in told} == {"theirs"} == {agent.status.agent_id for agent in listed.agents}
    viewer = engine.speaking_with((await engine.new_key(ad.ROLE_VIEWER)).key)
    with pytest.raises(aio.AioRpcError) as denied:
        await engine.audit.FollowEvents(asked, metadata=(*viewer.metadata, ("interlock-namespace", "team-a"))).read()
    assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_folded_refusals_are_told_when_their_minute_is_over(engine: EngineClient, redis_url: str) -> None:
    await engine.ask(engine.agents.DisableAgent, ad.DisableAgentRequest(agent_id="bot-1"))
    async with following_at(engine) as follower, Redis.from_url(redis_url) as raw:
        await asyncio.gather(*(engine.authorize("again") for _ in range(30)))
        assert await raw.hget("il:{default:bot-1}:state", "folding")
        await raw.hset("il:{default:bot-1}:state", "folding", "1")  # of a minute long ago
        counted = 0
        async with asyncio.timeout(20):
            while counted < 30:
                await follower.until(len(follower.events) + 1)
                counted = sum(int(dict(event.facts).get("count", 1)) for event in follower.events)
    assert counted == 30
    assert len(follower.events) < 30


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"cursor": "x"}, "invalid_cursor"),
        ({"cursor": "s7"}, "invalid_cursor"),
        ({"cursor": "t" + "9" * 40}, "invalid_cursor"),
        ({"last": 101}, "invalid_request"),
        ({"last": -1}, "invalid_request"),
        ({"agent_id": "a b"}, "invalid_agent_id"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(engine: EngineClient, asked: Any, reason: str) -> None:
    follower = Follower(engine, **asked)
    await follower.reading
    assert follower.error is not None
    assert follower.error.reason == reason


@pytest.mark.parametrize(("limit", "others_may"), [("MAX_FOLLOWERS", False), ("MAX_OF_ONE_KEY", True)])
async def test_there_is_an_end_to_how_many_follow(
    engine: EngineClient, monkeypatch: pytest.MonkeyPatch, limit: str, others_may: bool
) -> None:
    monkeypatch.setattr(following, limit, 2)
    other = engine.speaking_with((await engine.new_key(ad.ROLE_VIEWER)).key)
    async with following_at(engine), following_at(engine):
        for third, may in ((Follower(engine, until_now=True), False), (Follower(other, until_now=True), others_may)):
            await third.reading
            assert (third.error is None) == may
            assert may or third.error.reason == "too_many_followers"
    async with following_at(engine):  # who leaves makes room
        pass


async def test_a_redis_that_restarts_costs_no_event(own_redis: RedisServer) -> None:
    async with running_engine(own_redis.url) as client:
        await client.put_tool()
        async with following_at(client) as first:
            await asyncio.gather(*(client.authorize(f"{n}") for n in range(20)))
            await first.until(5)
            own_redis.kill()
            async with asyncio.timeout(20):
                await first.reading
            assert isinstance(first.error, UnavailableError)
        own_redis.start()
        await until(partial(_judges, client))
        async with following_at(client, cursor=first.cursor) as second:
            await client.authorize("the last one", agent_id="bot-2")
            async with asyncio.timeout(20):
                while ("bot-2", 1) not in second.seen:
                    await second.until(len(second.events) + 1)
    listed = [seq for agent, seq in sorted({*first.seen, *second.seen}) if agent == "bot-1"]
    assert listed == [*range(1, len(listed) + 1)]
    assert len(listed) >= 20


async def _judges(client: EngineClient) -> bool:
    try:
        await client.authorize("is it back?")
    except UnavailableError:
        return False
    return True


async def test_nobody_looks_while_nobody_follows(engine: EngineClient, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as raw:
        async with following_at(engine):
            pass

        async def looks() -> int:
            return int((await raw.info("commandstats")).get("cmdstat_xrange", {"calls": 0})["calls"])

        await asyncio.sleep(0.3)  # the look that was under way
        before = await looks()
        await asyncio.sleep(1)
        assert await looks() == before
