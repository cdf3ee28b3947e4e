"""JSON for input that will be judged: what two parsers could read differently is refused."""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn, TypeAlias

from interlock.governance.errors import InvalidRequestError

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"

_SPACE = " \t\n\r"
_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]|\\.)*+")|[ \t\n\r]++')
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def finite(literal: str) -> float:
    """The double nearest to a number's literal; one too large for any double is refused, not made infinite."""
    value = float(literal)
    if value in (float("inf"), float("-inf")):
        raise _invalid("a number is too large")
    return value


def parse(raw: bytes, *, max_depth: int = 100, parse_float: Callable[[str], Any] = finite) -> JsonValue:
    """The value of a JSON text in UTF-8.

    `parse_float` makes the value of every number with a fraction or an exponent.

    Errors: `invalid_json` for what RFC 8259 forbids (NaN, a byte order mark), for what it leaves to chance (a key that
    stands twice, half a surrogate pair, invalid UTF-8), and for what no reader can be expected to take (more than
    `max_depth` levels, a number too large).
    """
    try:
        text = raw.decode()
        value: JsonValue = _decoder(parse_float).decode(text)
        if _SURROGATE_ESCAPE.search(text):
            _refuse_lone_surrogates(value)
    except UnicodeDecodeError as error:
        raise _invalid(f"the byte at {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise _too_deep(max_depth) from error
    except ValueError as error:  # the interpreter's own limit on the digits of an int
        raise _invalid("a number has too many digits") from error
    # Counting brackets is quick, and mostly shows that no walk is needed.
    if raw.count(b"[") + raw.count(b"{") > max_depth and _is_deeper(value, max_depth):
        raise _too_deep(max_depth)
    return value


def member_source(text: str, name: str) -> str:
    """The JSON text of one member of an object that is known to be valid, or nothing if it has no such member."""
    decoder, at = json.JSONDecoder(), text.index("{")
    while text[at] != "}":
        key_at = text.find('"', at + 1)
        if key_at < 0:
            break
        key, at = decoder.raw_decode(text, key_at)
        start = _after_space(text, text.index(":", at) + 1)
        _, end = decoder.raw_decode(text, start)
        if key == name:
            return text[start:end]
        at = _after_space(text, end)
    return ""


def element_sources(text: str) -> list[str]:
    """The JSON texts of the elements of an array that is known to be valid."""
    decoder, at, found = json.JSONDecoder(), _after_space(text, text.index("[") + 1), []
    while text[at] != "]":
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end])
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return found


def _after_space(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def compact(text: str) -> str:
    """A valid JSON text without the space that says nothing; every number and string stays as it is written."""
    return _STRING_OR_SPACE.sub(lambda found: found[1] or "", text)


@cache
def _decoder(parse_float: Callable[[str], Any]) -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=parse_float)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _invalid("a key stands twice in one object")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise _invalid(f"{name} is not JSON")


def _refuse_lone_surrogates(value: JsonValue) -> None:
    try:
        json.dumps(value, ensure_ascii=False, default=repr).encode()
    except UnicodeEncodeError as error:
        raise _invalid("a string holds half a surrogate pair") from error


def _is_deeper(value: JsonValue, levels: int) -> bool:
    layer: list[Any] = [value]
    for _ in range(levels):
        layer = [child for node in layer for child in _children(node)]
    return any(isinstance(node, dict | list) for node in layer)


def _children(node: JsonValue) -> Any:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _too_deep(max_depth: int) -> InvalidRequestError:
    return _invalid(f"nested more than {max_depth} levels deep")


def _invalid(problem: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_json", f"the body is not acceptable JSON: {problem}")
