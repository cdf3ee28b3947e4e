"""Masks a tool's own credential in what the tool answers: as many `*` as it has characters, so no length changes.

Found is the credential as it was sent, the part after a scheme such as Bearer, what Basic encodes, and each of these
as JSON, HTML or percent-encoding would write it. Not found is what a tool transforms otherwise: docs/credentials.md.
"""

import base64
import binascii
import html
import json
import re
from collections.abc import AsyncIterator, Iterable
from functools import lru_cache
from urllib.parse import quote

from interlock.proxy.call import Headers

LEAST = 8
"""A shorter secret is not looked for: it would be found where it is not."""
_HEX = re.compile("%..")
_UNCHANGED = ("", "/", "!'()*")
"""What is left as it is, beside letters, digits and `-._~`: by who means a query, a path, or is JavaScript."""
# Go's encoding/json and .NET's System.Text.Json write more by number than JSON asks for.
_GO = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&"})
_DOTNET = str.maketrans({char: f"\\u{ord(char):04X}" for char in "\"&'+<>`"} | {"\\": "\\\\"})
READABLE = frozenset({"", "identity"})
"""Content codings in which a secret can be found."""


class Mask:
    """What to look for in the answers to one credential."""

    __slots__ = ("_pattern", "_spellings", "_text")

    def __init__(self, spellings: Iterable[str]) -> None:
        longest_first = sorted(spellings, key=len, reverse=True)
        self._spellings = [spelling.encode("iso-8859-1") for spelling in longest_first]
        pattern = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(pattern.encode("iso-8859-1"))
        self._text = re.compile(pattern)

    def __repr__(self) -> str:
        return "Mask()"

    def headers(self, headers: Iterable[tuple[str, str]]) -> Headers:
        """Header fields with every spelling masked, in names as in values."""
        return tuple(
            (self._text.sub(_stars_of_text, name), self._text.sub(_stars_of_text, value)) for name, value in headers
        )

    def whole(self, body: bytes) -> bytes:
        """A body, or a message, with every spelling masked."""
        # Most hold none: to look for each is faster than the pattern is.
        return self._pattern.sub(_stars, body) if any(spelling in body for spelling in self._spellings) else body

    async def pieces(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A body with every spelling masked, also where it stands across pieces: only what may be the beginning of
        one is kept back until the next piece, or the end.
        """
        held = b""
        async for piece in pieces:
            masked = self.whole(held + piece)
            begins = self._begins(masked)
            held = masked[begins:]
            if begins:
                yield masked[:begins]
        if held:
            yield held

    def _begins(self, body: bytes) -> int:
        """Where the end of a body may be the beginning of a spelling; its length if nowhere."""
        first = len(body)
        for spelling in self._spellings:
            start = max(0, len(body) - len(spelling) + 1)
            head = spelling[:LEAST]
            at = body.find(head, start)
            while 0 <= at < first:
                if spelling.startswith(body[at:]):
                    first = at
                at = body.find(head, at + 1)
            for at in range(max(start, len(body) - LEAST + 1), first):  # too short for `head`
                if spelling.startswith(body[at:]):
                    first = at
                    break
        return first


@lru_cache(maxsize=1024)
def mask_of(value: str) -> Mask | None:
    """The mask of a header's value; None if no part of it is long enough to be a secret."""
    spellings = {spelling for secret in _secrets(value) for spelling in _spellings(secret)}
    return Mask(spellings) if spellings else None


def is_readable(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether an answer with these fields can be looked through."""
    codings = ",".join(value for name, value in headers if name.lower() == "content-encoding")
    return all(coding.strip().lower() in READABLE for coding in codings.split(","))


def _secrets(value: str) -> set[str]:
    scheme, _, rest = value.partition(" ")
    secrets = {value, rest.strip()}
    if scheme.lower() == "basic":
        user_and_password = _decoded(rest.strip())
        secrets |= {user_and_password, user_and_password.partition(":")[2]}
    return {secret for secret in secrets if len(secret) >= LEAST}


def _spellings(secret: str) -> set[str]:
    in_json = json.dumps(secret)[1:-1]
    found = {secret, in_json, in_json.replace("/", "\\/"), in_json.translate(_GO), secret.translate(_DOTNET)}
    in_html = html.escape(secret)
    found |= {in_html, in_html.replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}
    for unchanged in _UNCHANGED:
        percent = quote(secret, safe=unchanged, encoding="iso-8859-1")
        found |= {percent, _HEX.sub(lambda digits: digits[0].lower(), percent), percent.replace("%20", "+")}
    return found


def _decoded(basic: str) -> str:
    try:
        return base64.b64decode(basic, validate=True).decode("iso-8859-1")
    except binascii.Error:
        return ""


def _stars(found: re.Match[bytes]) -> bytes:
    return b"*" * (found.end() - found.start())


def _stars_of_text(found: re.Match[str]) -> str:
    return "*" * (found.end() - found.start())
