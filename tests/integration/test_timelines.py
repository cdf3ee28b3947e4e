"""Timelines at the engine: who may, and what calls of runs cost."""

import asyncio

import pytest

from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import timeline_pb2 as tl
from tests.integration.engines import EngineClient, Noting, running_engine

NOTE = tl.TimelineEvent(run_id="run-1", type="note")


async def total(engine: EngineClient, run_id: str = "run-1") -> int:
    asked = tl.ListRunEventsRequest(run_id=run_id)
    return int((await engine.ask(engine.timelines.ListRunEvents, asked)).total)


async def test_a_settled_call_of_a_run_costs_two_round_trips_like_any_other(redis_url: str) -> None:
    noting = Noting()
    async with running_engine(redis_url, noting) as engine:
        await engine.put_tool()
        for call, run_id in (("first", "run-1"), ("again", "run-1"), ("alone", "")):
            noting.asked.clear()
            decided = await engine.authorize(call, run_id=run_id)
            request = pb.SettleRequest(permit=decided.permit, outcome=pb.OUTCOME_SUCCEEDED)
            assert (await engine.ask(engine.governance.Settle, request)).applied
            if call != "first":
                assert noting.asked == {"authorize": 1, "settle": 1}
        assert await total(engine) == 1 + 2 * 3


async def test_a_switch_that_moves_under_a_call_leaves_one_story_of_it(redis_url: str) -> None:
    async with running_engine(redis_url) as one, running_engine(redis_url) as other:
        await one.put_tool()
        await one.authorize("warm", run_id="warm")
        await other.ask(other.switches.SetSwitch, ad.SetSwitchRequest(scope="namespace", pulled=True, reason="stop"))
        decided = await one.authorize("two", run_id="run-1")
        assert decided.verdict == pb.VERDICT_BLOCKED
        answer = await one.ask(one.timelines.ListRunEvents, tl.ListRunEventsRequest(run_id="run-1"))
        assert [event.type for event in answer.events] == ["run_started", "tool_call", "tool_result", "run_finished"]
        assert {event.req_id for event in answer.events[1:]} == {decided.call_id}


async def test_only_a_sidecar_tells_of_unknown_tools_and_of_each_call_once(redis_url: str) -> None:
    async with running_engine(redis_url) as engine:
        request = tl.RecordUnknownToolRequest(
            credential=engine.key, agent_id="bot-1", run_id="run-1", tool="nothing", attempt_id="a" * 22
        )
        record = engine.timelines.RecordUnknownTool
        await asyncio.gather(*(engine.ask(record, request) for _ in range(20)))
        assert await total(engine) == 4
        outsider = EngineClient(engine.channel, engine.key, "guessed")
        assert await outsider.refused(record, request) == "sidecar_only"
        viewer = await engine.new_key(ad.ROLE_VIEWER)
        stranger = tl.RecordUnknownToolRequest(
            credential=viewer.key, agent_id="bot-1", run_id="run-1", tool="nothing", attempt_id="b" * 22
        )
        assert await engine.refused(record, stranger) == "permission_denied"


@pytest.mark.parametrize(
    ("role", "agent", "named", "reason"),
    [
        (ad.ROLE_VIEWER, "", "", "permission_denied"),
        (ad.ROLE_VIEWER, "", "bot-1", "permission_denied"),
        (ad.ROLE_AGENT, "bot-1", "bot-2", "permission_denied"),
        (ad.ROLE_OPERATOR, "", "bot 2", "invalid_agent_id"),
    ],
)
async def test_nobody_posts_in_the_name_of_another(
    redis_url: str, role: ad.Role.ValueType, agent: str, named: str, reason: str
) -> None:
    async with running_engine(redis_url) as engine:
        poster = engine.speaking_with((await engine.new_key(role, agent)).key)
        event = tl.TimelineEvent(run_id="run-1", type="note", agent_id=named)
        assert await poster.refused(poster.timelines.PostEvent, tl.PostEventRequest(event=event)) == reason
        assert await total(engine) == 0


async def test_an_event_that_is_posted_again_is_recorded_once_and_another_namespaces_is_its_own(redis_url: str) -> None:
    async with running_engine(redis_url) as engine:
        request = tl.PostEventRequest(event=tl.TimelineEvent(run_id="run-1", type="note", event_id="mine"))
        for _ in range(3):
            assert (await engine.ask(engine.timelines.PostEvent, request)).event_id == "mine"
        assert await total(engine) == 1


@pytest.mark.parametrize(
    "event",
    [
        tl.TimelineEvent(type="note"),
        tl.TimelineEvent(run_id="r"),
        tl.TimelineEvent(run_id="r\0", type="note"),
        tl.TimelineEvent(run_id="r", type="note", event_id="a:b"),
        tl.TimelineEvent(run_id="r", type="note", ts=-1),
        tl.TimelineEvent(run_id="r", type="note", data="[]"),
        tl.TimelineEvent(run_id="r", type="note", extra="{"),
        tl.TimelineEvent(run_id="r", type="note", data='{"a":' + "[" * 5000 + "]" * 5000 + "}"),
        tl.TimelineEvent(run_id="r", type="note", data='{"a":"' + "ü" * 5000 + '"}'),
    ],
)
async def test_the_engine_refuses_what_is_no_event_whoever_translates(redis_url: str, event: tl.TimelineEvent) -> None:
    async with running_engine(redis_url) as engine:
        assert await engine.refused(engine.timelines.PostEvent, tl.PostEventRequest(event=event)) == "invalid_request"
