"""Engines that ask what became of calls of unknown outcome: several of them, restarted, and with tools that change."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.asyncio import Redis

from interlock.governance.inquiries import Finding, Inquiry, Said
from interlock.governance.local import LocalServer
from interlock.governance.v1 import admin_pb2
from interlock.governance.v1 import governance_pb2 as pb
from interlock.policy import reconciling
from interlock.policy.engine import Engine
from interlock.policy.reconciling import Reconciler
from interlock.policy.settings import EngineSettings
from interlock.store.opening import open_store
from interlock.store.settings import RedisSettings
from tests.conformance.conftest import Silent
from tests.integration.engines import ADMIN_KEY, SIDECAR_TOKEN, EngineClient
from tests.interlock_dev import MASTER_KEY

HELD = "il:{WORLD}:held"
URL = "http://127.0.0.1:9/outcome"
HOLD = {"on_ambiguous": pb.ON_AMBIGUOUS_HOLD, "reconcile_url": URL}
PRICE = 1_000_000


@dataclass
class Books:
    """Says what it is told to say, and keeps what it was asked."""

    says: Callable[[Inquiry], Finding] = lambda _: Finding(Said.UNKNOWN)
    asked: list[Inquiry] = field(default_factory=list)
    routes: list[tuple[pb.ToolRoute, str, float]] = field(default_factory=list)
    may_say: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_say.set()

    async def ask(self, inquiry: Inquiry, route: pb.ToolRoute, url: str, within_s: float) -> Finding:
        self.asked.append(inquiry)
        self.routes.append((route, url, within_s))
        await self.may_say.wait()
        return self.says(inquiry)


class Figures:
    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.unknown = 0

    def reconciled(self, result: str) -> None:
        self.results[result] += 1

    def calls_unknown(self, count: int) -> None:
        self.unknown = count


@dataclass
class Office:
    """One engine with what asks for it."""

    client: EngineClient
    books: Books
    figures: Figures
    reconciler: Reconciler
    raw: Redis

    async def let_time_pass(self, *, first_seen_s_ago: int = 0) -> None:
        """Every lease is long over, and every call due."""
        now_ms = (await self.raw.time())[0] * 1000
        for member in await self.raw.zrange(HELD, 0, -1):
            await self.raw.zadd(HELD, {member: 1})
            call = "il:{default:bot-1}:call:" + member.decode().rpartition(":")[2]
            await self.raw.hset(call, "lease_until", "1")
            if first_seen_s_ago:
                await self.raw.hset(call, "first_seen", now_ms - first_seen_s_ago * 1000)

    async def look(self, **passes: int) -> None:
        await self.let_time_pass(**passes)
        await self.reconciler.look()

    async def hold(self, call: str = "one") -> pb.AuthorizeResponse:
        """A call whose sidecar died."""
        executed = await self.client.authorize(call)
        assert executed.verdict == pb.VERDICT_EXECUTE
        return executed

    async def verdict(self, call: str = "one") -> str:
        return pb.Verdict.Name((await self.client.authorize(call)).verdict).removeprefix("VERDICT_")

    async def events(self, kind: str) -> list[Any]:
        request = admin_pb2.ListEventsRequest(agent_id="bot-1", limit=1000)
        events = (await self.client.ask(self.client.audit.ListEvents, request)).events
        return [event for event in events if event.type == kind]

    async def account(self) -> tuple[int, int]:
        request = admin_pb2.GetAgentMetricsRequest(agent_id="bot-1", period="day")
        figures = await self.client.ask(self.client.agents.GetAgentMetrics, request)
        return figures.total_actions, figures.total_spend_micros


@asynccontextmanager
async def opened(redis_url: str, books: Books | None = None) -> AsyncIterator[Office]:
    async with open_store(RedisSettings(url=redis_url), Silent()) as store, Redis.from_url(redis_url) as raw:
        told = {"sidecar_token": SIDECAR_TOKEN, "master_key": MASTER_KEY}
        rules: Any = {"default_policy": "allow", "allow_loopback_tools": True}
        engine = Engine(store, EngineSettings(**told, **rules))
        server = LocalServer()
        engine.register(server)
        await engine.bootstrap(ADMIN_KEY)
        asker, figures = books or Books(), Figures()
        try:
            yield Office(EngineClient(server.channel()), asker, figures, engine.reconciler(asker, figures), raw)
        finally:
            await engine.close()


@pytest.fixture
async def office(redis_url: str) -> AsyncIterator[Office]:
    async with opened(redis_url) as office:
        yield office


async def test_a_call_is_asked_about_with_what_is_known_of_it_and_by_the_tool_as_it_is_now(office: Office) -> None:
    await office.client.put_tool(**HOLD)
    call = await office.hold()
    # The tool has moved since.
    await office.client.put_tool(**HOLD | {"reconcile_url": URL + "/2", "reconcile_timeout_ms": 700})
    await office.look()
    [inquiry], [(route, url, within_s)] = office.books.asked, office.books.routes
    assert (inquiry.call_id, inquiry.key, inquiry.fence) == (call.call_id, call.permit.key, call.permit.fence)
    assert (inquiry.namespace, inquiry.agent_id, inquiry.tool, inquiry.tries) == ("default", "bot-1", "charge", 1)
    assert (url, within_s, list(route.secrets)) == (URL + "/2", 0.7, ["tool-secret"])
    assert office.figures.results == {"unknown": 1}
    await office.look()
    assert office.figures.unknown == 1


@pytest.mark.parametrize("since_ms", [20_000, 250], ids=["as it is", "but since made shorter"])
async def test_nobody_is_asked_before_the_lease_and_the_longest_try_are_over(office: Office, since_ms: int) -> None:
    await office.client.put_tool(**HOLD, timeout_ms=20_000)
    call = await office.hold()
    await office.client.put_tool(**HOLD, timeout_ms=since_ms)
    record = "il:{default:bot-1}:call:" + call.permit.key
    for over_ms, asked in ((-1_000, 0), (5_000, 0), (20_500, 0), (21_500, 1)):
        now = await office.raw.time()
        await office.raw.hset(record, "lease_until", now[0] * 1000 + now[1] // 1000 - over_ms)
        await office.raw.zadd(HELD, {f"default:bot-1:{call.permit.key}": 1})
        await office.reconciler.look()
        assert len(office.books.asked) == asked, over_ms
    # From here on its sidecar cannot prolong it any more.
    renewed = await office.client.ask(office.client.governance.Renew, pb.RenewRequest(permit=call.permit))
    assert (renewed.renewed, renewed.reason) == (False, "lease_lost")


async def test_two_engines_ask_once_for_each_call_and_settle_it_once(office: Office, redis_url: str) -> None:
    office.books.says = lambda inquiry: Finding(Said.HAPPENED if inquiry.fence % 2 else Said.NOT_HAPPENED)
    await office.client.put_tool(**HOLD)
    calls = [await office.hold(f"call {n}") for n in range(60)]
    async with opened(redis_url, office.books) as second:
        await office.let_time_pass()
        while sum(await asyncio.gather(office.reconciler.look(), second.reconciler.look())):
            pass
    assert sorted(inquiry.call_id for inquiry in office.books.asked) == sorted(call.call_id for call in calls)
    happened = [call for call in calls if call.permit.fence % 2]
    assert 0 < len(happened) < 60
    assert await office.account() == (len(happened), len(happened) * PRICE)
    assert Counter(event.verdict for event in await office.events("resolution")) == {
        "SUCCEEDED": len(happened),
        "NOT_SENT": 60 - len(happened),
    }
    assert await office.raw.exists(HELD) == 0


async def test_an_engine_that_ends_in_asking_leaves_the_call_to_the_next(office: Office, redis_url: str) -> None:
    office.books.may_say.clear()
    await office.client.put_tool(**HOLD)
    await office.hold()
    await office.let_time_pass()
    office.reconciler.start()
    async with asyncio.timeout(10):
        while not office.books.asked:  # noqa: ASYNC110 - the task that asks is the engine's own
            await asyncio.sleep(0.01)
    await office.reconciler.close()
    async with opened(redis_url, Books(says=lambda _: Finding(Said.HAPPENED))) as next_one:
        # Not at once: the claim of the one that ended has to run out.
        assert await next_one.reconciler.look() == 0
        await next_one.look()
        assert await next_one.verdict() == "REPLAY"


async def test_a_tool_that_lies_later_changes_nothing_and_its_late_word_is_told_as_overtaken(office: Office) -> None:
    office.books.may_say.clear()
    office.books.says = lambda _: Finding(Said.NOT_HAPPENED)
    await office.client.put_tool(**HOLD)
    call = await office.hold()
    looking = asyncio.create_task(office.look())
    async with asyncio.timeout(10):
        while not office.books.asked:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    # Its sidecar was alive after all, and knows better.
    answer = pb.Answer(status=200, body=b"done", kept=True, size=4)
    settle = pb.SettleRequest(permit=call.permit, outcome=pb.OUTCOME_SUCCEEDED, answer=answer)
    assert (await office.client.ask(office.client.governance.Settle, settle)).applied
    office.books.may_say.set()
    await looking
    assert office.figures.results == {"overtaken": 1}
    replayed = await office.client.authorize()
    assert (replayed.verdict, replayed.answer.body) == (pb.VERDICT_REPLAY, b"done")
    assert await office.account() == (1, PRICE)


async def test_what_it_says_is_settled_as_an_operators_word_is_and_its_answer_is_replayed(office: Office) -> None:
    answer = pb.Answer(status=201, headers=[pb.Header(name="X-Till", value="7")], body=b"done", kept=True, size=4)
    office.books.says = lambda inquiry: Finding(Said.HAPPENED, answer if inquiry.tries == 1 else None)
    await office.client.put_tool(**HOLD)
    await office.hold("told")
    await office.look()
    told = await office.client.authorize("told")
    assert (told.verdict, told.answer, told.failure) == (pb.VERDICT_REPLAY, answer, "")
    office.books.says = lambda _: Finding(Said.HAPPENED)
    await office.hold("untold")
    await office.look()
    untold = await office.client.authorize("untold")
    assert (untold.verdict, untold.answer.status, untold.failure) == (pb.VERDICT_REPLAY, 0, "resolved")
    for event in await office.events("resolution"):
        assert dict(event.facts) == {"by": "reconcile_url", "said": "happened"}


async def test_after_the_deadline_it_is_an_operators(office: Office) -> None:
    await office.client.put_tool(**HOLD, reconcile_deadline_s=60)
    call = await office.hold()
    await office.look(first_seen_s_ago=59)
    assert len(office.books.asked) == 1
    for _ in range(3):
        await office.look(first_seen_s_ago=61)
    assert len(office.books.asked) == 1
    assert office.figures.results == {"unknown": 1, "deadline": 1}
    [event] = await office.events("reconciliation")
    assert (event.reason, event.call_id, event.charged_micros) == ("reconcile_deadline_passed", call.call_id, 0)
    assert office.figures.unknown == 1
    resolve = admin_pb2.ResolveCallRequest(
        ref=admin_pb2.CallRef(call_id=call.call_id, agent_id="bot-1"), outcome=pb.OUTCOME_NOT_SENT
    )
    await office.client.ask(office.client.calls.ResolveCall, resolve)
    assert await office.account() == (0, 0)
    assert await office.verdict() == "EXECUTE"


async def test_a_tool_that_is_gone_or_names_nobody_to_ask_is_not_asked_until_it_does(office: Office) -> None:
    await office.client.put_tool(**HOLD)
    await office.hold()
    await office.client.ask(office.client.tools.DeleteTool, admin_pb2.ToolRef(name="charge"))
    await office.look()
    await office.client.put_tool(on_ambiguous=pb.ON_AMBIGUOUS_HOLD)
    await office.look()
    assert office.books.asked == []
    await office.client.put_tool(**HOLD)
    await office.look()
    assert len(office.books.asked) == 1


async def test_a_call_that_makes_the_engine_fail_holds_up_no_other(office: Office) -> None:
    def says(inquiry: Inquiry) -> Finding:
        if inquiry.call_id == broken.call_id:
            raise RuntimeError("bug")
        return Finding(Said.HAPPENED)

    office.books.says = says
    await office.client.put_tool(**HOLD)
    broken = await office.hold("broken")
    await office.hold("whole")
    await office.look()
    assert await office.verdict("whole") == "REPLAY"
    assert await office.verdict("broken") == "UNKNOWN"


async def test_a_tool_that_is_slow_to_say_holds_up_no_other(office: Office) -> None:
    slow = asyncio.Event()

    class Slow(Books):
        async def ask(self, inquiry: Inquiry, route: pb.ToolRoute, url: str, within_s: float) -> Finding:
            if inquiry.tool == "slow":
                await slow.wait()
            return await super().ask(inquiry, route, url, within_s)

    books = Slow(says=lambda _: Finding(Said.HAPPENED))
    office.reconciler._asker = books
    await office.client.put_tool(**HOLD)
    slow_tool = await office.client.put_tool("slow", **HOLD)
    await office.client.authorize("slow", tool="slow", tool_revision=slow_tool.revision)
    await office.hold()
    await office.let_time_pass()
    office.reconciler.start()
    async with asyncio.timeout(10):
        while await office.verdict() != "REPLAY":  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
        assert [inquiry.tool for inquiry in books.asked] == ["charge"]
        slow.set()
        while len(books.asked) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    await office.reconciler.close()


async def test_calls_that_may_be_repeated_are_nobodys_to_ask_about(office: Office) -> None:
    await office.client.put_tool()
    await office.hold()
    assert await office.raw.exists(HELD) == 0


@pytest.mark.parametrize(
    ("over_ms", "least", "most"),
    [(0, 800, 1_200), (1_000, 800, 1_200), (60_000, 24_000, 36_000), (10**9, 240_000, 360_000)],
)
def test_pauses_grow_with_the_time_that_has_passed_up_to_five_minutes(over_ms: int, least: int, most: int) -> None:
    pauses = {reconciling.pause_ms(over_ms) for _ in range(200)}
    assert least <= min(pauses) < max(pauses) <= most
