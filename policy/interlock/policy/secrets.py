"""Tool secrets at rest: AES-256-GCM (NIST SP 800-38D) under a master key that Redis never sees.

A sealed secret names the master key that sealed it, so keys rotate: the first of the ring seals, all of them open.
What a secret belongs to is bound in as associated data, so a sealed secret cannot be moved to another tool.
"""

import base64
import binascii
import hashlib
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from interlock.governance.errors import InternalError
from interlock.policy.model import Sealed

KEY_BYTES, NONCE_BYTES = 32, 12
LONG_SECRET = 24
_LINE = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,32}):(?P<key>[A-Za-z0-9+/=]+)")


class MasterKeyError(ValueError):
    """A master key that cannot be used; the message says which and why, never its value."""


class Keyring:
    """Master keys by id, the current one first."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        if not keys:
            raise MasterKeyError("a master key is needed: set engine.master_key or engine.master_key_file")
        self._current = next(iter(keys))
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}

    def seal(self, secret: str, belongs_to: str) -> Sealed:
        """Seals under the current key."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        ciphertext = self._ciphers[self._current].encrypt(nonce, secret.encode(), belongs_to.encode())
        return Sealed(self._current, _text(nonce), _text(ciphertext))

    def sealed(self, secret: str, belongs_to: str, stored: Sealed | None) -> Sealed:
        """The secret under the current key: as `stored` if that is it already, so that it does not change."""
        if stored is None or stored.key_id != self._current:
            return self.seal(secret, belongs_to)
        try:
            return stored if self.open(stored, belongs_to) == secret else self.seal(secret, belongs_to)
        except InternalError:
            return self.seal(secret, belongs_to)

    def renewed(self, sealed: Sealed, belongs_to: str) -> Sealed:
        """The same secret under the current key; as it is if it is that already, or cannot be read."""
        if sealed.key_id == self._current:
            return sealed
        try:
            return self.seal(self.open(sealed, belongs_to), belongs_to)
        except InternalError:
            return sealed

    def open(self, sealed: Sealed, belongs_to: str) -> str:
        """Errors: InternalError `secret_unreadable` if the master key is gone or the record was tampered with."""
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise InternalError("secret_unreadable", f"the master key {sealed.key_id} is not configured")
        try:
            nonce, ciphertext = base64.b64decode(sealed.nonce), base64.b64decode(sealed.ciphertext)
            return cipher.decrypt(nonce, ciphertext, belongs_to.encode()).decode()
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise InternalError("secret_unreadable", "a secret's record was altered") from error


def mask_of(secret: str) -> str:
    """What may be shown of a secret: its last four characters, if it is so long that these tell nothing."""
    return "•••• " + secret[-4:] if len(secret) >= LONG_SECRET else "••••"


def parse_keys(text: str) -> dict[str, bytes]:
    """Reads `ID:BASE64` entries, one a line or comma-separated; `#` begins a comment line."""
    keys: dict[str, bytes] = {}
    for entry in re.split(r"[\n,]", text):
        line = entry.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise MasterKeyError("a master key is written ID:BASE64")
        keys[found["id"]] = _decoded(found["id"], found["key"])
    return keys


def generate_key() -> str:
    """A new master key as a line for a key file; its id is the fingerprint of its value."""
    key = secrets.token_bytes(KEY_BYTES)
    return f"{hashlib.sha256(key).hexdigest()[:8]}:{_text(key)}"


def load_keyring(inline: str | None, file: Path | None) -> Keyring:
    """The keyring from a setting, a file, or both (the setting's keys first)."""
    text = inline or ""
    if file is not None:
        text += "\n" + file.read_text()
    return Keyring(parse_keys(text))


def _decoded(key_id: str, encoded: str) -> bytes:
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise MasterKeyError(f"master key {key_id} is not base64") from error
    if len(key) != KEY_BYTES:
        raise MasterKeyError(f"master key {key_id} has {len(key)} bytes, not {KEY_BYTES}")
    return key


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
