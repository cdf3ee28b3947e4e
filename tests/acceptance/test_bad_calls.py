"""Calls of `/tools` that make no sense: each is told what is wrong with it, and leaves no trace."""

import pytest

from tests.acceptance.evidence import no_trace
from tests.acceptance.scene import JSON, Scene
from tests.acceptance.wire import Answer, send
from tests.tool import Tool


async def sent(scene: Scene, target: str, *fields: tuple[str, str], body: bytes = b"", method: str = "POST") -> Answer:
    """A request of the agent with these fields beside, byte for byte."""
    whose = (("Authorization", f"Bearer {scene.first.key}"), ("Interlock-Agent", scene.agent))
    return await send(scene.first.port, method, target, (*whose, *fields), body)


def refused(answer: Answer, status: int, reason: str) -> bool:
    """Whether it is a problem document with that reason, and says so everywhere that it should."""
    problem = answer.json
    told = (answer.status, problem["status"], problem["reason"], answer.header("Content-Type"), answer.decision)
    assert told == (status, status, reason, "application/problem+json", "error"), answer
    return bool(problem["title"] and problem["detail"])


async def test_a_good_call_does_leave_a_trace(scene: Scene, tool: Tool) -> None:
    """So that what follows is seen to be able to fail."""
    name = await scene.register(tool.url)
    with pytest.raises(AssertionError):
        async with no_trace(scene, tool):
            assert (await sent(scene, f"/tools/{name}")).status == 200


@pytest.mark.parametrize(
    ("below", "status", "reason"),
    [
        ("nobody", 404, "tool_not_found"),
        ("nobody/below", 404, "tool_not_found"),
        ("", 400, "invalid_path"),
        ("/charge", 400, "invalid_path"),
        (".", 400, "invalid_path"),
        ("..", 400, "invalid_path"),
        ("../v1/tools", 400, "invalid_path"),
        ("%2e%2e", 400, "invalid_path"),
        ("..;x", 400, "invalid_path"),
        ("a%2fb", 400, "invalid_path"),
        ("a%2Fb", 400, "invalid_path"),
        ("a%5cb", 400, "invalid_path"),
        ("a\\b", 400, "invalid_path"),
        ("%252e%252e", 400, "invalid_path"),
        ("a%00b", 400, "invalid_path"),
        ("a%0d%0aX-Evil:%201", 400, "invalid_path"),
        ("a%7fb", 400, "invalid_path"),
        ("a\x01b", 400, "malformed_request"),
        ("a\x00b", 400, "malformed_request"),
        ("a\rb", 400, "malformed_request"),
        ("a\x7fb", 400, "malformed_request"),
        ("a b", 400, "malformed_request"),
        ("a}b", 400, "invalid_path"),
        ("{a", 400, "invalid_path"),
        ("a|b", 400, "invalid_path"),
        ("a" * 129, 400, "invalid_path"),
        ("\u00c3\u00a4", 400, "malformed_request"),
        ("%C3%A4", 400, "invalid_path"),
        ("a#b", 400, "invalid_path"),
    ],
)
async def test_what_names_no_tool_is_refused(scene: Scene, tool: Tool, below: str, status: int, reason: str) -> None:
    async with no_trace(scene, tool):
        assert refused(await sent(scene, f"/tools/{below}"), status, reason)


@pytest.mark.parametrize(
    ("below", "reason"),
    [
        ("/..", "invalid_path"),
        ("/a/../../b", "invalid_path"),
        ("/%2e%2e/b", "invalid_path"),
        ("/.%2E", "invalid_path"),
        ("/..;/b", "invalid_path"),
        ("/a%2f..%2fb", "invalid_path"),
        ("/a%5c..%5cb", "invalid_path"),
        ("/a%00", "invalid_path"),
        ("/a\x1fb", "malformed_request"),
    ],
)
async def test_no_path_leads_out_of_a_tool(scene: Scene, tool: Tool, below: str, reason: str) -> None:
    name = await scene.register(tool.url, subpaths=True)
    async with no_trace(scene, tool):
        assert refused(await sent(scene, f"/tools/{name}{below}"), 400, reason)


