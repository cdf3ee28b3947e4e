"""Ids that nobody can guess, made alike by engine and sidecar."""

import secrets

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """An id nobody can guess: 16 random bytes."""
    return f"{prefix}_{base62(secrets.token_bytes(16), 22)}"


def base62(value: bytes, width: int) -> str:
    """Big-endian, left-padded with zeros to `width` characters."""
    number = int.from_bytes(value)
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
