"""Tools that must not be registered, or not be called where they lead; and keys that make no sense."""

from typing import Any

import pytest

from tests.acceptance.evidence import no_trace
from tests.acceptance.scene import Scene
from tests.tool import Tool

SECRET = "a secret of the tool"


async def places(scene: Scene, path: str, body: object) -> list[str]:
    """Where each invalid value of a refused body stands. None of it may be a secret's."""
    refused = await scene.operator.post(scene.first.url + path, json=body)
    assert refused.status_code == 422, refused.text
    assert SECRET not in refused.text
    return [".".join(map(str, problem["loc"])) for problem in refused.json()["detail"]]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "charge",
        "/charge",
        "//tool.example/charge",
        "ftp://tool.example/charge",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "unix:///run/tool.sock",
        "http://",
        "http:///charge",
        "http://tool.example:0/",
        "http://tool.example:99999/",
        "http://tool.example:x/",
        "http://user:password@tool.example/",
        "http://tool.example/#part",
        "http://tool example/",
        "http://tool.example/\r\nX-Evil: 1",
        "http://tool.example/\x00",
        "http://t\u00f6\u00f6l.example/",
        "http://169.254.169.254/latest/meta-data/",
        "http://169.254.0.1/",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://169.254.43518/",
        "http://metadata.google.internal/",
        "http://METADATA.google.internal./",
        "http://100.100.100.200/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0/",
        "http://0/",
        "http://[::]/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
    ],
    ids=ascii,
)
async def test_a_url_that_no_tool_may_have_is_refused(scene: Scene, tool: Tool, url: str) -> None:
    async with no_trace(scene, tool):
        assert await places(scene, "/v1/tools", {"name": "charge", "url": url}) == ["body.url"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST.", "tool.localhost", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]"]
)
async def test_a_url_that_leads_back_into_the_sidecar_is_refused(scene: Scene, tool: Tool, host: str) -> None:
    async with no_trace(scene, tool):
        for port in (scene.first.port, scene.first.admin_port):
            url = f"http://{host}:{port}/v1/tools"
            assert await places(scene, "/v1/tools", {"name": "charge", "url": url}) == ["body.url"], url


async def test_a_tool_that_leads_back_into_the_sidecar_that_calls_it_is_not_called_and_costs_nothing(
    scene: Scene,
) -> None:
    """Another sidecar cannot know: it is the one that calls who looks."""
    await scene.policy(pricing_rules=[{"tool": "*", "price_usd": 1}])
    target = f"http://localhost:{scene.second.port}/v1/agents/{scene.agent}/disable"
    name = await scene.register(target)
    answer = await scene.call(name, {}, at=scene.second)
    assert (answer.status, answer.json["reason"], answer.decision) == (502, "destination_refused", "error")
    run = await scene.run(name, {"order": 1}, at=scene.second)
    assert (run.json["ok"], run.json["policy_reason"], run.json["result"]["error"]) == (
        *(False, "tool_error"),
        "destination_refused",
    )
    assert (await scene.ask("GET", f"/v1/agents/{scene.agent}"))["is_enabled"]
    assert [event["verdict"] for event in await scene.events("settlement")] == ["NOT_SENT"] * 2
    assert await scene.charged() == (0, 0)


def injecting(header: str, value: str) -> dict[str, Any]:
    return {"upstream_credential": {"header": header, "value": value}}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"name": "a}b"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a|b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"name": "a" * 129}, "name"),
        ({"scope_id": "agent:a}b"}, "scope_id"),
        ({"scope_id": "agent:"}, "scope_id"),
        ({"scope_id": "everyone"}, "scope_id"),
        ({"methods": []}, "methods"),
        ({"methods": ["POST\r\nX-Evil: 1"]}, "methods.0"),
        ({"methods": ["CONNECT"]}, "methods.0"),
        ({"timeout_ms": 249}, "timeout_ms"),
        ({"timeout_ms": 120_001}, "timeout_ms"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 11}, "max_retries"),
        ({"replay_max_bytes": 1_048_577}, "replay_max_bytes"),
        ({"dedup": {"mode": "sometimes"}}, "dedup.mode"),
        ({"dedup": {"ttl_s": 0}}, "dedup.ttl_s"),
        ({"on_ambiguous": "maybe"}, "on_ambiguous"),
        ({"description": "d" * 513}, "description"),
        ({"timeout": 15}, "timeout"),
        ({"auth": {"type": "hmac_sha256", "secret": "short"}}, "auth.secret"),
        ({"auth": {"type": "hmac_md5", "secret": SECRET}}, "auth.type"),
        (injecting("X-Api-Key\r\nX-Evil", SECRET), "upstream_credential.header"),
        (injecting("X Api Key", SECRET), "upstream_credential.header"),
        (injecting("Host", SECRET), "upstream_credential.header"),
        (injecting("Content-Length", SECRET), "upstream_credential.header"),
        (injecting("Transfer-Encoding", SECRET), "upstream_credential.header"),
        (injecting("Interlock-Agent", SECRET), "upstream_credential.header"),
        (injecting("Webhook_Signature", SECRET), "upstream_credential.header"),
        (injecting("Idempotency-Key", SECRET), "upstream_credential.header"),
        (injecting("X-Api-Key", f"{SECRET}\r\nX-Evil: 1"), "upstream_credential.value"),
        (injecting("X-Api-Key", f"{SECRET}\nX-Evil: 1"), "upstream_credential.value"),
        (injecting("X-Api-Key", f"{SECRET}\x00"), "upstream_credential.value"),
        (injecting("X-Api-Key", f" {SECRET}"), "upstream_credential.value"),
    ],
    ids=lambda value: ascii(value)[:60],
)
async def test_a_tool_that_makes_no_sense_is_refused(
    scene: Scene, tool: Tool, fields: dict[str, Any], place: str
) -> None:
    async with no_trace(scene, tool):
        body = {"name": "charge", "url": "http://tool.example/", **fields}
        assert await places(scene, "/v1/tools", body) == [f"body.{place}"]


@pytest.mark.parametrize("name", ["a%7Db", "a%20b", "a%0d%0aX-Evil:%201", "%C3%A4", "a" * 129, "a%2fb", "%2e%2e"])
async def test_a_tool_in_a_path_whose_name_is_none_is_refused(scene: Scene, tool: Tool, name: str) -> None:
    async with no_trace(scene, tool):
        for method in ("GET", "DELETE"):
            answer = await scene.operator.request(method, f"{scene.first.url}/v1/tools/{name}")
            assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"role": "root"}, "role"),
        ({"role": "agent", "agent_id": "a}b"}, "agent_id"),
        ({"role": "agent"}, "agent_id"),
        ({"role": "viewer", "agent_id": "a"}, "agent_id"),
        ({"role": "viewer", "label": "l" * 129}, "label"),
        ({"role": "viewer", "namespace": "other"}, "namespace"),
    ],
    ids=str,
)
async def test_a_key_that_makes_no_sense_is_refused(scene: Scene, tool: Tool, body: dict[str, Any], place: str) -> None:
    async with no_trace(scene, tool):
        assert await places(scene, "/v1/keys", body) == [f"body.{place}"]
