"""Secrets at rest."""

import base64
import dataclasses

import pytest

from interlock.governance.errors import InternalError
from interlock.policy.secrets import Keyring, MasterKeyError, generate_key, parse_keys

OWNER = "acme/global/charge"


def ring(*lines: str) -> Keyring:
    return Keyring(parse_keys("\n".join(lines)))


def test_what_is_sealed_opens_again_and_never_looks_the_same() -> None:
    keyring = ring(generate_key())
    first, second = keyring.seal("s3cret", OWNER), keyring.seal("s3cret", OWNER)
    assert keyring.open(first, OWNER) == keyring.open(second, OWNER) == "s3cret"
    assert first.ciphertext != second.ciphertext
    assert "s3cret" not in str(first)


def test_after_a_rotation_the_new_key_seals_and_both_open() -> None:
    old, new = generate_key(), generate_key()
    sealed = ring(old).seal("s3cret", OWNER)
    rotated = ring(new, old)
    assert rotated.open(sealed, OWNER) == "s3cret"
    assert rotated.seal("x", OWNER).key_id == new.split(":")[0]


def test_a_sealed_secret_is_bound_to_its_tool() -> None:
    keyring = ring(generate_key())
    with pytest.raises(InternalError, match="altered"):
        keyring.open(keyring.seal("s3cret", OWNER), "acme/global/other")


def test_an_altered_secret_does_not_open() -> None:
    keyring = ring(generate_key())
    sealed = keyring.seal("s3cret", OWNER)
    flipped = bytearray(base64.b64decode(sealed.ciphertext))
    flipped[0] ^= 1
    with pytest.raises(InternalError):
        keyring.open(dataclasses.replace(sealed, ciphertext=base64.b64encode(flipped).decode()), OWNER)
    with pytest.raises(InternalError):
        keyring.open(dataclasses.replace(sealed, nonce="!"), OWNER)


def test_a_secret_of_a_lost_master_key_says_so() -> None:
    sealed = ring(generate_key()).seal("s3cret", OWNER)
    with pytest.raises(InternalError, match="not configured"):
        ring(generate_key()).open(sealed, OWNER)


@pytest.mark.parametrize("text", ["", "# only a comment", "nonsense", "id:c2hvcnQ=", "id:!!!!"])
def test_a_master_key_that_cannot_be_used_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(MasterKeyError) as refused:
        ring(text)
    assert "c2hvcnQ" not in str(refused.value)


def test_a_key_file_may_hold_comments_and_a_setting_several_keys() -> None:
    one, two = generate_key(), generate_key()
    assert list(parse_keys(f"# current\n{one}\n\n{two}\n")) == list(parse_keys(f"{one},{two}"))
