"""JSON into frozen dataclasses, by their own types. Fields that a newer server adds are passed over."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from interlock.client.errors import InvalidAnswerError

T = TypeVar("T")


def read(kind: type[T], value: object) -> T:
    """`value`, decoded JSON, as a `kind`. Errors: InvalidAnswerError, which names what does not fit."""
    found: T = _read(kind, value, kind.__name__)
    return found


def read_list(kind: type[T], value: object) -> tuple[T, ...]:
    """A JSON array as a tuple of `kind`. Errors: InvalidAnswerError."""
    found: tuple[T, ...] = _read(tuple[kind, ...], value, kind.__name__)  # type: ignore[valid-type]  # made at run time
    return found


def read_object(value: object) -> dict[str, Any]:
    """A JSON object as it is. Errors: InvalidAnswerError."""
    found: dict[str, Any] = _fits(dict, value, "the answer")
    return found


def _read(kind: Any, value: object, at: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read_object(kind, value, at)
    origin = get_origin(kind)
    if origin in {Union, UnionType}:
        return _read_union(get_args(kind), value, at)
    if origin is tuple:
        return tuple(_read(get_args(kind)[0], item, f"{at}[{n}]") for n, item in enumerate(_fits(list, value, at)))
    if origin is not None and issubclass(origin, Mapping):
        inner = get_args(kind)[1]
        return {name: _read(inner, item, f"{at}.{name}") for name, item in _fits(dict, value, at).items()}
    fitting = float(value) if kind is float and type(value) is int else value
    return _fits(kind, fitting, at)


def _read_union(kinds: tuple[Any, ...], value: object, at: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    wanted = [kind for kind in kinds if kind is not NoneType]
    for kind in wanted[:-1]:
        if isinstance(value, get_origin(kind) or kind):
            return _read(kind, value, at)
    return _read(wanted[-1], value, at)


def _read_object(kind: Any, value: object, at: str) -> Any:
    told = _fits(dict, value, at)
    hints = _hints(kind)
    given = {}
    for field in dataclasses.fields(kind):
        if field.name == "raw":
            given["raw"] = told
        elif field.name in told:
            given[field.name] = _read(hints[field.name], told[field.name], f"{at}.{field.name}")
    try:
        return kind(**given)
    except TypeError:
        missing = [field.name for field in dataclasses.fields(kind) if _is_missing(field, given)]
        raise InvalidAnswerError("invalid_answer", f"the answer lacks {at}.{', '.join(missing)}") from None


def _is_missing(field: dataclasses.Field[Any], given: Mapping[str, object]) -> bool:
    needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return needed and field.name not in given


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(kind: Any, value: object, at: str) -> Any:
    # JSON's true is no number, whatever Python says.
    if kind is Any:
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidAnswerError("invalid_answer", f"{at} is {type(value).__name__}, not {kind.__name__}")
    return value
