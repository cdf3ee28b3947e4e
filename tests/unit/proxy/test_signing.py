import base64
import hmac
import time
from types import SimpleNamespace
from typing import Any

import pytest
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, MappingKeyResolver
from http_message_signatures.algorithms import HMAC_SHA256
from standardwebhooks import Webhook, WebhookVerificationError

from interlock.proxy.signing import Outgoing, signed_headers

PLAIN = "correct horse"
WHSEC = "whsec_" + base64.b64encode(bytes(range(25))).decode()
WHSEC_KEY = bytes(range(25))
KEY_IDS = ("sec_1", "sec_1-previous", "sec_1-previous-2")

COVERED = (
    *("@method", "@target-uri", "content-digest", "idempotency-key"),
    *("interlock-agent", "interlock-call-id", "interlock-fence"),
)


def outgoing(**changes: Any) -> Outgoing:
    call: dict[str, Any] = {
        "method": "POST",
        "url": "http://tool.example:9000/charge?card=1%2F2",
        "body": b'{"amount": 5}',
        "agent_id": "billing-bot",
        "call_id": "call_1",
        "key": "ab" * 32,
        "fence": 7,
    }
    return Outgoing(**call | changes)


def received(out: Outgoing, *secrets: str, **changes: Any) -> Any:
    """The request as a verifier takes it."""
    headers = dict(signed_headers(out, secrets, "sec_1", int(time.time())))
    return SimpleNamespace(**{"method": out.method, "url": out.url, "headers": headers, "body": out.body} | changes)


def verify_rfc9421(request: Any, key: bytes, tag: str = "interlock") -> str:
    """The key id of the one signature with that tag, if it holds under `key`."""
    resolver = MappingKeyResolver(public_keys=dict.fromkeys(KEY_IDS, key), private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=HMAC_SHA256, key_resolver=resolver)
    (result,) = verifier.verify(request, expect_tag=tag, require_components=COVERED, body=request.body)
    return str(result.parameters["keyid"])


def test_a_call_without_secrets_is_named_but_not_signed() -> None:
    assert signed_headers(outgoing(), [], "", 0) == [
        ("Idempotency-Key", "ab" * 32),
        ("Interlock-Agent", "billing-bot"),
        ("Interlock-Call-Id", "call_1"),
        ("Interlock-Fence", "7"),
    ]


def test_existing_tools_verify_the_plain_hmac_of_the_body() -> None:
    headers = dict(signed_headers(outgoing(), [PLAIN], "sec_1", 1_800_000_000))
    assert headers["X-OnceOnly-Signature"] == hmac.new(PLAIN.encode(), b'{"amount": 5}', "sha256").hexdigest()
    assert headers["X-OnceOnly-Signature-Alg"] == "hmac_sha256"
    assert headers["X-OnceOnly-Timestamp"] == "1800000000"
    assert "X-OnceOnly-Signature-Previous" not in headers


def test_the_plain_hmac_covers_every_byte_of_a_binary_body() -> None:
    headers = received(outgoing(body=b"\x00\xff"), PLAIN).headers
    assert headers["X-OnceOnly-Signature"] == hmac.new(PLAIN.encode(), b"\x00\xff", "sha256").hexdigest()


@pytest.mark.parametrize("secret", [WHSEC, WHSEC.rstrip("=")])
def test_standard_webhooks_verifies_a_whsec_secret(secret: str) -> None:
    request = received(outgoing(), secret)
    assert Webhook(secret).verify(request.body, request.headers) == {"amount": 5}
    assert request.headers["webhook-id"] == request.headers["Idempotency-Key"]


@pytest.mark.parametrize("secret", [PLAIN, "whsec_not base64", "whsec_===="])
def test_standard_webhooks_verifies_any_other_secret_by_its_bytes(secret: str) -> None:
    request = received(outgoing(), secret)
    Webhook(secret.encode()).verify(request.body, request.headers)


def test_standard_webhooks_finds_a_changed_body_or_id() -> None:
    request = received(outgoing(), WHSEC)
    for body, changed in ((b'{"amount": 6}', {}), (request.body, {"webhook-id": "other"})):
        with pytest.raises(WebhookVerificationError):
            Webhook(WHSEC).verify(body, request.headers | changed)


