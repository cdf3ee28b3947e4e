"""The one typed tree of settings, read from a YAML file and from `INTERLOCK_…` variables.

A variable names its key by `__` between the levels: `INTERLOCK_SIDECAR__PORT` is `sidecar.port`. Variables win over the
file. Names without `__` are left alone: they belong to the operator's commands, or to Kubernetes, which sets
`INTERLOCK_PORT` and the like where a service is called interlock.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from interlock.audit.settings import AuditSettings
from interlock.cli import yaml_tree
from interlock.cli.problems import ConfigurationError, Place, Problem, UnreadableFileError, dotted, unknown_key
from interlock.injector.settings import InjectorSettings
from interlock.policy.settings import EngineSettings
from interlock.proxy.settings import SidecarSettings
from interlock.store.settings import RedisSettings

PREFIX = "INTERLOCK_"
SHORT_NAMES = {
    "INTERLOCK_REDIS_URL": ("redis", "url"),
    "INTERLOCK_BOOTSTRAP_KEY": ("engine", "bootstrap_key"),
}

Settings = Mapping[str, Any]


class Configuration(BaseModel):
    """Everything that can be set, by role."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Interlock")

    redis: RedisSettings = Field(default_factory=RedisSettings, description="Where the record is kept")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="The governance engine")
    sidecar: SidecarSettings = Field(default_factory=SidecarSettings, description="The sidecar")
    audit: AuditSettings = Field(default_factory=AuditSettings, description="The exporter of the audit trail")
    injector: InjectorSettings = Field(default_factory=InjectorSettings, description="The webhook of Kubernetes")


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one source, and where in it each of them stands."""

    settings: Settings
    places: Mapping[yaml_tree.Path, Place]


def load(
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    defaults: Settings | None = None,
    flags: Settings | None = None,
) -> Configuration:
    """The configuration as flags, variables, the file and `defaults` give it, the former winning over the latter.

    Raises ConfigurationError with every problem at once, UnreadableFileError.
    """
    from_file, problems = _layer_of_file(file) if file else (Layer({}, {}), [])
    layers = [Layer(defaults or {}, {}), from_file, *_layers_of_variables(environ), Layer(flags or {}, {})]
    settings: Settings = {}
    for layer in layers:
        settings = _merged(settings, layer.settings)
    try:
        configuration = Configuration.model_validate(settings)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        raise ConfigurationError([*problems, *(_problem(detail, layers) for detail in details)]) from None
    if problems:
        raise ConfigurationError(problems)
    return configuration


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of the configuration file."""
    return Configuration.model_json_schema()


def _layer_of_file(file: Path) -> tuple[Layer, list[Problem]]:
    document = yaml_tree.read(_text_of(file))
    name = str(file)
    problems = [Problem(Place(name, line), dotted(path), message) for line, path, message in document.faults]
    settings = document.tree or {}
    if not isinstance(settings, Mapping):
        problems.append(Problem(Place(name, 1), "", "keys and values are expected"))
        settings = {}
    return Layer(settings, {path: Place(name, line) for path, line in document.lines.items()}), problems


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableFileError("unreadable_file", f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableFileError("unreadable_file", f"{file} is not UTF-8 text") from error


def _layers_of_variables(environ: Mapping[str, str]) -> Iterator[Layer]:
    """One for each variable that is set to something; a short name gives way to the full one."""
    for name in sorted(environ, key=lambda name: (name not in SHORT_NAMES, name)):
        path = SHORT_NAMES.get(name) or tuple(name.removeprefix(PREFIX).lower().split("__"))
        if name.startswith(PREFIX) and len(path) > 1 and environ[name]:
            settings: Any = _value_of(environ[name])
            for key in reversed(path):
                settings = {key: settings}
            yield Layer(settings, {path[:end]: Place(name) for end in range(1, len(path) + 1)})


def _value_of(text: str) -> Any:
    """Lists and objects are written as JSON; everything else is text until its field says what it is."""
    if text.startswith(("[", "{")):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return text


def _merged(under: Any, over: Any) -> Any:
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    return {**under, **{key: _merged(under.get(key), value) for key, value in over.items()}}


def _problem(detail: ErrorDetails, layers: Sequence[Layer]) -> Problem:
    path = detail["loc"]
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = unknown_key(Configuration, path)
    return Problem(_place(path, layers), dotted(path), message)


def _place(path: yaml_tree.Path, layers: Sequence[Layer]) -> Place:
    """Where the key, or else the section it is in, was set last."""
    for end in range(len(path), 0, -1):
        for layer in reversed(layers):
            if path[:end] in layer.places:
                return layer.places[path[:end]]
    return Place()
