"""Values as JSON: results that are recorded, and arguments that a key is derived from."""

import base64
import dataclasses
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from interlock.client.errors import UnusableArgumentError

MAX_NAME = 180
"""Characters of a function's name in a key; with the digest behind it, it stays below the 256 of the contract."""
NAMED = (datetime, date, time, UUID, Decimal, timedelta)
"""Values that their own text tells apart from all others of their kind."""


def derived_key(function: Callable[..., object], arguments: Mapping[str, object], prefix: str = "") -> str:
    """`[prefix:]module.name:SHA-256` of the arguments by name. Errors: UnusableArgumentError names the argument.

    Equal arguments give equal keys in every process: dicts count without their order, lists with it, and values of
    different types differ (1, 1.0, True and "1" are four).
    """
    return key_of_arguments(f"{function.__module__}.{function.__qualname__}", arguments, prefix)


def key_of_arguments(name: str, arguments: Mapping[str, object], prefix: str = "") -> str:
    """The same for what is no function, by a name of its own."""
    told = [[argument, _argument(name, argument, value)] for argument, value in sorted(arguments.items())]
    canonical = json.dumps([name, told], ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return f"{f'{prefix}:' if prefix else ''}{name}"[:MAX_NAME] + f":{digest}"


def bound(function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """The arguments by name, defaults included, however they were given. Errors: TypeError, as the call itself."""
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


def _argument(function: str, name: str, value: object) -> object:
    try:
        return _tagged(value)
    except UnusableArgumentError as error:
        hint = "give key=… to say what makes two calls the same"
        raise UnusableArgumentError(f"argument {name!r} of {function}: {error.message}; {hint}") from None
    except RecursionError:
        raise UnusableArgumentError(f"argument {name!r} of {function} contains itself, or is too deep") from None


def _tagged(value: object) -> object:
    """JSON in which no two different values look the same. Errors: UnusableArgumentError."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return [_kind(value), value.name]
    if type(value) in {int, str, *NAMED}:
        return [type(value).__name__, str(value)]
    if isinstance(value, float) and math.isfinite(value):
        return ["float", value.hex()]
    if isinstance(value, bytes | bytearray):
        return ["bytes", base64.b64encode(value).decode()]
    return _tagged_collection(value)


def _tagged_collection(value: object) -> object:
    if isinstance(value, Mapping):
        pairs = [[_tagged(key), _tagged(item)] for key, item in value.items()]
        return ["map", sorted(pairs, key=_text)]
    if isinstance(value, list | tuple):
        return ["list", [_tagged(item) for item in value]]
    if isinstance(value, set | frozenset):
        return ["set", sorted((_tagged(item) for item in value), key=_text)]
    if (fields := _fields(value)) is not None:
        return [_kind(value), _tagged(fields)]
    raise UnusableArgumentError(f"a {_kind(value)} has no canonical form")


def _text(value: object) -> str:
    return json.dumps(value)


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _fields(value: object) -> Mapping[str, object] | None:
    """The fields of a dataclass or a pydantic model, else None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        found: Mapping[str, object] = dump()
        return found
    return None


def as_result(value: object) -> dict[str, Any] | None:
    """What a function gave as the JSON object that is recorded; what is no object as `{"value": …}`.

    Errors: TypeError, ValueError for what is no JSON. Dataclasses and pydantic models are objects.
    """
    if value is None:
        return None
    plain = json.loads(json.dumps(value, default=_plain, allow_nan=False))
    # An object that has nothing but a `value` is wrapped as well, so that it comes back as what it was.
    if isinstance(plain, dict) and plain.keys() != {"value"}:
        return plain
    return {"value": plain}


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    if (fields := _fields(value)) is not None:
        return fields
    if type(value) in NAMED:
        return str(value)
    raise TypeError(f"a {_kind(value)} is no JSON")
