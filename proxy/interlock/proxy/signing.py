"""The header fields that tell a tool who calls, which call it is, and that nobody has touched it on the way.

Three families of signature, so that a tool can verify with what it has: the plain HMAC that OnceOnly's tools know,
Standard Webhooks, and, as those two cover the body alone, HTTP Message Signatures (RFC 9421) over the rest as well.

The RFC 9421 signature base is written out here: the general signer of `http-message-signatures` takes half a
millisecond a call for a list of components that never changes. The tests verify with that library.
"""

import binascii
from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from yarl import URL

from interlock.governance.values import dataclass
from interlock.proxy.request_target import split_url

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

BLOCK = 64
"""Bytes of SHA-256's."""
_STANDARD_WEBHOOKS_PREFIX = "whsec_"
_COVERED = (
    '"@method" "@target-uri" "content-digest" "interlock-agent" "interlock-call-id" "interlock-fence" "idempotency-key"'
)
_COMPONENTS = "".join(f"{name}: {{}}\n" for name in _COVERED.split())
"""The lines of the signature base, in the order of the components that it covers."""
MAX_PREPARED = 1024


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One try of a call, as it will be sent. `key` and `call_id` are the same on each try; `fence` grows."""

    method: str
    url: str
    body: bytes
    agent_id: str
    call_id: str
    key: str
    fence: int


def signed_headers(out: Outgoing, secrets: Sequence[str], secret_id: str, now: int) -> list[tuple[str, str]]:
    """The fields to send beside the agent's own. Without secrets the call is named but not signed.

    `secrets` holds the current one first, then those still valid while it is being rotated; each signs, so a tool that
    knows any of them can verify. `secret_id` names the current one to the tool. `now` is in unix seconds.
    """
    named = [
        ("Idempotency-Key", out.key),
        ("Interlock-Agent", out.agent_id),
        ("Interlock-Call-Id", out.call_id),
        ("Interlock-Fence", str(out.fence)),
    ]
    if not secrets:
        return named
    keys = [_key(secret) for secret in secrets]
    signed = _plain(out, secrets, now) + _standard_webhooks(out, keys, now) + _rfc9421(out, keys, secret_id, now)
    return named + signed


def _plain(out: Outgoing, secrets: Sequence[str], now: int) -> list[tuple[str, str]]:
    """Hex HMAC-SHA256 of the body. One header holds one signature, so a rotation needs a second header."""
    signatures = [_hmac(secret.encode(), out.body).hex() for secret in secrets[:2]]
    names = ("X-OnceOnly-Signature", "X-OnceOnly-Signature-Previous")
    return [
        *zip(names, signatures, strict=False),
        ("X-OnceOnly-Signature-Alg", "hmac_sha256"),
        ("X-OnceOnly-Timestamp", str(now)),
    ]


def _standard_webhooks(out: Outgoing, keys: Sequence[bytes], now: int) -> list[tuple[str, str]]:
    """Standard Webhooks 1.0.0: `v1` signatures over `id.timestamp.body`, one a secret."""
    return _webhook(out.key, out.body, keys, now)


def webhook_headers(webhook_id: str, body: bytes, secrets: Sequence[str], now: int) -> list[tuple[str, str]]:
    """The same for what is no call: https://www.standardwebhooks.com. `now` is in unix seconds."""
    return _webhook(webhook_id, body, [_key(secret) for secret in secrets], now)


def _webhook(webhook_id: str, body: bytes, keys: Sequence[bytes], now: int) -> list[tuple[str, str]]:
    signed = f"{webhook_id}.{now}.".encode() + body
    return [
        ("webhook-id", webhook_id),
        ("webhook-timestamp", str(now)),
        ("webhook-signature", " ".join([f"v1,{_base64(_hmac(key, signed))}" for key in keys])),
    ]


def _rfc9421(out: Outgoing, keys: Sequence[bytes], secret_id: str, now: int) -> list[tuple[str, str]]:
    """RFC 9421 with `hmac-sha256`, one label and tag a secret; the body is covered by its RFC 9530 Content-Digest."""
    content_digest = f"sha-256=:{_base64(sha256(out.body).digest())}:"
    lines = _COMPONENTS.format(
        out.method, _target_uri(out.url), content_digest, out.agent_id, out.call_id, out.fence, out.key
    )
    inputs, signatures = [], []
    for number, key in enumerate(keys):
        rank = _rank(number)
        params = f'({_COVERED});created={now};keyid="{secret_id}{rank}";alg="hmac-sha256";tag="interlock{rank}"'
        base = f'{lines}"@signature-params": {params}'
        inputs.append(f"sig{number + 1}={params}")
        signatures.append(f"sig{number + 1}=:{_base64(_hmac(key, base.encode()))}:")
    return [
        ("Content-Digest", content_digest),
        ("Signature-Input", ", ".join(inputs)),
        ("Signature", ", ".join(signatures)),
    ]


def _rank(number: int) -> str:
    """What a secret in rotation adds to the current one's key id and tag: `-previous`, `-previous-2`, …"""
    return ("", "-previous")[number] if number < 2 else f"-previous-{number}"


def _target_uri(url: str) -> str:
    """The URL as the tool puts it together from its request line and Host: `/` for no path, no default port."""
    origin, target = split_url(url)
    return _origin(origin) + target


@lru_cache(MAX_PREPARED)
def _origin(origin: str) -> str:
    parts = URL(origin, encoded=True)
    return f"{parts.scheme}://{parts.host_port_subcomponent}"


@lru_cache(MAX_PREPARED)
def _key(secret: str) -> bytes:
    """A secret's bytes: a `whsec_` value is base64, as Standard Webhooks has it; any other counts as it is written."""
    encoded = secret.removeprefix(_STANDARD_WEBHOOKS_PREFIX)
    if encoded == secret:
        return secret.encode()
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        key = b""
    return key or secret.encode()


def _hmac(key: bytes, signed: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104), the key mixed in beforehand as its section 4 has it: half the work of a short message."""
    within, around = _mixed_in(key)
    inner, outer = within.copy(), around.copy()
    inner.update(signed)
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(MAX_PREPARED)
def _mixed_in(key: bytes) -> tuple["Hash", "Hash"]:
    block = (key if len(key) <= BLOCK else sha256(key).digest()).ljust(BLOCK, b"\0")
    return sha256(bytes(byte ^ 0x36 for byte in block)), sha256(bytes(byte ^ 0x5C for byte in block))


def _base64(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode()
