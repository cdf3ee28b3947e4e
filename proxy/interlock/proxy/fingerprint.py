"""What makes two calls the same call: a digest over everything that reaches the tool and could change what it does."""

from collections.abc import Collection, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import orjson
import rfc8785

from interlock.governance.values import dataclass
from interlock.proxy import strict_json

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

SHORT = 512
_INEXACT = object()
_SORTED_AND_EXACT = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 digests of the whole call, from which a key is derived, and of its arguments alone, for the audit."""

    call: bytes
    arguments: bytes


def fingerprint(
    *,
    tool: str,
    method: str,
    path: str,
    query: str,
    content_type: str,
    body: bytes,
    ignore: Sequence[str] = (),
    run_id_is_argument: bool = True,
) -> Fingerprint:
    """The fingerprint of a call. `path` and `query` are raw, as they go on the wire; nothing is folded or normalised.

    A JSON body counts as its RFC 8785 canonical form, so the order of keys, white space and spelling (1.0 for 1,
    an escape for a letter) make no difference. The top-level fields in `ignore` are left out of it, and `run_id` unless
    it is an argument. Where a number that remains would lose digits as a double (RFC 8785 knows doubles only), and for
    every other content type, the body counts byte for byte: then the ignored fields count as well, and a retry is
    recognised only if it repeats them.

    Errors: `invalid_json` for a body that says it is JSON and is not.
    """
    ignored = {*ignore} if run_id_is_argument else {*ignore, "run_id"}
    canonical = _canonical(body, ignored) if body and _is_json(content_type) else None
    arguments = sha256(body if canonical is None else canonical).digest()
    form = "raw" if canonical is None else "json"
    is_short = len(path) + len(query) + len(content_type) <= SHORT
    call = (_known if is_short else _begun)(tool, method, path, query, content_type, form).copy()
    call.update(arguments)
    return Fingerprint(call=call.digest(), arguments=arguments)


def digest_of(json: bytes) -> bytes:
    """SHA-256 of a JSON text's canonical form (RFC 8785), or of the text itself if a number in it has none."""
    canonical = _canonical(json, ())
    return sha256(json if canonical is None else canonical).digest()


def _begun(*fields: str) -> "Hash":
    """The digest of a call up to its arguments: each field behind its length, so that no two lists make the same."""
    # What a raw path holds of bytes that are not UTF-8 is kept.
    raw = [field.encode("utf-8", "surrogatepass") for field in fields]
    return sha256(b"".join([len(field).to_bytes(8, "big") + field for field in raw]))


_known = lru_cache(256)(_begun)
"""Of calls of one tool only the arguments differ, mostly. None but short fields are remembered."""


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _canonical(body: bytes, ignored: Collection[str]) -> bytes | None:
    """The body's canonical form, or None if a number in it has none."""
    value = strict_json.parse(body, parse_float=_exact)
    if ignored and isinstance(value, dict):
        value = {name: member for name, member in value.items() if name not in ignored}
    try:
        return _quickly(body, value) or rfc8785.dumps(value)
    except rfc8785.CanonicalizationError:  # an int over 2^53, or what `_exact` marked
        return None


def _quickly(body: bytes, value: object) -> bytes | None:
    """The canonical form by orjson, thirty times as fast, where it is certainly the same; else None.

    Both write a number, a string and a separator alike; orjson knows no `_Written` number and no int that has no
    double. It sorts keys by code points and RFC 8785 by UTF-16 units: in ASCII that is the same.
    """
    if not body.isascii() or b"\\u" in body:
        return None
    try:
        return orjson.dumps(value, option=_SORTED_AND_EXACT)
    except orjson.JSONEncodeError:
        return None


class _Written(float):
    """A double that RFC 8785 (as ECMAScript) may write otherwise than with its shortest digits around a point."""


def _exact(literal: str) -> object:
    """The double a literal stands for, or, where it would stand for another number, something rfc8785 refuses."""
    value = strict_json.finite(literal)
    shortest = repr(value)
    if literal == shortest and "e" not in shortest and not shortest.endswith(".0"):
        return value
    try:
        exact = literal == shortest or Decimal(literal) == Decimal(shortest)
    except InvalidOperation:  # an exponent so small that even Decimal has no room for it
        exact = False
    return _Written(value) if exact else _INEXACT