@pytest.mark.parametrize(("secret", "key"), [(PLAIN, PLAIN.encode()), (WHSEC, WHSEC_KEY)])
def test_rfc9421_verifies_and_names_the_key(secret: str, key: bytes) -> None:
    assert verify_rfc9421(received(outgoing(), secret), key) == "sec_1"


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "PUT"},
        {"url": "http://tool.example:9000/charge?card=1%2F3"},
        {"url": "http://other.example:9000/charge?card=1%2F2"},
        {"url": "https://tool.example:9000/charge?card=1%2F2"},
        {"body": b'{"amount": 6}'},
    ],
)
def test_rfc9421_finds_a_changed_request(changed: dict[str, Any]) -> None:
    request = received(outgoing(), PLAIN, **changed)
    with pytest.raises(InvalidSignature):
        verify_rfc9421(request, PLAIN.encode())


@pytest.mark.parametrize(
    "name", ["Interlock-Agent", "Interlock-Call-Id", "Interlock-Fence", "Idempotency-Key", "Content-Digest"]
)
def test_rfc9421_finds_a_changed_header(name: str) -> None:
    request = received(outgoing(), PLAIN)
    request.headers[name] += "0"
    with pytest.raises(InvalidSignature):
        verify_rfc9421(request, PLAIN.encode())


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("http://tool.example", "http://tool.example/"),
        ("http://tool.example?x=1", "http://tool.example/?x=1"),
        ("https://tool.example:443/a", "https://tool.example/a"),
        ("http://tool.example/a?", "http://tool.example/a"),
        ("http://[::1]:9000/a%2fb/../c", "http://[::1]:9000/a%2fb/../c"),
    ],
)
def test_rfc9421_covers_the_url_as_the_tool_sees_it(sent: str, seen: str) -> None:
    verify_rfc9421(received(outgoing(url=sent), PLAIN, url=seen), PLAIN.encode())


def test_a_get_without_a_body_is_signed_as_well() -> None:
    request = received(outgoing(method="GET", body=b""), WHSEC)
    verify_rfc9421(request, WHSEC_KEY)
    Webhook(WHSEC).verify(b"", request.headers, json_parse=False)
    assert request.headers["X-OnceOnly-Signature"] == hmac.new(WHSEC.encode(), b"", "sha256").hexdigest()


def test_during_a_rotation_a_tool_that_knows_either_secret_verifies() -> None:
    request = received(outgoing(), WHSEC, PLAIN)
    Webhook(WHSEC).verify(request.body, request.headers)
    Webhook(PLAIN.encode()).verify(request.body, request.headers)
    assert verify_rfc9421(request, WHSEC_KEY) == "sec_1"
    assert verify_rfc9421(request, PLAIN.encode(), tag="interlock-previous") == "sec_1-previous"
    assert request.headers["X-OnceOnly-Signature"] == hmac.new(WHSEC.encode(), request.body, "sha256").hexdigest()
    assert (
        request.headers["X-OnceOnly-Signature-Previous"] == hmac.new(PLAIN.encode(), request.body, "sha256").hexdigest()
    )


def test_a_secret_that_is_out_of_rotation_verifies_nothing() -> None:
    request = received(outgoing(), WHSEC, "another secret")
    with pytest.raises(WebhookVerificationError):
        Webhook(PLAIN.encode()).verify(request.body, request.headers)
    for tag in ("interlock", "interlock-previous"):
        with pytest.raises(InvalidSignature):
            verify_rfc9421(request, PLAIN.encode(), tag)


def test_three_secrets_in_rotation_have_three_signatures_each_with_its_own_key_id() -> None:
    request = received(outgoing(), "current 1", "previous 1", "previous 2")
    assert verify_rfc9421(request, b"previous 2", tag="interlock-previous-2") == "sec_1-previous-2"
    assert len(request.headers["webhook-signature"].split()) == 3


def test_no_field_is_sent_twice_and_no_secret_at_all() -> None:
    headers = signed_headers(outgoing(), [PLAIN, WHSEC], "sec_1", int(time.time()))
    assert len({name.lower() for name, _ in headers}) == len(headers)
    assert PLAIN not in str(headers)
    assert WHSEC.removeprefix("whsec_") not in str(headers)


@pytest.mark.parametrize("length", [1, 31, 32, 63, 64, 65, 128, 500])
def test_a_secret_of_any_length_signs_as_the_standard_library_has_it(length: int) -> None:
    secret = "s" * length
    for body in (b"", b"x" * 63, b"x" * 64, bytes(range(256)) * 40):  # twice: what is prepared must not be used up
        headers = received(outgoing(body=body), secret).headers
        assert headers["X-OnceOnly-Signature"] == hmac.new(secret.encode(), body, "sha256").hexdigest()
