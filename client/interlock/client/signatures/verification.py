"""Is a call Interlock's? For people who write tool back ends: the three families of signature that a sidecar sends.

Name one family and hold every call to it: to take whichever family is there would let who forges drop the strong one.
`Family.RFC_9421` covers method, URL, body, time, agent, call, fence and key. Only the standard library is needed.
Nothing is decoded and then compared: what a sidecar would have sent is computed, and compared as text in constant time,
so no other spelling of a signature is taken for it.
"""

import binascii
import hashlib
import hmac
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from interlock.client.errors import SignatureError

MAX_AGE_S = 300.0
MAX_SIGNATURES = 4
"""Signatures on one call: one for each secret of a rotation."""

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class Family(Enum):
    """What a signature covers."""

    RFC_9421 = "rfc9421"
    """HTTP Message Signatures: method, URL, body, time, and who calls."""
    STANDARD_WEBHOOKS = "standard-webhooks"
    """The body, the time and the key, but neither method nor URL nor agent."""
    PLAIN = "plain"
    """The body alone: a call that was recorded can be sent again for ever, unless its key is remembered."""


@dataclass(frozen=True, slots=True)
class VerifiedCall:
    """What the signature proves; what it does not cover is None. `key` is the idempotency key, `timestamp` unix s."""

    family: Family
    key: str | None = None
    agent_id: str | None = None
    call_id: str | None = None
    fence: int | None = None
    timestamp: int | None = None
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it came. `url` is the one that was called, with scheme, host and query."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """Errors: SignatureError if it is missing."""
        value = self.headers.get(name)
        if value is None:
            raise SignatureError("missing_signature", f"the call has no {name}")
        return value


def verify_signature(
    secrets: str | Sequence[str],
    headers: Headers,
    body: bytes,
    *,
    method: str = "",
    url: str = "",
    family: Family = Family.RFC_9421,
    max_age_s: float = MAX_AGE_S,
    now: float | None = None,
) -> VerifiedCall:
    """What the signature of a call proves, under any of these secrets (several while one is being replaced).

    `headers` is a mapping, or better pairs as they came, so that a header sent twice is seen. Family RFC_9421 needs
    `method` and `url`. Calls older than `max_age_s`, or as far in the future, are refused. Errors: SignatureError;
    ValueError for a missing secret, method or URL.
    """
    known = [secrets] if isinstance(secrets, str) else list(secrets)
    if not known or not all(known):
        raise ValueError("a call is verified under at least one secret, and none may be empty")
    if family is Family.RFC_9421 and not (method and url):
        raise ValueError("RFC 9421 covers method and URL: give both, or name another family")
    request = SignedRequest(method, url, _single(headers), body)
    call = VERIFY[family](request, known)
    _check_age(call, time.time() if now is None else now, max_age_s)
    return call


def _single(headers: Headers) -> dict[str, str]:
    """By lower-case name. Errors: SignatureError if one that matters came twice: two readers would read two things."""
    found: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if (lower := name.lower()) in found and lower in COUNTED:
            raise SignatureError("repeated_header", f"{lower} came twice")
        found[lower] = value
    return found


def _check_age(call: VerifiedCall, now: float, max_age_s: float) -> None:
    if call.timestamp is None or abs(now - call.timestamp) > max_age_s:
        raise SignatureError("stale", "the call was signed too long ago, or by a clock that is off")


def _plain(request: SignedRequest, secrets: Sequence[str]) -> VerifiedCall:
    """`X-OnceOnly-Signature`: hex HMAC-SHA256 of the body. The timestamp is not signed: it is only looked at."""
    if request.header("x-onceonly-signature-alg") != "hmac_sha256":
        raise SignatureError("malformed_signature", "X-OnceOnly-Signature-Alg is not hmac_sha256")
    given = [request.header("x-onceonly-signature"), request.headers.get("x-onceonly-signature-previous")]
    expected = [_hmac(secret.encode(), request.body).hex() for secret in secrets]
    _check_any(expected, [signature for signature in given if signature is not None])
    return VerifiedCall(Family.PLAIN, timestamp=_unix_seconds(request.header("x-onceonly-timestamp")))


def _standard_webhooks(request: SignedRequest, secrets: Sequence[str]) -> VerifiedCall:
    """Standard Webhooks 1.0.0: `v1` signatures over `id.timestamp.body`."""
    key, timestamp = request.header("webhook-id"), request.header("webhook-timestamp")
    if request.headers.get("idempotency-key", key) != key:
        # It is not covered: who believes it, and not the webhook-id, could be made to serve the same call twice.
        raise SignatureError("invalid_signature", "Idempotency-Key is not the webhook-id that was signed")
    if "." in key:
        # What is signed has no other mark between id, time and body: with one in the id, they could be cut elsewhere.
        raise SignatureError("malformed_signature", "no webhook-id of Interlock's has a dot")
    given = request.header("webhook-signature").split(" ")
    if not all(signature.startswith("v1,") for signature in given):
        raise SignatureError("malformed_signature", "webhook-signature is not as Interlock writes it")
    signed = _bytes(f"{key}.{timestamp}.") + request.body
    _check_any([f"v1,{_base64(_hmac(_key(secret), signed))}" for secret in secrets], given)
    return VerifiedCall(Family.STANDARD_WEBHOOKS, key=key, timestamp=_unix_seconds(timestamp))


COVERED = (
    *("@method", "@target-uri", "content-digest"),
    *("interlock-agent", "interlock-call-id", "interlock-fence", "idempotency-key"),
)
_COMPONENTS = " ".join(f'"{name}"' for name in COVERED)
_PARAMS = (
    rf'\({re.escape(_COMPONENTS)}\);created=(?P<created>[0-9]{{1,12}});keyid="(?P<key_id>[ !#-\[\]-~]{{0,256}})"'
    r';alg="hmac-sha256";tag="interlock(?:-previous(?:-[0-9])?)?"'
)
_INPUT = re.compile(rf"sig(?P<number>[1-9])=(?P<params>{_PARAMS})")
_SIGNATURE = re.compile(r"sig(?P<number>[1-9])=(?P<value>:[A-Za-z0-9+/]{43}=:)")


def _rfc_9421(request: SignedRequest, secrets: Sequence[str]) -> VerifiedCall:
    """RFC 9421 `hmac-sha256` over `COVERED`, with the body's RFC 9530 Content-Digest; of that, what a sidecar sends."""
    digest = f"sha-256=:{_base64(hashlib.sha256(request.body).digest())}:"
    if not _equal(request.header("content-digest"), digest):
        raise SignatureError("invalid_signature", "the body is not the one that was signed")
    inputs = _members(_INPUT, request.header("signature-input"))
    signatures = _members(_SIGNATURE, request.header("signature"))
    if len(inputs) != len(signatures):
        raise SignatureError("malformed_signature", "Signature and Signature-Input do not go together")
    lines = _covered_lines(request)
    held = [
        found
        for found, signature in zip(inputs, signatures, strict=True)
        if _holds(f'{lines}"@signature-params": {found["params"]}', signature["value"], secrets)
    ]
    if not held:
        raise SignatureError("invalid_signature", "no signature holds under this secret")
    return _call_of(request, held[0])


