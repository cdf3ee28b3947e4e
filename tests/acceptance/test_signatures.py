"""A tool verifies who called it, with what it has: a plain HMAC, Standard Webhooks or HTTP Message Signatures."""

import base64
import hmac
import json
from types import SimpleNamespace
from typing import Any

import pytest
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, MappingKeyResolver
from http_message_signatures.algorithms import HMAC_SHA256
from standardwebhooks import Webhook, WebhookVerificationError

from tests.acceptance.scene import Scene
from tests.acceptance.wire import Answer
from tests.tool import Received, Tool, answers

PLAIN = "correct horse battery"
ROTATED = "staple, and not a horse"
WHSEC = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ROTATED_WHSEC = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()
COVERED = (
    *("@method", "@target-uri", "content-digest", "idempotency-key"),
    *("interlock-agent", "interlock-call-id", "interlock-fence"),
)

rotations = pytest.mark.parametrize(
    ("old", "new"), [(PLAIN, ROTATED), (WHSEC, ROTATED_WHSEC), (PLAIN, WHSEC)], ids=["text", "whsec", "to whsec"]
)
entrances = pytest.mark.parametrize("entrance", ["tools", "run"])


async def through(entrance: str, scene: Scene, name: str, **how: Any) -> Answer:
    if entrance == "tools":
        return await scene.call(name, {"order": 17, "note": "ü"}, below="?draft=1&x=%20", **how)
    return await scene.run(name, {"order": 17, "note": "ü", "run_id": "run-7"}, **how)


def key_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()


def verify_plain(received: Received, secret: str, field: str = "X-OnceOnly-Signature") -> None:
    """As the back ends of today do it."""
    assert received.header("X-OnceOnly-Signature-Alg") == "hmac_sha256"
    assert received.header("X-OnceOnly-Timestamp") == received.header("webhook-timestamp")
    made = hmac.new(secret.encode(), received.body, "sha256").hexdigest()
    assert hmac.compare_digest(received.header(field) or "", made)


def verify_standard_webhooks(received: Received, secret: str) -> None:
    webhook = Webhook(secret if secret.startswith("whsec_") else secret.encode())
    assert webhook.verify(received.body, dict(received.headers)) == json.loads(received.body)


def verify_rfc9421(received: Received, secret: str, tag: str = "interlock") -> str:
    """The key id of the signature with that tag."""
    url = f"http://{received.header('Host')}{received.target}"
    request = SimpleNamespace(method=received.method, url=url, headers=dict(received.headers), body=received.body)
    ids = [parameter for parameter in (received.header("Signature-Input") or "").split('"') if parameter[:4] == "sec_"]
    resolver = MappingKeyResolver(public_keys=dict.fromkeys(ids, key_of(secret)), private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=HMAC_SHA256, key_resolver=resolver)
    (result,) = verifier.verify(request, expect_tag=tag, require_components=COVERED, body=received.body)
    return str(result.parameters["keyid"])


@entrances
@pytest.mark.parametrize("secret", [PLAIN, WHSEC], ids=["text", "whsec"])
async def test_a_tool_verifies_a_call_with_each_family(scene: Scene, tool: Tool, secret: str, entrance: str) -> None:
    name = await scene.register(tool.url, auth={"type": "hmac_sha256", "secret": secret})
    answer = await through(entrance, scene, name)
    assert answer.status == 200
    (received,) = tool.received
    verify_plain(received, secret)
    verify_standard_webhooks(received, secret)
    assert verify_rfc9421(received, secret) == (await scene.ask("GET", f"/v1/tools/{name}"))["secret_id"]
    assert received.header("webhook-id") == received.header("Idempotency-Key")
    assert received.header("Interlock-Agent") == scene.agent
    assert received.header("Interlock-Call-Id") == answer.header("Interlock-Call-Id")
    assert received.header("X-OnceOnly-Signature-Previous") is None


