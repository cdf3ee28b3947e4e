import asyncio
from dataclasses import replace

import pytest

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Ask, Call, Incoming
from interlock.proxy.large_bodies import BodyReader
from interlock.proxy.metrics import Metrics
from interlock.proxy.pipeline import Pipeline
from interlock.proxy.run_route import RunEntrance, WholeAgent


def call() -> Call:
    return Call(
        RunEntrance(BodyReader().of_strangers),
        WholeAgent(),
        Incoming(method="POST", target="/v1/ai/run", headers=(), body=b""),
    )


async def test_a_call_passes_the_stages_in_their_order() -> None:
    async def first(call: Call) -> Call:
        return replace(call, ask=Ask(tool="a"))

    async def second(call: Call) -> Call:
        return replace(call, ask=replace(call.ask, tool=call.ask.tool + "b"))

    assert (await Pipeline([first, second], Metrics()).carry(call())).ask.tool == "ab"


@pytest.mark.parametrize(
    "verdict", [pb.VERDICT_REPLAY, pb.VERDICT_BLOCKED, pb.VERDICT_IN_FLIGHT, pb.VERDICT_MISMATCH, pb.VERDICT_UNKNOWN]
)
async def test_only_a_call_that_may_be_executed_goes_on(verdict: "pb.Verdict.ValueType") -> None:
    passed = []

    async def judge(call: Call) -> Call:
        return replace(call, verdict=pb.AuthorizeResponse(verdict=verdict))

    async def forward(call: Call) -> Call:
        passed.append(call)
        return call

    await Pipeline([judge, forward], Metrics()).carry(call())
    assert passed == []


async def test_an_error_ends_a_call_and_comes_back() -> None:
    async def refuse(_: Call) -> Call:
        raise InvalidRequestError("invalid_json", "no")

    with pytest.raises(InvalidRequestError):
        await Pipeline([refuse], Metrics()).carry(call())


async def test_a_call_goes_on_when_its_handler_is_cancelled() -> None:
    began, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def forward(call: Call) -> Call:
        began.set()
        await go_on.wait()
        ended.set()
        return call

    pipeline = Pipeline([forward], Metrics())
    handler = asyncio.create_task(pipeline.carry(call()))
    await began.wait()
    handler.cancel()
    await asyncio.wait([handler])
    assert len(pipeline.running) == 1
    go_on.set()
    async with asyncio.timeout(5):
        await ended.wait()
