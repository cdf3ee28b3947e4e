"""What is wrong with a file or a variable: where, at which key, and what; never the value, which may be a secret."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from interlock.cli.yaml_tree import Path
from interlock.governance.errors import InvalidRequestError


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


def dotted(path: Path) -> str:
    """A key as a person writes it: `sidecar.allowed_hosts[1]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def unknown_key(model: Any, path: Path) -> str:
    """What to say of a key that the model does not have there, with the nearest one that it has."""
    near = get_close_matches(str(path[-1]), _keys_at([model], path[:-1]), 1)
    return "unknown key" + (f"; did you mean {near[0]}?" if near else "")


def models_in(annotation: Any) -> Iterator[Any]:
    """The models that a value of this type may be: of `Annotated[Section | None, …]`, Section."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from models_in(part)


def _keys_at(types: list[Any], path: Path) -> list[str]:
    for key in path:
        below = []
        for model in (model for of in types for model in models_in(of)):
            # A key that is no field's is one of a mapping or the index of an item: the type of these is in `types`.
            below += [model.model_fields[key].annotation] if key in model.model_fields else []
        types = below or types
    return [name for of in types for model in models_in(of) for name in model.model_fields]
