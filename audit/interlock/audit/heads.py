"""Signed heads: what an auditor needs to know that a chain is ours, with the public key alone.

A head is an event of its own beside the chain: it names an agent, a seq and the hash there, signed with Ed25519 (RFC
8032) over its canonical JSON without the `signature`. Ed25519 signs the same message to the same signature, and a head
bears the time of its event, so a head, too, is the same bytes whenever it is made.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from interlock.audit.chain import canonical
from interlock.audit.cloudevents import TYPE_PREFIX, identified
from interlock.governance.errors import InvalidRequestError
from interlock.policy.model import ChainPoint, Scope

TYPE = TYPE_PREFIX + "head"


class KeyFileError(InvalidRequestError):
    """A file with a key cannot be read, or holds another sort of key."""


class SigningKey:
    """The private key of one installation."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def load(cls, file: Path) -> "SigningKey":
        """From a PEM file (PKCS #8, not encrypted). Raises KeyFileError."""
        try:
            key = serialization.load_pem_private_key(_bytes_of(file), password=None)
        except (ValueError, TypeError) as error:
            raise KeyFileError("signing_key", f"{file} holds no private key in PEM that can be read") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError("signing_key", f"{file} holds a key that is not Ed25519")
        return cls(key)

    def head(self, scope: Scope, point: ChainPoint, at_ms: int) -> bytes:
        """The line of a signed head; `at_ms` is the time of the event at that point."""
        attributes = {
            **identified(scope.namespace, scope.agent_id, point.seq, at_ms),
            "id": f"{scope.namespace}/{scope.agent_id}/{point.seq}/head",
            "type": TYPE,
            "hash": point.hash,
            "keyid": self.public.key_id,
        }
        signature = base64.b64encode(self._key.sign(canonical(attributes))).decode()
        return canonical({**attributes, "signature": signature})


class PublicKey:
    """What verifies heads."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.key_id = hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]

    @classmethod
    def load(cls, file: Path) -> "PublicKey":
        """From a PEM file. Raises KeyFileError."""
        try:
            key = serialization.load_pem_public_key(_bytes_of(file))
        except ValueError as error:
            raise KeyFileError("public_key", f"{file} holds no public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise KeyFileError("public_key", f"{file} holds a key that is not Ed25519")
        return cls(key)

    def pem(self) -> str:
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def signed(self, head: Mapping[str, Any]) -> bool:
        """Whether a head bears a signature of this key."""
        unsigned = {name: value for name, value in head.items() if name != "signature"}
        told = str(head.get("signature", ""))
        try:
            signature = base64.b64decode(told, validate=True)
            self._key.verify(signature, canonical(unsigned))
        except (InvalidSignature, ValueError):
            return False
        # The last character has bits that say nothing, and are not signed.
        return base64.b64encode(signature).decode() == told


def new_signing_key() -> str:
    """A new private key, PEM."""
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise KeyFileError("key_file", f"{file} cannot be read: {error.strerror}") from error
