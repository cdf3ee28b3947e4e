"""Which two calls are the same call."""

from typing import Any

import pytest

from tests.acceptance.scene import Scene
from tests.tool import Tool

JSON = {"Content-Type": "application/json"}
WRITTEN = b'{"order": 17, "card": {"last4": "4242", "name": "J\xc3\xbcrgen"}, "tags": ["a", "b"], "amount": 12.5}'

SAME = {
    "again": WRITTEN,
    "other order of keys": (
        b'{"amount": 12.5, "tags": ["a", "b"], "card": {"name": "J\xc3\xbcrgen", "last4": "4242"}, "order": 17}'
    ),
    "white space": (
        b'\r\n{"order":17,"card":\t{"last4":"4242","name":"J\xc3\xbcrgen"},"tags":["a","b"],"amount":12.5 }\n'
    ),
    "spelling": b'{"order": 17.0, "card": {"last4": "\\u00342\\u00342", "name": "J\\u00fcrgen"},'
    b' "tags": ["\\u0061", "b"], "amount": 1.25e1}',
}
OTHER = {
    "a value": WRITTEN.replace(b"17", b"18"),
    "a type": WRITTEN.replace(b"17", b'"17"'),
    "a nested value": WRITTEN.replace(b"4242", b"4243"),
    "case": WRITTEN.replace(b'"a"', b'"A"'),
    "Unicode form": WRITTEN.replace(b"J\xc3\xbcrgen", b"Ju\xcc\x88rgen"),
    "order in a list": WRITTEN.replace(b'"a", "b"', b'"b", "a"'),
    "one field more": WRITTEN.replace(b"{", b'{"note": null, ', 1),
    "one field less": WRITTEN.replace(b', "amount": 12.5', b""),
    "the last digit": WRITTEN.replace(b"12.5", b"12.500000000000000000000000001"),
}


@pytest.mark.parametrize("written", SAME.values(), ids=SAME.keys())
async def test_arguments_that_mean_the_same_are_the_same_call(scene: Scene, tool: Tool, written: bytes) -> None:
    name = await scene.register(tool.url)
    first = await scene.call(name, WRITTEN, headers=JSON)
    second = await scene.call(name, written, headers=JSON, at=scene.second)
    assert (first.replayed, second.replayed, second.body) == (False, True, first.body)
    assert len(tool.received) == 1


@pytest.mark.parametrize("written", SAME.values(), ids=SAME.keys())
async def test_args_that_mean_the_same_are_the_same_run(scene: Scene, tool: Tool, written: bytes) -> None:
    name = await scene.register(tool.url)
    first = await scene.run(name, WRITTEN)
    second = await scene.run(name, written, at=scene.second)
    assert [answer.json["decision"] for answer in (first, second)] == ["executed", "dedup"]
    assert first.json["result"] == second.json["result"]
    assert len(tool.received) == 1


@pytest.mark.parametrize("written", OTHER.values(), ids=OTHER.keys())
async def test_arguments_that_differ_are_another_call(scene: Scene, tool: Tool, written: bytes) -> None:
    name = await scene.register(tool.url)
    for call in (WRITTEN, written):
        assert (await scene.call(name, call, headers=JSON)).decision == "executed"
        assert (await scene.run(name, call)).json["decision"] == "executed"
    assert [received.body for received in tool.received][::2] == [WRITTEN, written]
    assert len({received.header("Idempotency-Key") for received in tool.received}) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"below": "?b=2&a=1"},
        {"below": "?a=1&b=2&"},
        {"below": "?a=1&b=%32"},
        {"below": "/below?a=1&b=2"},
        {"method": "PUT"},
        {"headers": {"Content-Type": "application/json; charset=utf-8"}},
        {"headers": {"Content-Type": "text/plain"}},
    ],
    ids=["query order", "query end", "query spelling", "path", "method", "parameter", "type"],
)
async def test_all_else_that_reaches_the_tool_counts_as_it_is_written(
    scene: Scene, tool: Tool, other: dict[str, Any]
) -> None:
    name = await scene.register(tool.url, methods=["POST", "PUT"], subpaths=True)
    usual: dict[str, Any] = {"below": "?a=1&b=2", "headers": JSON}
    for how in (usual, usual | other):
        assert (await scene.call(name, WRITTEN, **how)).decision == "executed"
        assert (await scene.call(name, WRITTEN, **how)).replayed
    assert len(tool.received) == 2