def _call_of(request: SignedRequest, found: re.Match[str]) -> VerifiedCall:
    fence = request.header("interlock-fence")
    if not re.fullmatch("[0-9]{1,19}", fence, re.ASCII):
        raise SignatureError("malformed_signature", "Interlock-Fence is no number")
    return VerifiedCall(
        Family.RFC_9421,
        key=request.header("idempotency-key"),
        agent_id=request.header("interlock-agent"),
        call_id=request.header("interlock-call-id"),
        fence=int(fence),
        timestamp=int(found["created"]),
        key_id=found["key_id"],
    )


def _covered_lines(request: SignedRequest) -> str:
    """The signature base without its last line. Values with a line break in them could pass for other lines."""
    derived = {"@method": request.method, "@target-uri": request.url}
    values = [derived.get(name) or request.header(name) for name in COVERED]
    if any("\n" in value or "\r" in value for value in values):
        raise SignatureError("malformed_signature", "a header holds a line break")
    return "".join(f'"{name}": {value}\n' for name, value in zip(COVERED, values, strict=True))


def _members(pattern: re.Pattern[str], value: str) -> list[re.Match[str]]:
    """The members of a dictionary as a sidecar writes it. Errors: SignatureError for anything else."""
    found = [pattern.fullmatch(member) for member in value.split(", ", MAX_SIGNATURES)]
    members = [member for member in found if member is not None]
    numbers = [int(member["number"]) for member in members]
    if numbers != list(range(1, len(found) + 1)) or len(found) > MAX_SIGNATURES:
        raise SignatureError("malformed_signature", "Signature or Signature-Input is not as Interlock writes it")
    return members


def _holds(base: str, signature: str, secrets: Sequence[str]) -> bool:
    signed = _bytes(base)
    return any([_equal(signature, f":{_base64(_hmac(_key(secret), signed))}:") for secret in secrets])  # noqa: C419 - all are compared, so that the time tells nothing


def _check_any(expected: Sequence[str], given: Sequence[str]) -> None:
    """Errors: SignatureError."""
    if len(given) > MAX_SIGNATURES:
        raise SignatureError("malformed_signature", f"more than {MAX_SIGNATURES} signatures")
    if not any([_equal(one, other) for one in expected for other in given]):  # noqa: C419 - all are compared, so that the time tells nothing
        raise SignatureError("invalid_signature", "no signature holds under this secret")


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(_bytes(one), _bytes(other))


def _bytes(text: str) -> bytes:
    """Whatever a server made of a header: bytes beyond ASCII differ from all that a sidecar sends."""
    return text.encode("utf-8", "surrogatepass")


def _unix_seconds(value: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", value, re.ASCII):
        raise SignatureError("malformed_signature", "the timestamp is no number")
    return int(value)


def _key(secret: str) -> bytes:
    """A secret's bytes: a `whsec_` value is base64, as Standard Webhooks has it; any other counts as it is written."""
    encoded = secret.removeprefix("whsec_")
    if encoded == secret:
        return secret.encode()
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        key = b""
    return key or secret.encode()


def _hmac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


VERIFY = {Family.PLAIN: _plain, Family.STANDARD_WEBHOOKS: _standard_webhooks, Family.RFC_9421: _rfc_9421}
COUNTED = frozenset(
    {
        *COVERED,
        *("signature", "signature-input"),
        *("webhook-id", "webhook-timestamp", "webhook-signature"),
        *("x-onceonly-signature", "x-onceonly-signature-previous", "x-onceonly-signature-alg", "x-onceonly-timestamp"),
    }
)
"""Headers that a sidecar sends once."""
