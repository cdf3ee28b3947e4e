"""`run_fn` at a server that answers as it is told: leases lost, results unrecordable, waits and take-overs."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from interlock.client import (
    AsyncInterlock,
    Interlock,
    LeaseLostError,
    NotRecordedError,
    UnusableArgumentError,
    WaitTimeoutError,
    idempotent,
    idempotent_ai,
)
from tests.tool import Tool
from tests.unit.client.answering import BOTH, KEY, ask

pytestmark = pytest.mark.parametrize("flavour", BOTH)


@dataclass
class Desk:
    """A server of one lease. A test sets what it answers to each verb; `asked` is what it was asked."""

    answers: dict[str, Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ttl: int = 60

    async def __call__(self, request: web.Request) -> web.Response:
        verb = request.path.rpartition("/")[2]
        body = await request.json() if request.method == "POST" else dict(request.query)
        self.asked.append((verb, body))
        status, told = self.answers.get(verb, self._usual)(body)
        return web.json_response({"key": "k", "status": verb, "version": 1, "ttl": self.ttl, **told}, status=status)

    def _usual(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        verb = self.asked[-1][0]
        status = {"lease": "acquired", "extend": "extended", "complete": "completed", "fail": "failed"}.get(verb, verb)
        return 200, {"status": status, "lease_id": "l1"}

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked if verb != "extend"]

    def body(self, verb: str) -> dict[str, Any]:
        return next(body for asked, body in self.asked if asked == verb)


def says(http_status: int = 200, /, **told: Any) -> Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]:
    return lambda _: (http_status, told)


NOT_HELD = says(409, detail={"error": "lease_not_held", "message": "it is another's"})
BROKEN = says(503, detail={"error": "governance_unavailable"})


@pytest.fixture
def desk(tool: Tool) -> Desk:
    found = Desk()
    tool.does(found)
    return found


async def run_fn(flavour: str, tool: Tool, function: Callable[..., Any], client: Any = None, **how: Any) -> Any:
    return await ask(flavour, tool, lambda opened: opened.run_fn("k", function, **how), **(client or {}))


async def test_who_has_the_lease_runs_and_records(flavour: str, tool: Tool, desk: Desk) -> None:
    done = await run_fn(flavour, tool, lambda: {"n": 1}, ttl=60)
    assert (done.ok, done.executed, done.result, done.value) == (True, True, {"n": 1}, {"n": 1})
    assert desk.verbs() == ["lease", "complete"]
    assert desk.body("complete") == {"key": "k", "lease_id": "l1", "result": {"n": 1}}
    assert len(desk.body("lease")["attempt_id"]) == 32


async def test_what_is_no_object_comes_back_as_what_it_was(flavour: str, tool: Tool, desk: Desk) -> None:
    assert (await run_fn(flavour, tool, lambda: [1, 2])).value == [1, 2]
    assert (await run_fn(flavour, tool, lambda: {"value": 7})).value == {"value": 7}
    assert (await run_fn(flavour, tool, lambda: None)).value is None


async def test_what_was_done_elsewhere_is_not_done_again(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.answers = {
        "lease": says(status="completed", lease_id=None),
        "result": says(status="completed", result={"n": 7}),
    }
    done = await run_fn(flavour, tool, lambda: pytest.fail("ran"))
    assert (done.ok, done.executed, done.result) == (True, False, {"n": 7})


async def test_who_comes_second_waits_at_the_server(flavour: str, tool: Tool, desk: Desk) -> None:
    turns = iter(["in_progress", "in_progress", "completed"])
    desk.answers = {
        "lease": says(status="polling", lease_id=None),
        "result": lambda _: (200, {"status": next(turns), "result": {"n": 7}}),
    }
    done = await run_fn(flavour, tool, lambda: pytest.fail("ran"), timeout_s=10)
    assert done.result == {"n": 7}
    assert float(desk.body("result")["wait"]) > 9


async def test_who_comes_second_gives_up_in_time(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.answers = {"lease": says(status="polling", lease_id=None), "result": says(status="in_progress")}
    with pytest.raises(WaitTimeoutError):
        await run_fn(flavour, tool, lambda: pytest.fail("ran"), timeout_s=0.1)


async def test_who_shall_not_wait_is_told_at_once(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.answers = {"lease": says(status="polling", lease_id=None)}
    done = await run_fn(flavour, tool, lambda: pytest.fail("ran"), wait=False)
    assert (done.status, done.ok, done.executed) == ("in_progress", False, False)
    assert desk.verbs() == ["lease"]


@pytest.mark.parametrize("freed", [says(status="expired"), says(status="cancelled"), says(404, detail="gone")])
async def test_a_lease_that_was_let_go_is_taken_over(flavour: str, tool: Tool, desk: Desk, freed: Any) -> None:
    turns = iter([{"status": "polling", "lease_id": None}, {"status": "acquired", "lease_id": "l2"}])
    desk.answers = {"lease": lambda _: (200, next(turns)), "result": freed}
    done = await run_fn(flavour, tool, lambda: {"n": 1})
    assert done.executed
    assert desk.verbs() == ["lease", "result", "lease", "complete"]
    attempts = [body["attempt_id"] for verb, body in desk.asked if verb == "lease"]
    assert len(set(attempts)) == 2


async def test_a_function_that_raises_is_recorded_as_failed(flavour: str, tool: Tool, desk: Desk) -> None:
    def breaks() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await run_fn(flavour, tool, breaks, error_code="broken")
    assert desk.verbs() == ["lease", "fail"]
    assert desk.body("fail")["error_code"] == "broken"


async def test_a_function_that_raises_may_free_its_key(flavour: str, tool: Tool, desk: Desk) -> None:
    def breaks() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await run_fn(flavour, tool, breaks, on_error="free")
    assert desk.verbs() == ["lease", "cancel"]


async def test_that_a_failure_was_not_recorded_is_noted(flavour: str, tool: Tool, desk: Desk) -> None:
    def breaks() -> None:
        raise KeyError("x")

    desk.answers = {"fail": BROKEN}
    with pytest.raises(KeyError) as raised:
        await run_fn(flavour, tool, breaks)
    assert "was not recorded" in raised.value.__notes__[0]


async def test_a_lost_lease_is_told_to_the_function_and_nothing_is_recorded(
    flavour: str, tool: Tool, desk: Desk
) -> None:
    desk.ttl = 1
    desk.answers = {"extend": NOT_HELD}
    told = []

    def works(lease: Any) -> None:
        assert lease.lost.wait(10)
        told.append(lease.remaining_s)
        lease.check()

    async def works_async(lease: Any) -> None:
        await asyncio.wait_for(lease.lost.wait(), 10)
        told.append(lease.remaining_s)
        lease.check()

    with pytest.raises(LeaseLostError, match="it is another's"):
        await run_fn(flavour, tool, works if flavour == "sync" else works_async)
    assert told == [0.0]
    assert desk.verbs() == ["lease"]


async def test_a_function_that_did_not_look_is_not_recorded_either(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.ttl = 1
    desk.answers = {"extend": NOT_HELD}

    def works(lease: Any) -> str:
        assert lease.lost.wait(10)
        return "mine"

    async def works_async(lease: Any) -> str:
        await asyncio.wait_for(lease.lost.wait(), 10)
        return "mine"

    with pytest.raises(LeaseLostError) as raised:
        await run_fn(flavour, tool, works if flavour == "sync" else works_async)
    assert raised.value.result == "mine"
    assert desk.verbs() == ["lease"]


async def test_a_lease_is_lost_by_its_own_clock_if_nobody_answers(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.ttl = 1
    desk.answers = {"extend": BROKEN}

    def works(lease: Any) -> None:
        assert not lease.lost.is_set()
        assert lease.lost.wait(10)
        lease.check()

    async def works_async(lease: Any) -> None:
        assert not lease.lost.is_set()
        await asyncio.wait_for(lease.lost.wait(), 10)
        lease.check()

    with pytest.raises(LeaseLostError, match="ran out"):
        await run_fn(flavour, tool, works if flavour == "sync" else works_async)
    assert len([verb for verb, _ in desk.asked if verb == "extend"]) >= 2


async def test_heartbeats_hold_a_lease_for_longer_than_it_lasts(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.ttl = 1

    def works(lease: Any) -> int:
        assert not lease.lost.wait(1.5)
        lease.check()
        return 1

    async def works_async(lease: Any) -> int:
        await asyncio.sleep(1.5)
        lease.check()
        return 1

    assert (await run_fn(flavour, tool, works if flavour == "sync" else works_async)).ok
    extended = [body for verb, body in desk.asked if verb == "extend"]
    assert len(extended) >= 3
    assert extended[0] == {"key": "k", "lease_id": "l1", "ttl": 1}


async def test_a_lease_that_somebody_took_meanwhile_is_told_with_the_result(
    flavour: str, tool: Tool, desk: Desk
) -> None:
    desk.answers = {"complete": NOT_HELD}
    with pytest.raises(LeaseLostError) as raised:
        await run_fn(flavour, tool, lambda: "mine")
    assert raised.value.result == "mine"
    assert desk.verbs() == ["lease", "complete"]


async def test_a_result_that_could_not_be_recorded_is_not_lost(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.answers = {"complete": BROKEN}
    with pytest.raises(NotRecordedError) as raised:
        await run_fn(flavour, tool, lambda: "mine")
    assert raised.value.result == "mine"
    assert "fail" not in desk.verbs()


@pytest.mark.parametrize("too_much", [False, True])
async def test_a_result_that_never_can_be_recorded_is_not_worked_out_again(
    flavour: str, tool: Tool, desk: Desk, *, too_much: bool
) -> None:
    desk.answers = {"complete": says(413, detail="over 1 MiB")}
    result = {"a": 1} if too_much else object()
    with pytest.raises(NotRecordedError) as raised:
        await run_fn(flavour, tool, lambda: result)
    assert raised.value.result is result
    assert desk.body("fail")["error_code"] == "result_not_recordable"


async def test_where_nobody_can_be_asked_it_runs_only_if_told_to(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.answers = {"lease": BROKEN}
    with pytest.raises(Exception, match="503"):
        await run_fn(flavour, tool, lambda: pytest.fail("ran"))
    done = await run_fn(flavour, tool, lambda lease: lease.guarded, {"fail_open": True})
    assert (done.value, done.executed, done.failed_open) == (False, True, True)
    assert set(desk.verbs()) == {"lease"}


async def test_a_refusal_never_fails_open(flavour: str, tool: Tool, desk: Desk) -> None:
    for status in (401, 402, 403, 422):
        desk.answers = {"lease": says(status, detail={"error": "no"})}
        with pytest.raises(Exception, match=str(status)):
            await run_fn(flavour, tool, lambda: pytest.fail("ran"), {"fail_open": True})


async def test_decorated_functions_run_once_for_equal_arguments(flavour: str, tool: Tool, desk: Desk) -> None:
    seen: dict[str, str] = {}

    def leased(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status = "completed" if body["key"] in seen else "acquired"
        seen[body["key"]] = status
        return 200, {"status": status, "lease_id": "l1", "key": body["key"]}

    desk.answers = {"lease": leased, "result": says(status="completed", result={"value": 3})}
    ran = []

    def decorated(client: Any) -> Any:
        if flavour == "sync":

            @idempotent_ai(client)
            def add(a: int, b: int = 2, lease: Any = None) -> int:
                ran.append((a, b, lease.key))
                return a + b

            return [add(1), add(a=1, b=2), add(2, 1)]

        @idempotent_ai(client)
        async def add_async(a: int, b: int = 2, lease: Any = None) -> int:
            ran.append((a, b, lease.key))
            return a + b

        async def all_of_them() -> list[Any]:
            return [await add_async(1), await add_async(a=1, b=2), await add_async(2, 1)]

        return all_of_them()

    results = await ask(flavour, tool, decorated)
    assert [result.value for result in results] == [3, 3, 3]
    assert [result.executed for result in results] == [True, False, True]
    assert [(a, b) for a, b, _ in ran] == [(1, 2), (2, 1)]
    assert len(seen) == 2


async def test_locked_functions_run_for_the_first_of_equal_calls(flavour: str, tool: Tool, desk: Desk) -> None:
    turns = iter(["locked", "duplicate", "duplicate"])
    desk.answers = {"check-lock": lambda _: (200, {"status": next(turns)})}

    def decorated(client: Any) -> Any:
        if flavour == "sync":
            first = idempotent(client, key=lambda order: f"o-{order}", prefix="p")(lambda order: order)
            return [first(7), first(7)]

        @idempotent(client, key=lambda order: f"o-{order}", prefix="p")
        async def only_first(order: int) -> int:
            return order

        async def all_of_them() -> list[Any]:
            return [await only_first(7), await only_first(7)]

        return all_of_them()

    assert await ask(flavour, tool, decorated) == [7, None]
    assert {body["key"] for _, body in desk.asked} == {"p:o-7"}


async def test_an_argument_without_a_form_stops_a_call_before_it_is_asked_about(
    flavour: str, tool: Tool, desk: Desk
) -> None:
    def decorated(client: Any) -> Any:
        if flavour == "sync":
            return idempotent(client)(print)(object())

        @idempotent(client)
        async def show(thing: object) -> None: ...

        return show(object())

    with pytest.raises((UnusableArgumentError, ValueError)):
        await ask(flavour, tool, decorated)
    assert not desk.asked


async def test_a_function_and_its_client_must_go_together(flavour: str) -> None:
    async def waits() -> None: ...

    def does() -> None: ...

    if flavour == "sync":
        with Interlock(KEY) as client, pytest.raises(TypeError, match="needs an AsyncInterlock"):
            idempotent_ai(client)(waits)
    else:
        async with AsyncInterlock(KEY) as async_client:
            with pytest.raises(TypeError, match="needs an Interlock"):
                idempotent(async_client)(does)  # type: ignore[arg-type]


async def test_a_run_that_nobody_would_execute_is_given_back(flavour: str, tool: Tool, desk: Desk) -> None:
    desk.answers = {"run": says(status="acquired", lease_id="l9")}
    with pytest.raises(Exception, match="no actions"):
        await ask(flavour, tool, lambda client: client.run_and_wait("k"))
    assert desk.verbs() == ["run", "cancel"]
    assert desk.body("cancel")["lease_id"] == "l9"


async def test_a_run_is_told_all_that_it_needs(flavour: str, tool: Tool, desk: Desk) -> None:
    from interlock.client import Action

    desk.answers = {"run": says(status="acquired", lease_id=None), "result": says(status="completed", result={})}
    actions = [Action("t", {"x": 1}), Action("u", spend_usd=0.5)]
    done = await ask(
        flavour,
        tool,
        lambda client: client.run_and_wait("k", actions=actions, agent_id="a", run_id="r", metadata={"why": "w"}),
    )
    assert done.ok
    assert desk.body("run")["metadata"] == {
        "why": "w",
        "agent_id": "a",
        "run_id": "r",
        "actions": [{"tool": "t", "args": {"x": 1}}, {"tool": "u", "args": {}, "spend_usd": 0.5}],
    }
    assert json.dumps(desk.body("run"))
