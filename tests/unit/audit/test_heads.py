"""Signed heads: made with the private key, verified with the public one alone."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from interlock.audit.heads import KeyFileError, PublicKey, SigningKey, new_signing_key
from tests.unit.audit.trails import KEY, chain, head


@pytest.fixture
def public(tmp_path: Path) -> PublicKey:
    file = tmp_path / "audit.pub"
    file.write_text(KEY.public.pem())
    return PublicKey.load(file)


def test_a_head_is_verified_by_the_public_key_and_by_no_other(public: PublicKey, tmp_path: Path) -> None:
    signed = json.loads(head(chain(3)[-1]))
    assert public.signed(signed)
    other = tmp_path / "other"
    other.write_text(new_signing_key())
    assert not SigningKey.load(other).public.signed(signed)


@pytest.mark.parametrize("name", ["hash", "sequence", "subject", "source", "time", "id", "keyid", "type"])
def test_no_part_of_a_head_can_be_changed(public: PublicKey, name: str) -> None:
    signed = json.loads(head(chain(3)[-1]))
    assert not public.signed({**signed, name: signed[name] + "0"})
    assert not public.signed({**signed, "extra": "1"})


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "é", None, 7])
def test_a_signature_that_is_none_is_not_good(public: PublicKey, signature: object) -> None:
    assert not public.signed({**json.loads(head(chain(3)[-1])), "signature": signature})


def test_the_same_head_is_the_same_bytes() -> None:
    assert head(chain(3)[-1]) == head(chain(3)[-1])


def test_files_that_hold_no_such_key_are_told_by_name(tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1())
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"nonsense", pem, KEY.public.pem().encode()):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(KeyFileError, match=str(tmp_path / "key")):
            SigningKey.load(tmp_path / "key")
    with pytest.raises(KeyFileError, match="No such file"):
        SigningKey.load(tmp_path / "none")
    (tmp_path / "key").write_text(new_signing_key())
    with pytest.raises(KeyFileError, match="no public key"):
        PublicKey.load(tmp_path / "key")