async def test_a_tool_takes_only_its_own_path_and_methods(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        assert refused(await sent(scene, f"/tools/{name}/below"), 404, "subpath_not_allowed")
        answer = await sent(scene, f"/tools/{name}", method="DELETE")
        assert refused(answer, 405, "method_not_allowed")
        assert answer.header("Allow") == "POST"


async def test_a_disabled_tool_is_refused_by_policy_and_costs_nothing(scene: Scene, tool: Tool) -> None:
    await scene.policy(pricing_rules=[{"tool": "*", "price_usd": 1}])
    name = await scene.register(tool.url, enabled=False)
    answer = await scene.call(name, {"order": 1})
    assert (answer.status, answer.decision, answer.json["reason"]) == (403, "blocked", "tool_disabled")
    assert [(event["type"], event["verdict"]) for event in (await scene.events())[-1:]] == [("decision", "BLOCKED")]
    assert await scene.charged() == (0, 0)
    assert tool.received == []


@pytest.mark.parametrize(
    "body",
    [
        b"order 17",
        b"{'order': 17}",
        b'{"order": 17,}',
        b"{} {}",
        b'{"order": NaN}',
        b'{"order": -Infinity}',
        b'{"order": 1e999}',
        b'{"order": ' + b"1" * 5000 + b"}",
        b'{"order": 17, "order": 18}',
        b'{"a": {"order": 17, "\\u006frder": 18}}',
        b"[" * 200 + b"]" * 200,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b"[" * 200_000,
        b'{"order": "\xff"}',
        b'{"order": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        '{"order": 17}'.encode("utf-16"),
    ],
    ids=lambda body: ascii(body[:24]),
)
async def test_what_is_called_json_and_is_none_is_refused(scene: Scene, tool: Tool, body: bytes) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for content_type in ("application/json", "Application/Vnd.Order+JSON; charset=utf-8"):
            answer = await sent(scene, f"/tools/{name}", ("Content-Type", content_type), body=body)
            assert refused(answer, 400, "invalid_json")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("Idempotency-Key", "k" * 257, "invalid_idempotency_key"),
        ("Idempotency-Key", '"' + "k" * 257 + '"', "invalid_idempotency_key"),
        ("Idempotency-Key", "\u00c3\u00a9" * 129, "invalid_idempotency_key"),
        ("Idempotency-Key", "", "invalid_idempotency_key"),
        ("Idempotency-Key", '""', "invalid_idempotency_key"),
        ("Idempotency-Key", '"open', "invalid_idempotency_key"),
        ("Idempotency-Key", '"one"two', "invalid_idempotency_key"),
        ("Idempotency-Key", "\u00ff", "invalid_header"),
        ("Interlock-Spend-Usd", "-1", "invalid_spend"),
        ("Interlock-Spend-Usd", "-0.000001", "invalid_spend"),
        ("Interlock-Spend-Usd", "NaN", "invalid_spend"),
        ("Interlock-Spend-Usd", "sNaN", "invalid_spend"),
        ("Interlock-Spend-Usd", "Infinity", "invalid_spend"),
        ("Interlock-Spend-Usd", "1000000.01", "invalid_spend"),
        ("Interlock-Spend-Usd", "1e99", "invalid_spend"),
        ("Interlock-Spend-Usd", "1e999999999", "invalid_spend"),
        ("Interlock-Spend-Usd", "9" * 5000, "invalid_spend"),
        ("Interlock-Spend-Usd", "1,50", "invalid_spend"),
        ("Interlock-Spend-Usd", "0x10", "invalid_spend"),
        ("Interlock-Spend-Usd", "1_0", "invalid_spend"),
        ("Interlock-Spend-Usd", "$5", "invalid_spend"),
        ("Interlock-Spend-Usd", "\u00d9\u00a1", "invalid_spend"),
        ("Interlock-Spend-Usd", "", "invalid_spend"),
        ("Interlock-Run-Id", "two words", "invalid_header"),
        ("Interlock-Run-Id", "r" * 257, "invalid_header"),
        ("Interlock-Run-Id", "", "invalid_header"),
    ],
    ids=lambda text: ascii(text[:24]),
)
async def test_a_header_that_makes_no_sense_is_refused(
    scene: Scene, tool: Tool, name: str, value: str, reason: str
) -> None:
    called = await scene.register(tool.url)
    async with no_trace(scene, tool):
        assert refused(await sent(scene, f"/tools/{called}", (name, value)), 400, reason)


@pytest.mark.parametrize("agent", ["a}b", "{a", "a b", "a/b", "a" * 129, "\u00c3\u00a4", "", "a,b"])
async def test_an_agent_whose_name_would_break_out_of_a_hash_tag_is_refused(
    scene: Scene, tool: Tool, agent: str
) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        fields = (("Authorization", f"Bearer {scene.first.key}"), ("Interlock-Agent", agent))
        answer = await send(scene.first.port, "POST", f"/tools/{name}", fields)
        assert refused(answer, 400, "invalid_header")


@pytest.mark.parametrize("name", ["Idempotency-Key", "Interlock-Spend-Usd", "Interlock-Run-Id"])
async def test_a_header_that_stands_twice_is_refused(scene: Scene, tool: Tool, name: str) -> None:
    called = await scene.register(tool.url)
    reasons = {"Idempotency-Key": "invalid_idempotency_key", "Interlock-Spend-Usd": "invalid_spend"}
    async with no_trace(scene, tool):
        answer = await sent(scene, f"/tools/{called}", (name, "1"), (name, "1"))
        assert refused(answer, 400, reasons.get(name, "invalid_header"))


READ = (
    *("Authorization", "Interlock-Agent", "Idempotency-Key", "Interlock-Spend-Usd", "Interlock-Run-Id", "Prefer"),
    *("Content-Type", "Host", "Origin", "X-Request-Id", "Connection", "Traceparent", "X-Passed-On"),
)


@pytest.mark.parametrize("broken", ["a\rInterlock-Agent: b", "a\nInterlock-Agent: b", "a\r\n b", "a\n\tb", "a\x00b"])
async def test_no_header_is_broken_out_of(scene: Scene, tool: Tool, broken: str) -> None:
    """With CR, LF, an obsolete line fold or NUL inside a value (RFC 9110 5.5, RFC 9112 5.2)."""
    called = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for name in READ:
            whose = {"Authorization": f"Bearer {scene.first.key}", "Interlock-Agent": scene.agent}
            fields = {**whose, **JSON, name: broken}
            answer = await send(scene.first.port, "POST", f"/tools/{called}", list(fields.items()))
            assert refused(answer, 400, "malformed_request"), name


async def test_what_can_be_read_in_two_ways_is_refused(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        for field in (
            ("Transfer-Encoding", "chunked"),
            ("Transfer-Encoding", "gzip, chunked"),
            ("Content-Length", "5"),
            ("Host", "localhost"),
            ("Content-Type", "text/plain"),
        ):
            answer = await sent(scene, f"/tools/{name}", *JSON.items(), field, body=b"{}")
            assert refused(answer, 400, "malformed_request"), field
