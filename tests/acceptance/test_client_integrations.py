"""The client beside the libraries that agents and tools are made with, at a real sidecar."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from agents import Agent, Model, ModelResponse, Runner, Usage, set_tracing_disabled
from fastapi import Depends, FastAPI
from langchain_core.messages import ToolCall
from langchain_core.tools import tool as langchain_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from pydantic import BaseModel

from interlock.client import AsyncInterlock, CallRefusedError, Interlock, VerifiedCall
from interlock.client.integrations.fastapi import Once, idempotent_request, signed_call
from interlock.client.integrations.langchain import governed_tool, idempotent_tool
from interlock.client.integrations.openai_agents import governed_tool as governed_function_tool
from interlock.client.integrations.routing import AsyncRoutingTransport, RoutingTransport, UnroutedError
from tests.acceptance.scene import Scene
from tests.asgi_server import serving
from tests.tool import Tool, answers, resets

SECRET = "correct horse battery"


class Order(BaseModel):
    order: int


@pytest.fixture
async def client(scene: Scene) -> AsyncIterator[AsyncInterlock]:
    async with AsyncInterlock(scene.first.key, scene.first.url) as opened:
        yield opened


@pytest.fixture
async def blocking(scene: Scene) -> AsyncIterator[Interlock]:
    with Interlock(scene.first.key, scene.first.url) as opened:
        yield opened


# LangChain


async def test_a_langchain_tool_is_governed(
    scene: Scene, tool: Tool, client: AsyncInterlock, blocking: Interlock
) -> None:
    name = await scene.register(tool.url)
    governed = governed_tool(
        name, "Charges.", Order, agent_id=scene.agent, client=blocking, async_client=client, run_id="r1"
    )
    assert await governed.ainvoke({"order": 17}) == {"calls": 1}
    assert await asyncio.to_thread(governed.invoke, {"order": 17}) == {"calls": 1}
    assert await asyncio.to_thread(governed.invoke, {"order": 18}) == {"calls": 2}
    assert [json.loads(received.body)["args"] for received in tool.received] == [{"order": 17}, {"order": 18}]
    await scene.policy(blocked_tools=[name])
    call = ToolCall(name=name, args={"order": 19}, id="c1", type="tool_call")
    told = await governed.ainvoke(call)
    assert told.status == "error"
    assert "was not called: tool_explicitly_blocked" in told.content
    assert len(tool.received) == 2


async def test_a_langchain_tool_that_fails_says_so_to_the_model(
    scene: Scene, tool: Tool, client: AsyncInterlock
) -> None:
    name = await scene.register(tool.does(answers(400, b'{"why":"no"}')).url)
    governed = governed_tool(name, "Charges.", Order, agent_id=scene.agent, async_client=client)
    assert "failed: tool_error" in await governed.ainvoke({"order": 17})


async def test_a_langchain_tool_of_ones_own_runs_once(
    scene: Scene, client: AsyncInterlock, blocking: Interlock
) -> None:
    ran: list[int] = []

    @langchain_tool
    def charge(order: int) -> dict[str, int]:
        """Charges an order."""
        ran.append(order)
        return {"order": order}

    once = idempotent_tool(charge, client=blocking, async_client=client, prefix=scene.agent)
    assert once.name == "charge"
    assert once.args == charge.args
    both = await asyncio.gather(once.ainvoke({"order": 1}), asyncio.to_thread(once.invoke, {"order": 1}))
    assert both == [{"order": 1}, {"order": 1}]
    assert await once.ainvoke({"order": 2}) == {"order": 2}
    assert ran == [1, 2]


# OpenAI Agents SDK


class Scripted(Model):
    """A model that calls one tool twice, the second time under another call id, and then repeats what it was told."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = 0
        self.told: list[Any] = []

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:  # noqa: A002
        self._turn += 1
        self.told = [item["output"] for item in input if item.get("type") == "function_call_output"]
        if self._turn <= 2:
            output: Any = ResponseFunctionToolCall(
                type="function_call", name=self._name, call_id=f"c{self._turn}", arguments='{"order": 17}'
            )
        else:
            text = ResponseOutputText(type="output_text", text=str(self.told), annotations=[])
            output = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[text])
        return ModelResponse(output=[output], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


async def test_a_function_tool_of_the_agents_sdk_is_governed(scene: Scene, tool: Tool, client: AsyncInterlock) -> None:
    set_tracing_disabled(disabled=True)
    name = await scene.register(tool.url)
    schema = {**Order.model_json_schema(), "additionalProperties": False}
    governed = governed_function_tool(client, name, "Charges.", schema, agent_id=scene.agent)
    model = Scripted(name)
    done = await Runner.run(Agent(name="shopper", model=model, tools=[governed]), "charge order 17")
    assert [json.loads(told) for told in model.told] == [{"calls": 1}, {"calls": 1}]
    assert "calls" in done.final_output
    assert len(tool.received) == 1
    await scene.policy(allowed_tools=[])
    model = Scripted(name)
    await Runner.run(Agent(name="shopper", model=model, tools=[governed]), "charge order 17")
    assert json.loads(model.told[0]) == {"error": "not called", "reason": "tool_not_in_allowed_list", "result": None}


# FastAPI


async def test_a_fastapi_tool_serves_only_signed_calls(scene: Scene) -> None:
    app = FastAPI()

    @app.post("/charge")
    async def charge(order: Order, call: Annotated[VerifiedCall, Depends(signed_call(SECRET))]) -> dict[str, Any]:
        return {"order": order.order, "agent": call.agent_id}

    async with serving(app) as url, httpx.AsyncClient() as stranger:
        name = await scene.register(f"{url}/charge", auth={"secret": SECRET})
        answer = await scene.call(name, {"order": 17})
        assert json.loads(answer.body) == {"order": 17, "agent": scene.agent}
        assert (await stranger.post(f"{url}/charge", json={"order": 17})).status_code == 401


async def test_a_fastapi_request_is_handled_once(scene: Scene, client: AsyncInterlock) -> None:
    app, handled = FastAPI(), []
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.post("/orders")
    async def place(
        order: Order, once: Annotated[Once, Depends(idempotent_request(client, prefix=scene.agent))]
    ) -> dict[str, int]:
        async def handle() -> dict[str, int]:
            handled.append(order.order)
            begun.set()
            await go_on.wait()
            return {"placed": order.order}

        answer: dict[str, int] = await once(handle)
        return answer

    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as caller:

        async def post(order: int, key: str | None) -> httpx.Response:
            return await caller.post("/orders", json={"order": order}, headers={"Idempotency-Key": key} if key else {})

        crowd = [asyncio.create_task(post(1, "k1")) for _ in range(10)]
        await begun.wait()
        go_on.set()
        assert [(await told).json() for told in crowd] == [{"placed": 1}] * 10
        assert (await post(1, "k1")).json() == {"placed": 1}
        assert (await post(2, "k1")).status_code == 422
        assert (await post(2, None)).status_code == 400
        assert (await post(2, "k2")).json() == {"placed": 2}
    assert handled == [1, 2]


# httpx


async def test_tool_calls_that_are_there_already_go_through_the_sidecar(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, methods=["GET", "POST", "PUT"], subpaths=True)
    routes = {"https://pay.example/v1/charges": name}
    where: dict[str, Any] = {"api_key": scene.first.key, "base_url": scene.first.url, "agent_id": scene.agent}
    transport = AsyncRoutingTransport(routes, run_id="r1", **where)
    async with httpx.AsyncClient(transport=transport, base_url="https://pay.example/v1") as pay:
        first = await pay.post("/charges?draft=1", json={"order": 17}, headers={"Authorization": "Bearer tools-own"})
        again = await pay.post("/charges?draft=1", json={"order": 17})
        assert first.json() == again.json() == {"calls": 1}
        assert again.headers["Idempotent-Replayed"] == "true"
        await pay.put("/charges/a%20b/", content=b"raw")
        await pay.get("/charges", headers={"Interlock-Agent": "another"})
        for elsewhere in ("/chargesx", "/other", "https://pay.example:444/v1/charges", "http://pay.example/v1/charges"):
            with pytest.raises(UnroutedError):
                await pay.get(elsewhere)
    assert [(r.method, r.target) for r in tool.received] == [
        ("POST", "/tool?draft=1"),
        ("PUT", "/tool/a%20b/"),
        ("GET", "/tool"),
    ]
    assert [r.header("Interlock-Agent") for r in tool.received] == [scene.agent, scene.agent, "another"]
    assert all(r.header("Authorization") is None for r in tool.received)


async def test_a_refusal_is_raised_and_a_tools_own_error_is_not(scene: Scene, tool: Tool) -> None:
    own = answers(409, b'{"type":"https://pay.example/dup"}', {"Content-Type": "application/problem+json"})
    name = await scene.register(tool.does(own).url, max_retries=0, dedup={"mode": "off"})
    where: dict[str, Any] = {"api_key": scene.first.key, "base_url": scene.first.url, "agent_id": scene.agent}
    async with httpx.AsyncClient(transport=AsyncRoutingTransport({"https://pay.example": name}, **where)) as pay:
        told = await pay.post("https://pay.example/", json={})
        assert (told.status_code, told.json()["type"]) == (409, "https://pay.example/dup")
        tool.does(resets())
        with pytest.raises(CallRefusedError) as raised:
            await pay.post("https://pay.example/", json={})
        assert (raised.value.reason, raised.value.status, raised.value.decision) == ("upstream_reset", 502, "executed")
        await scene.policy(max_actions_per_hour=0)
        with pytest.raises(CallRefusedError) as raised:
            await pay.post("https://pay.example/", json={})
        assert (raised.value.reason, raised.value.decision) == ("max_actions_per_hour_exceeded", "blocked")
        assert raised.value.matched_rule == "max_actions_per_hour: 0"
        assert not raised.value.retryable
    transport = AsyncRoutingTransport({"https://pay.example": name}, raising=False, **where)
    async with httpx.AsyncClient(transport=transport) as pay:
        passed = await pay.post("https://pay.example/", json={})
        assert passed.json()["reason"] == "max_actions_per_hour_exceeded"


async def test_what_waits_can_route_as_well(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    where: dict[str, Any] = {"api_key": scene.first.key, "base_url": scene.first.url, "agent_id": scene.agent}

    def calls() -> list[Any]:
        others = httpx.MockTransport(lambda request: httpx.Response(204, request=request))
        transport = RoutingTransport({"https://pay.example": name}, others=others, **where)
        with httpx.Client(transport=transport) as pay:
            key = {"Idempotency-Key": "k1"}
            told = [pay.post("https://pay.example", json={"order": 1}, headers=key).json() for _ in range(2)]
            assert pay.get("https://elsewhere.example/").status_code == 204
            with pytest.raises(CallRefusedError) as raised:
                pay.post("https://pay.example", json={"order": 2}, headers=key)
            return [*told, raised.value.reason]

    assert await asyncio.to_thread(calls) == [{"calls": 1}, {"calls": 1}, "idempotency_key_reused"]
    assert len(tool.received) == 1
