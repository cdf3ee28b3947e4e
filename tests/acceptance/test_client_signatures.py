"""A tool behind the client's ASGI middleware, called by a real sidecar, and by everybody else."""

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest

from interlock.client import Family, SignatureMiddleware, VerifiedCall, verify_signature
from tests.acceptance.scene import Scene
from tests.asgi_server import serving
from tests.tool import Tool

SECRET = "correct horse battery"
WHSEC = "whsec_" + base64.b64encode(bytes(range(32))).decode()
families = pytest.mark.parametrize("family", Family)


class BackEnd:
    """A tool as an ASGI app. It remembers the calls that reached it."""

    def __init__(self) -> None:
        self.calls: list[tuple[VerifiedCall, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.calls.append((scope["interlock.call"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"calls":%d}' % len(self.calls)})


@families
@pytest.mark.parametrize("secret", [SECRET, WHSEC], ids=["text", "whsec"])
async def test_calls_of_the_sidecar_reach_the_tool_and_nobody_elses(scene: Scene, family: Family, secret: str) -> None:
    tool = BackEnd()
    async with serving(SignatureMiddleware(tool, secret, family=family)) as url:
        name = await scene.register(f"{url}/charge", auth={"secret": secret}, methods=["GET", "POST"], subpaths=True)
        by_path = await scene.call(name, {"order": 17, "note": "ü"}, below="/a%20b/c?draft=1&x=%20")
        by_get = await scene.call(name, method="GET", below="?q=1")
        by_run = await scene.run(name, {"order": 18})
        assert [by_path.status, by_get.status, by_run.status] == [200, 200, 200]
        assert json.loads(by_run.body)["result"] == {"calls": 3}
        async with httpx.AsyncClient() as stranger:
            for unsigned in ({}, {"X-OnceOnly-Signature": "00", "Signature": "sig1=:AA==:"}):
                refused = await stranger.post(f"{url}/charge", json={"order": 19}, headers=unsigned)
                assert refused.status_code == 401
                assert refused.headers["Content-Type"] == "application/problem+json"
                assert refused.json()["reason"] in {"missing_signature", "malformed_signature", "invalid_signature"}
    (told, body), _, (of_run, _) = tool.calls
    assert json.loads(body) == {"order": 17, "note": "ü"}
    if family is Family.RFC_9421:
        assert told.agent_id == scene.agent
        assert told.call_id == by_path.header("Interlock-Call-Id")
        assert told.key_id == (await scene.ask("GET", f"/v1/tools/{name}"))["secret_id"]
    if family is not Family.PLAIN:
        assert of_run.key != told.key


async def test_while_a_secret_is_rotated_tools_with_either_serve(scene: Scene) -> None:
    before, after = BackEnd(), BackEnd()
    async with serving(SignatureMiddleware(before, SECRET)) as old, serving(SignatureMiddleware(after, WHSEC)) as new:
        for url in (old, new):
            name = await scene.register(url, auth={"secret": SECRET})
            await scene.register(url, name=name, auth={"secret": WHSEC})
            assert (await scene.call(name, {"url": url})).status == 200
    assert len(before.calls) == len(after.calls) == 1


@families
async def test_what_was_recorded_on_the_wire_cannot_be_changed_or_kept(
    scene: Scene, tool: Tool, family: Family
) -> None:
    name = await scene.register(tool.url, auth={"secret": SECRET})
    await scene.call(name, {"order": 17})
    (received,) = tool.received
    url = f"http://{received.header('Host')}{received.target}"
    signed: dict[str, Any] = {"method": received.method, "url": url, "family": family}
    genuine = verify_signature(SECRET, received.headers, received.body, **signed)
    assert genuine.timestamp is not None
    altered = [
        received.body[:at] + bytes([byte ^ 1]) + received.body[at + 1 :] for at, byte in enumerate(received.body)
    ]
    for body in (*altered, b"", received.body + b" "):
        with pytest.raises(Exception, match=r"signature|signed") as raised:
            verify_signature(SECRET, received.headers, body, **signed)
        assert type(raised.value).__name__ == "SignatureError"
    with pytest.raises(Exception, match="too long ago"):
        verify_signature(SECRET, received.headers, received.body, **signed, now=genuine.timestamp + 301)


async def test_a_body_over_the_limit_is_not_kept_in_memory(scene: Scene) -> None:
    tool = BackEnd()
    async with serving(SignatureMiddleware(tool, SECRET, max_body_bytes=1000)) as url:
        name = await scene.register(url, auth={"secret": SECRET})
        assert (await scene.call(name, b"x" * 1000)).status == 200
        assert (await scene.call(name, b"x" * 1001)).status == 413
    assert len(tool.calls) == 1


async def test_a_tool_behind_a_proxy_is_told_its_own_address(scene: Scene, tool: Tool) -> None:
    """The registered URL is the proxy's; it passes calls on under another host."""
    back_end = BackEnd()
    name = await scene.register(tool.url, auth={"secret": SECRET})
    await scene.call(name, {"order": 17}, below="?a=1")
    (received,) = tool.received
    origin = tool.url.removesuffix("/tool")
    fields = {key: value for key, value in received.headers if key.lower() not in {"host", "content-length"}}
    for told, status in ((origin, 200), (None, 401)):
        async with serving(SignatureMiddleware(back_end, SECRET, origin=told)) as url, httpx.AsyncClient() as proxy:
            answer = await proxy.post(url + received.target, content=received.body, headers=fields)
            assert answer.status_code == status
    assert len(back_end.calls) == 1


async def test_who_hangs_up_leaves_nothing_behind(scene: Scene) -> None:
    tool = BackEnd()
    async with serving(SignatureMiddleware(tool, SECRET)) as url:
        port = int(url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        name = await scene.register(url, auth={"secret": SECRET})
        assert (await scene.call(name, {"order": 1})).status == 200
    assert len(tool.calls) == 1
