"""API keys and ids. A key is 32 random bytes in base62 and is kept nowhere: only its SHA-256 is."""

import hashlib
import re
import secrets

KEY_PREFIX = "once_live_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(rf"{KEY_PREFIX}[0-9A-Za-z]{{43}}", re.ASCII)


def new_key() -> str:
    return KEY_PREFIX + base62(secrets.token_bytes(32), 43)


def new_id(prefix: str) -> str:
    """An id nobody can guess: 16 random bytes."""
    return f"{prefix}_{base62(secrets.token_bytes(16), 22)}"


def looks_like_key(value: str) -> bool:
    return _KEY.fullmatch(value) is not None


def address(key: str) -> str:
    """Where a key's record lies: SHA-256 in hex. The key has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def base62(value: bytes, width: int) -> str:
    """Big-endian, left-padded with zeros to `width` characters."""
    number = int.from_bytes(value)
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
