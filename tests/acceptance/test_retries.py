"""Tries within one call: as many as the tool allows, under one key and one charge."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from tests.acceptance.scene import Scene
from tests.tool import Script, Tool, answers, never_answers, resets
from tests.unit.proxy.raw_tool import RawTool, read_request

SPEND = 0.25
SPENDING = {"Interlock-Spend-Usd": str(SPEND)}
MAX_RETRIES = 2

AMBIGUOUS = {
    "500": (lambda: answers(500), 500),
    "408": (lambda: answers(408), 408),
    "time-out": (never_answers, 504),
    "reset": (resets, 502),
}
each_ambiguous = pytest.mark.parametrize(("failing", "status"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())


@pytest.fixture
async def unreachable() -> AsyncIterator[RawTool]:
    """A port on which no TLS connection comes about; it counts the attempts."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    tool = RawTool(hang_up, None)
    await tool.start()
    yield tool
    await tool.stop()


@each_ambiguous
async def test_a_retry_tool_is_tried_again_under_the_same_key(
    scene: Scene, tool: Tool, failing: Callable[[], Script], status: int
) -> None:
    name = await scene.register(
        tool.does(failing(), failing(), answers(201)).url, timeout_ms=500, max_retries=MAX_RETRIES
    )
    answer = await scene.call(name, b"order 17", headers=SPENDING)
    assert (answer.status, answer.decision) == (201, "executed")
    assert len(tool.received) == 1 + MAX_RETRIES
    for field in ("Idempotency-Key", "Interlock-Call-Id", "Interlock-Fence"):
        assert len({received.header(field) for received in tool.received}) == 1
    assert {(received.method, received.target, received.body) for received in tool.received} == {
        ("POST", "/tool", b"order 17")
    }
    assert await scene.charged() == (1, SPEND)
    assert [event["verdict"] for event in await scene.events("settlement")] == ["SUCCEEDED"]


@each_ambiguous
async def test_a_retry_tool_is_tried_no_more_often_than_it_says(
    scene: Scene, tool: Tool, failing: Callable[[], Script], status: int
) -> None:
    name = await scene.register(tool.does(failing()).url, timeout_ms=500, max_retries=1)
    for call in (1, 2):
        answer = await scene.call(name, b"order 17", headers=SPENDING)
        assert (answer.status, answer.decision) == (status, "executed")
        assert len(tool.received) == 2 * call
    assert len({received.header("Idempotency-Key") for received in tool.received}) == 1
    fences = [int(received.header("Interlock-Fence") or 0) for received in tool.received]
    assert fences[0] == fences[1] < fences[2] == fences[3]
    assert await scene.charged() == (2, SPEND)


@each_ambiguous
async def test_a_hold_tool_is_never_tried_again(
    scene: Scene, tool: Tool, failing: Callable[[], Script], status: int
) -> None:
    name = await scene.register(tool.does(failing()).url, timeout_ms=500, max_retries=MAX_RETRIES, on_ambiguous="hold")
    assert (await scene.call(name, b"order 17", headers=SPENDING)).status == status
    assert (await scene.call(name, b"order 17", headers=SPENDING)).json["reason"] == "outcome_unknown"
    run_over = await scene.call(name, b"order 17", headers={**SPENDING, "Prefer": "wait"}, at=scene.second)
    assert run_over.json["reason"] == "outcome_unknown"
    assert len(tool.received) == 1
    assert await scene.charged() == (1, SPEND)


@pytest.mark.parametrize("on_ambiguous", ["retry", "hold"])
async def test_what_could_not_be_sent_is_tried_again_for_every_tool(
    scene: Scene, unreachable: RawTool, on_ambiguous: str
) -> None:
    url = unreachable.url().replace("http:", "https:")
    name = await scene.register(url, max_retries=MAX_RETRIES, on_ambiguous=on_ambiguous)
    answer = await scene.call(name, b"order 17", headers=SPENDING)
    assert (answer.status, answer.json["reason"]) == (502, "upstream_unreachable")
    assert unreachable.connections == 1 + MAX_RETRIES
    assert await scene.charged() == (0, 0)


