"""API keys. A key is 32 random bytes in base62 and is kept nowhere: only its SHA-256 is."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field, replace
from typing import Self

from interlock.governance.ids import base62

KEY_PREFIX = "once_live_"
_KEY = re.compile(rf"{KEY_PREFIX}[0-9A-Za-z]{{43}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller shows: a bearer key, and the namespace it wants to act in (empty: the key's own)."""

    key: str = field(repr=False)
    namespace: str = ""

    def at_home(self) -> Self:
        """The same without another namespace."""
        return replace(self, namespace="")


def new_key() -> str:
    return KEY_PREFIX + base62(secrets.token_bytes(32), 43)


def looks_like_key(value: str) -> bool:
    return _KEY.fullmatch(value) is not None


def address(key: str) -> str:
    """Where a key's record lies: SHA-256 in hex. The key has 256 random bits, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()
