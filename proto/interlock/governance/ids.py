"""Ids that nobody can guess, made alike by engine and sidecar."""

import os

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Two digits at a time: there is an id in every call.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_id(prefix: str) -> str:
    """An id nobody can guess: 16 random bytes."""
    return f"{prefix}_{base62(os.urandom(16), 22)}"


def base62(value: bytes, width: int) -> str:
    """Big-endian, left-padded with zeros to `width` characters."""
    number = int.from_bytes(value)
    pairs = []
    for _ in range(0, width, 2):
        number, pair = divmod(number, len(_PAIRS))
        pairs.append(_PAIRS[pair])
    return "".join(reversed(pairs))[-width:]
