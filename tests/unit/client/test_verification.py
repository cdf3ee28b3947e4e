"""Signatures of calls as the sidecar makes them, and everything that only looks like one."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from interlock.client.errors import SignatureError
from interlock.client.signatures import Family, VerifiedCall, verify_signature
from interlock.proxy.signing import Outgoing, signed_headers

NOW = 1_781_520_000
SECRET = "correct horse battery"
OLD = "staple, and not a horse"
WHSEC = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OUT = Outgoing("POST", "http://tool.test/charge?a=1", b'{"order":17}', "shopper", "call_x", "9f2c" * 16, 41)
SENT_ONCE = {
    Family.PLAIN: ("X-OnceOnly-Signature", "X-OnceOnly-Signature-Alg"),
    Family.STANDARD_WEBHOOKS: ("webhook-id", "webhook-timestamp", "webhook-signature"),
    Family.RFC_9421: (
        *("Content-Digest", "Signature-Input", "Signature"),
        *("Idempotency-Key", "Interlock-Agent", "Interlock-Call-Id", "Interlock-Fence"),
    ),
}
families = pytest.mark.parametrize("family", Family)


@dataclass(frozen=True)
class Arrived:
    """A call as it comes to a tool."""

    headers: tuple[tuple[str, str], ...]
    method: str = OUT.method
    url: str = OUT.url
    body: bytes = OUT.body

    def verified(self, family: Family, secrets: str | list[str] = SECRET, now: float = NOW) -> VerifiedCall:
        return verify_signature(
            secrets, self.headers, self.body, method=self.method, url=self.url, family=family, now=now
        )

    def with_header(self, name: str, value: str) -> "Arrived":
        return replace(self, headers=tuple((n, value if n == name else v) for n, v in self.headers))

    def without(self, name: str) -> "Arrived":
        return replace(self, headers=tuple((n, v) for n, v in self.headers if n != name))

    def header(self, name: str) -> str:
        return dict(self.headers)[name]


def arrived(*secrets: str, out: Outgoing = OUT, now: int = NOW) -> Arrived:
    return Arrived(tuple(signed_headers(out, secrets or (SECRET,), "sec_1", now)), out.method, out.url, out.body)


def refused(call: Arrived, family: Family, **how: object) -> bool:
    try:
        call.verified(family, **how)  # type: ignore[arg-type]
    except SignatureError:
        return True
    return False


def test_each_family_tells_what_it_covers_and_no_more() -> None:
    call = arrived()
    assert call.verified(Family.PLAIN) == VerifiedCall(Family.PLAIN, timestamp=NOW)
    assert call.verified(Family.STANDARD_WEBHOOKS) == VerifiedCall(Family.STANDARD_WEBHOOKS, key=OUT.key, timestamp=NOW)
    assert call.verified(Family.RFC_9421) == VerifiedCall(
        Family.RFC_9421, OUT.key, "shopper", "call_x", 41, timestamp=NOW, key_id="sec_1"
    )


@families
@pytest.mark.parametrize("secret", [SECRET, WHSEC, "whsec_not base64!", "whsec_", "whsec_" + "A" * 5])
def test_a_secret_means_what_it_means_to_the_sidecar(family: Family, secret: str) -> None:
    assert arrived(secret).verified(family, secret).family is family


@families
@pytest.mark.parametrize("known", [[SECRET], [OLD], [OLD, SECRET], ["other", OLD]])
def test_in_a_rotation_either_secret_verifies(family: Family, known: list[str]) -> None:
    assert arrived(SECRET, OLD).verified(family, known).family is family


@families
def test_another_secret_does_not(family: Family) -> None:
    assert refused(arrived(SECRET, OLD), family, secrets=["another", "and another"])


def altered(text: str) -> Iterator[str]:
    """Every text that differs from this one in one place, in a few ways."""
    for at, character in enumerate(text):
        for other in (chr(ord(character) ^ 1), chr(ord(character) ^ 32), "é"):
            yield text[:at] + other + text[at + 1 :]
        yield text[:at] + text[at + 1 :]
        yield text[:at] + character + text[at:]
    yield from (f"{text} ", f" {text}", f"{text}\n", f"{text}\x00", "")


@families
def test_no_byte_of_a_signed_header_can_be_altered(family: Family) -> None:
    call = arrived()
    unseen = [
        (name, value)
        for name in SENT_ONCE[family]
        for value in altered(call.header(name))
        if value != call.header(name) and not refused(call.with_header(name, value), family)
    ]
    assert not unseen


@families
def test_no_byte_of_the_body_can_be_altered(family: Family) -> None:
    call = arrived()
    bodies = [text.encode("utf-8") for text in altered(OUT.body.decode()) if text.encode() != OUT.body]
    assert not [body for body in bodies if not refused(replace(call, body=body), family)]


def test_neither_method_nor_url_can_be_altered() -> None:
    call = arrived()
    others = [replace(call, url=url) for url in altered(OUT.url) if url]
    others += [replace(call, method=method) for method in altered(OUT.method) if method]
    assert not [other for other in others if not refused(other, Family.RFC_9421)]


@families
def test_nothing_of_it_may_be_missing(family: Family) -> None:
    call = arrived()
    assert not [name for name in SENT_ONCE[family] if not refused(call.without(name), family)]
    assert refused(replace(call, headers=()), family)


@families
def test_nothing_of_it_may_come_twice(family: Family) -> None:
    call = arrived()
    for name in SENT_ONCE[family]:
        for value in (call.header(name), "x"):
            twice = replace(call, headers=(*call.headers, (name.upper(), value)))
            assert refused(twice, family)
            assert refused(replace(call, headers=((name.lower(), value), *call.headers)), family)


@families
@pytest.mark.parametrize("off_by", [-301, 301, 10**9, -(10**9)])
def test_a_stale_call_is_refused(family: Family, off_by: int) -> None:
    assert refused(arrived(), family, now=NOW + off_by)


@families
@pytest.mark.parametrize("off_by", [-300, 0, 300])
def test_clocks_may_differ_a_little(family: Family, off_by: int) -> None:
    assert arrived().verified(family, now=NOW + off_by).timestamp == NOW


@families
def test_the_headers_of_one_call_do_not_fit_another(family: Family) -> None:
    one = arrived()
    other = arrived(out=Outgoing("POST", OUT.url, b'{"order":18}', "thief", "call_y", "abcd" * 16, 42))
    swapped = [one.with_header(name, other.header(name)) for name in SENT_ONCE[family]]
    same = [call for call in swapped if call.headers != one.headers]
    assert same
    assert not [call for call in same if not refused(call, family)]


@families
def test_two_calls_signatures_do_not_make_one(family: Family) -> None:
    name = SENT_ONCE[family][-1] if family is Family.STANDARD_WEBHOOKS else "Signature"
    name = "X-OnceOnly-Signature" if family is Family.PLAIN else name
    joined = arrived().header(name) + ", " + arrived(OLD).header(name)
    assert refused(arrived().with_header(name, joined), family)


def test_the_strong_family_is_not_replaced_by_a_weaker_one() -> None:
    stripped = arrived()
    for name in ("Content-Digest", "Signature-Input", "Signature"):
        stripped = stripped.without(name)
    assert stripped.verified(Family.PLAIN).family is Family.PLAIN
    assert refused(stripped, Family.RFC_9421)


def test_a_key_that_standard_webhooks_does_not_cover_is_not_believed() -> None:
    assert refused(arrived().with_header("Idempotency-Key", "ab" * 32), Family.STANDARD_WEBHOOKS)


def test_what_standard_webhooks_signs_cannot_be_cut_elsewhere() -> None:
    out = replace_body(b"1781520001.{}")
    call = arrived(out=out)
    moved = replace(call.with_header("webhook-id", f"{OUT.key}.{NOW}").without("Idempotency-Key"), body=b"{}")
    assert refused(moved.with_header("webhook-timestamp", "1781520001"), Family.STANDARD_WEBHOOKS)


def replace_body(body: bytes) -> Outgoing:
    return Outgoing(OUT.method, OUT.url, body, OUT.agent_id, OUT.call_id, OUT.key, OUT.fence)


@pytest.mark.parametrize(
    "put",
    [
        lambda value: value.replace('"@method" ', ""),
        lambda value: value.replace('"@method" "@target-uri"', '"@target-uri" "@method"'),
        lambda value: value.replace('alg="hmac-sha256"', 'alg="ed25519"'),
        lambda value: value.replace(';alg="hmac-sha256"', ""),
        lambda value: value.replace("interlock", "other"),
        lambda value: f"{value}, {value}",
        lambda value: f'{value}, sig2=();created=1;keyid="x";alg="hmac-sha256";tag="interlock"',
        lambda value: ", ".join([value] * 5000),
        lambda value: value.replace("sig1", "sig2"),
        lambda value: f"{value};expires=9999999999",
        lambda value: value.upper(),
    ],
)
def test_only_what_a_sidecar_writes_is_read(put: object) -> None:
    call = arrived()
    for name in ("Signature-Input", "Signature"):
        changed = call.with_header(name, put(call.header(name)))  # type: ignore[operator]
        assert changed == call or refused(changed, Family.RFC_9421)


@families
def test_bytes_that_are_no_text_are_refused_and_break_nothing(family: Family) -> None:
    call = arrived()
    for name in SENT_ONCE[family]:
        for value in ("\udc80", "\x00", "é" * 100_000, ":" * 100_000, '"' * 1000):
            assert refused(call.with_header(name, value), family)


def test_a_verifier_without_what_it_needs_is_a_mistake_not_a_refusal() -> None:
    call = arrived()
    with pytest.raises(ValueError, match="secret"):
        verify_signature([], call.headers, call.body, family=Family.PLAIN)
    with pytest.raises(ValueError, match="secret"):
        verify_signature([SECRET, ""], call.headers, call.body, family=Family.PLAIN)
    with pytest.raises(ValueError, match="method and URL"):
        verify_signature(SECRET, call.headers, call.body)


def test_headers_may_be_a_mapping() -> None:
    call = arrived()
    found = verify_signature(SECRET, dict(call.headers), call.body, method=call.method, url=call.url, now=NOW)
    assert found.agent_id == "shopper"