async def test_a_body_that_is_no_json_counts_byte_for_byte(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    assert [(await scene.call(name, body)).replayed for body in (b"a b", b"a b", b"a  b", b"\xff\x00")] == [
        *(False, True),
        *(False, False),
    ]


async def test_a_key_is_the_same_quoted_and_bare(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    spelt = ["order-17", '"order-17"', "order-17 ", '"order-17" ']
    got = [await scene.call(name, b"x", headers={"Idempotency-Key": key}) for key in spelt]
    assert [answer.replayed for answer in got] == [False, True, True, True]
    run = await scene.call(name, b"x", headers={"Idempotency-Key": '"order-\\"17"'})
    assert not run.replayed
    assert len(tool.received) == 2


async def test_a_callers_key_makes_a_call_its_own(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    keys = ["a", "b", "", "A", "a"]
    got = [await scene.call(name, b"x", headers={"Idempotency-Key": key}) for key in keys]
    assert [answer.replayed for answer in got] == [False, False, False, False, True]


@pytest.mark.parametrize("entrance", ["tools", "run"])
async def test_two_agents_with_the_same_key_are_two_calls(scene: Scene, tool: Tool, entrance: str) -> None:
    name = await scene.register(tool.url)
    agents = [f"{scene.agent}-{number}" for number in (1, 2)]
    for agent in (*agents, *agents):
        own = {"Authorization": f"Bearer {await scene.key(agent)}", "Idempotency-Key": "order-17"}
        if entrance == "tools":
            answer = await scene.call(name, b"x", headers={**own, "Interlock-Agent": ""})
        else:
            answer = await scene.run(name, {"x": 1}, headers=own, agent_id=agent)
        assert answer.status == 200
    assert [received.header("Interlock-Agent") for received in tool.received] == agents
    assert len({received.header("Idempotency-Key") for received in tool.received}) == 2


async def test_what_the_tool_is_sent_is_not_the_callers_key_itself(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    await scene.call(name, b"x", headers={"Idempotency-Key": "order-17"})
    key = tool.received[0].header("Idempotency-Key") or ""
    assert (len(key), set(key) <= set("0123456789abcdef")) == (64, True)


async def test_dedup_by_header_wants_a_key_with_every_call(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, dedup={"mode": "header"})
    without = await scene.call(name, b"x")
    assert (without.status, without.json["reason"]) == (400, "idempotency_key_required")
    (problem,) = (await scene.run(name, {})).json["detail"]
    assert problem["type"] == "idempotency_key_required"
    assert (tool.received, await scene.events()) == ([], [])
    keyed = [await scene.call(name, b"x", headers={"Idempotency-Key": key}) for key in ("1", "1", "2")]
    assert [answer.replayed for answer in keyed] == [False, True, False]


async def test_without_dedup_every_call_is_its_own_unless_it_has_a_key(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, dedup={"mode": "off"})
    keys = ["", "", "1", "1"]
    got = [await scene.call(name, b"x", headers={"Idempotency-Key": key}) for key in keys]
    assert [answer.replayed for answer in got] == [False, False, False, True]
    assert len({received.header("Idempotency-Key") for received in tool.received}) == 3


@pytest.mark.parametrize(
    ("registered", "method", "replayed"),
    [
        ({}, "POST", True),
        ({}, "DELETE", True),
        ({}, "GET", False),
        ({}, "HEAD", False),
        ({"read_only": True}, "POST", False),
        ({"read_only": True, "dedup": {"mode": "derived"}}, "POST", True),
        ({"dedup": {"mode": "derived"}}, "GET", True),
    ],
)
async def test_calls_that_change_nothing_are_not_deduplicated_unless_the_tool_says_so(
    scene: Scene, tool: Tool, registered: dict[str, Any], method: str, replayed: bool
) -> None:
    name = await scene.register(tool.url, methods=[method], **registered)
    got = [await scene.call(name, method=method) for _ in range(2)]
    assert [answer.replayed for answer in got] == [False, replayed]


async def test_fields_to_ignore_make_no_difference_but_reach_the_tool(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, dedup={"ignore": ["at", "trace"]})
    calls = [
        {"order": 17, "at": 1, "trace": {"id": "x"}},
        {"order": 17, "at": 2},
        {"order": 17},
        {"order": 17, "in": {"at": 1}},
        {"order": 18, "at": 1},
    ]
    assert [(await scene.call(name, call)).replayed for call in calls] == [False, True, True, False, False]
    assert tool.received[0].body == b'{"order": 17, "at": 1, "trace": {"id": "x"}}'
    runs = [(await scene.run(name, call)).json["decision"] for call in calls]
    assert runs == ["executed", "dedup", "dedup", "executed", "executed"]


async def test_a_run_id_traces_a_run_and_is_no_argument_of_it(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    runs = [{"order": 17, "run_id": "run-1"}, {"order": 17, "run_id": "run-2"}, {"order": 17}]
    assert [(await scene.run(name, run)).json["decision"] for run in runs] == ["executed", "dedup", "dedup"]
    traced = [event["facts"].get("run_id") for event in await scene.events("decision")]
    assert traced == ["run-1", "run-2", None]


async def test_a_run_id_is_an_argument_where_the_tool_says_so(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, dedup={"run_id": "argument"})
    runs = [{"order": 17, "run_id": "run-1"}, {"order": 17, "run_id": "run-2"}, {"order": 17, "run_id": "run-1"}]
    assert [(await scene.run(name, run)).json["decision"] for run in runs] == ["executed", "executed", "dedup"]


async def test_on_tools_a_header_traces_and_a_run_id_in_the_body_is_an_argument(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    bodies = [{"run_id": "a"}, {"run_id": "a"}, {"run_id": "b"}]
    traced = [
        await scene.call(name, body, headers={"Interlock-Run-Id": f"run-{number}"})
        for number, body in enumerate(bodies)
    ]
    assert [answer.replayed for answer in traced] == [False, True, False]
    assert [event["facts"]["run_id"] for event in await scene.events("decision")] == ["run-0", "run-1", "run-2"]


async def test_a_call_and_a_run_of_one_tool_are_two_calls(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    assert (await scene.call(name, {"order": 17})).decision == "executed"
    assert (await scene.run(name, {"order": 17})).json["decision"] == "executed"
