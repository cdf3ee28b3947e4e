"""What is wrong with a file or a variable: where, at which key, and what; never the value, which may be a secret."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from interlock.governance.errors import InvalidRequestError

if TYPE_CHECKING:  # an operator's command should not wait for YAML to be loaded
    from interlock.cli.yaml_tree import Path


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a key is set: a file and its line (from 1), or a variable."""

    source: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to put right. The value that was given is not shown: it may be a secret."""

    place: Place
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), self.key, self.message) if part)


class ConfigurationError(InvalidRequestError):
    """The configuration cannot be used as it stands. `problems` are all of them, by place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__("invalid_configuration", "\n".join(str(problem) for problem in self.problems))


class UnreadableFileError(InvalidRequestError):
    """A file is not there, or not for us to read."""


def dotted(path: "Path") -> str:
    """A key as a person writes it: `sidecar.allowed_hosts[1]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def unknown_key(model: Any, path: "Path") -> str:
    """What to say of a key that the model does not have there, with the nearest one that it has."""
    types = [model]
    for key in path[:-1]:
        types = [below for of in types for below in types_below(of, key)]
    fields = [name for of in types for kind in kinds_of(of) for name in getattr(kind, "model_fields", ())]
    near = get_close_matches(str(path[-1]), fields, 1)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else "")


def kinds_of(annotation: Any) -> Iterator[Any]:
    """What a value of this type may be: of `Annotated[Section | None, …]`, Section and None."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from kinds_of(parts[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in parts:
            yield from kinds_of(part)
    else:
        yield annotation


def types_below(annotation: Any, key: str | int) -> Iterator[Any]:
    """The types that what stands under this key may have: a model's field, a mapping's value, a list's item."""
    for kind in kinds_of(annotation):
        if hasattr(kind, "model_fields"):
            if key in kind.model_fields:
                yield kind.model_fields[key].annotation
        elif parts := get_args(kind):
            yield parts[-1]