async def test_a_retry_tool_is_given_the_time_that_its_429_asks_for(scene: Scene, tool: Tool) -> None:
    times: list[float] = []

    async def limited(_: web.Request) -> web.Response:
        times.append(time.monotonic())
        return web.Response(status=429, headers={"Retry-After": "1"})

    async def free(_: web.Request) -> web.Response:
        times.append(time.monotonic())
        return web.Response()

    name = await scene.register(tool.does(limited, free).url)
    assert (await scene.call(name, b"order 17", headers=SPENDING)).status == 200
    assert times[1] - times[0] >= 1
    assert await scene.charged() == (1, SPEND)


@pytest.mark.parametrize(
    ("tool_is", "retry_after"),
    [({"on_ambiguous": "hold"}, "0"), ({"timeout_ms": 15_000}, "16"), ({"max_retries": 0}, "0")],
    ids=["hold", "too long", "no retries"],
)
async def test_a_429_that_is_not_waited_for_is_left_to_the_agent(
    scene: Scene, tool: Tool, tool_is: dict[str, object], retry_after: str
) -> None:
    limited = answers(429, b"slow down", {"Retry-After": retry_after})
    name = await scene.register(tool.does(limited).url, **tool_is)
    answer = await scene.call(name, b"order 17", headers=SPENDING)
    assert (answer.status, answer.body, answer.header("Retry-After")) == (429, b"slow down", retry_after)
    assert len(tool.received) == 1
    assert await scene.charged() == (1, 0)


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 409, 422])
async def test_an_answer_that_settles_a_call_is_the_last_try(scene: Scene, tool: Tool, status: int) -> None:
    name = await scene.register(tool.does(answers(status)).url, max_retries=10)
    assert (await scene.call(name, b"order 17")).status == status
    assert len(tool.received) == 1


async def test_a_refusal_after_a_try_that_may_have_happened_returns_nothing(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.does(answers(500), answers(400)).url, max_retries=MAX_RETRIES)
    answer = await scene.call(name, b"order 17", headers=SPENDING)
    assert (answer.status, len(tool.received)) == (400, 2)
    assert await scene.charged() == (1, SPEND)
    assert [event["verdict"] for event in await scene.events("settlement")] == ["AMBIGUOUS"]


async def test_a_refusal_of_the_next_call_does_not_clear_a_call_that_may_have_happened(
    scene: Scene, tool: Tool
) -> None:
    name = await scene.register(tool.does(answers(500), answers(400), answers(200)).url, max_retries=0)
    statuses = [(await scene.call(name, b"order 17", headers=SPENDING)).status for _ in range(3)]
    assert statuses == [500, 400, 200]
    assert await scene.charged() == (3, SPEND)


async def test_a_tool_that_keeps_breaking_is_left_alone_at_no_cost(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.does(resets()).url, max_retries=0)
    for order in range(5):
        assert (await scene.call(name, b"order %d" % order)).status == 502
    answer = await scene.call(name, b"order 5", headers=SPENDING)
    assert (answer.status, answer.json["reason"], answer.decision) == (503, "upstream_circuit_open", "error")
    assert 0 < int(answer.header("Retry-After") or 0) <= 5
    assert len(tool.received) == 5
    assert await scene.charged() == (5, 0)


@pytest.mark.parametrize(
    ("failing", "status", "reason"),
    [(resets, 502, "upstream_reset"), (never_answers, 504, "upstream_timeout")],
    ids=["reset", "time-out"],
)
async def test_a_call_whose_last_try_was_held_back_is_told_as_the_one_that_was_sent(
    scene: Scene, tool: Tool, failing: Callable[[], Script], status: int, reason: str
) -> None:
    name = await scene.register(tool.does(failing()).url, timeout_ms=300, max_retries=10)
    answer = await scene.call(name, b"order 17", headers=SPENDING)
    # After the fifth the tool is left alone.
    assert (answer.status, answer.json["reason"], answer.decision, len(tool.received)) == (
        status,
        reason,
        "executed",
        5,
    )
    assert "whether it acted is not known" in answer.json["detail"]
    assert await scene.charged() == (1, SPEND)


async def test_a_tool_that_fails_and_then_cannot_be_reached_may_have_acted(scene: Scene) -> None:
    async def fails_and_leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        listener.close()
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(fails_and_leaves, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    name = await scene.register(f"http://127.0.0.1:{port}/tool", max_retries=1)
    answer = await scene.call(name, b"order 17", headers=SPENDING)
    assert (answer.status, answer.json["reason"], answer.decision) == (502, "upstream_error", "executed")
    assert [event["verdict"] for event in await scene.events("settlement")] == ["AMBIGUOUS"]
    assert await scene.charged() == (1, SPEND)