@entrances
async def test_each_family_finds_another_secret_and_a_changed_body(scene: Scene, tool: Tool, entrance: str) -> None:
    name = await scene.register(tool.url, auth={"secret": PLAIN})
    await through(entrance, scene, name)
    (received,) = tool.received
    changed = Received(received.method, received.target, received.headers, received.body.replace(b"17", b"71"))
    for wrong, secret in ((received, ROTATED), (changed, PLAIN)):
        with pytest.raises(AssertionError):
            verify_plain(wrong, secret)
        with pytest.raises(WebhookVerificationError):
            verify_standard_webhooks(wrong, secret)
        with pytest.raises(InvalidSignature):
            verify_rfc9421(wrong, secret)


async def test_a_run_tells_its_tool_what_the_contract_says(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, auth={"secret": PLAIN})
    await through("run", scene, name)
    (received,) = tool.received
    assert (received.method, received.header("Content-Type")) == ("POST", "application/json")
    assert json.loads(received.body) == {
        "tool": name,
        "args": {"order": 17, "note": "ü", "run_id": "run-7"},
        "agent_id": scene.agent,
        "run_id": "run-7",
        "call_id": received.header("Interlock-Call-Id"),
        "idempotency_key": received.header("Idempotency-Key"),
    }


@entrances
@rotations
async def test_while_a_secret_is_rotated_the_old_one_still_verifies(
    scene: Scene, tool: Tool, old: str, new: str, entrance: str
) -> None:
    name = await scene.register(tool.url, auth={"secret": old}, dedup={"mode": "off"})
    for at in scene.both:
        await through(entrance, scene, name, at=at)
    old_id = verify_rfc9421(tool.received[0], old)

    await scene.register(tool.url, name=name, auth={"secret": new}, dedup={"mode": "off"})
    for at in scene.both:
        await through(entrance, scene, name, at=at)
    for received in tool.received[2:]:
        verify_plain(received, new)
        verify_plain(received, old, "X-OnceOnly-Signature-Previous")
        for secret in (old, new):
            verify_standard_webhooks(received, secret)
        assert len((received.header("webhook-signature") or "").split(" ")) == 2
        new_id = verify_rfc9421(received, new)
        assert verify_rfc9421(received, old, "interlock-previous") == f"{new_id}-previous"
        assert new_id != old_id
        assert [label in (received.header("Signature") or "") for label in ("sig1=:", "sig2=:")] == [True, True]


async def test_a_rotation_without_grace_ends_the_old_secret_at_once(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, auth={"secret": PLAIN})
    await scene.register(tool.url, name=name, auth={"secret": ROTATED, "grace_s": 0})
    await through("tools", scene, name, at=scene.second)
    (received,) = tool.received
    verify_plain(received, ROTATED)
    assert received.header("X-OnceOnly-Signature-Previous") is None
    with pytest.raises(WebhookVerificationError):
        verify_standard_webhooks(received, PLAIN)


async def test_a_tool_replaced_without_a_secret_keeps_its_own(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url, auth={"secret": PLAIN})
    await scene.register(tool.url, name=name, description="the same tool")
    await through("tools", scene, name)
    verify_standard_webhooks(tool.received[0], PLAIN)


async def test_each_try_is_signed_anew_under_one_id(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.does(answers(500), answers(500), answers()).url, auth={"secret": PLAIN})
    await through("tools", scene, name)
    for received in tool.received:
        verify_plain(received, PLAIN)
        verify_standard_webhooks(received, PLAIN)
        verify_rfc9421(received, PLAIN)
    assert len(tool.received) == 3
    assert len({received.header("webhook-id") for received in tool.received}) == 1


async def test_a_tool_without_a_secret_is_told_the_call_and_no_signature(scene: Scene, tool: Tool) -> None:
    forged = {"X-OnceOnly-Signature": "00", "webhook-signature": "v1,AA==", "Signature": "sig1=:AA==:"}
    await through("tools", scene, await scene.register(tool.url), headers=forged)
    (received,) = tool.received
    assert received.header("Interlock-Agent") == scene.agent
    for field in (*forged, "webhook-id", "Signature-Input", "Content-Digest"):
        assert received.header(field) is None
