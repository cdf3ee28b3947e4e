"""`--namespace`: what every operator command takes, for an admin to act in another namespace than that of the key."""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

import typer

Function = TypeVar("Function", bound=Callable[..., Any])

_named: ContextVar[str | None] = ContextVar("namespace", default=None)


def _is_header_value(name: str | None) -> str | None:
    if name and not (name.isascii() and name.isprintable()):
        raise typer.BadParameter("a namespace's name is 1-63 of a-z 0-9 -")
    return name


OPTION = Annotated[
    str | None,
    typer.Option(
        envvar="INTERLOCK_NAMESPACE",
        callback=_is_header_value,
        metavar="NAME",
        help="Act in this namespace, not in the key's own; takes an admin's key.",
    ),
]


class OperatorCommands(typer.Typer):
    """A group of commands that take `--namespace` beside what their functions declare."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """As typer's own."""
        register = super().command(name, **settings)

        def decorate(function: Function) -> Function:
            register(in_namespace(function))
            return function

        return decorate


def acting_in() -> dict[str, str]:
    """The header that says where the running command acts."""
    named = _named.get()
    return {"Interlock-Namespace": named} if named else {}


def in_namespace(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that takes `--namespace`, too."""

    @functools.wraps(function)
    def command(*args: Any, namespace: str | None, **given: Any) -> Any:
        before = _named.set(namespace)
        try:
            return function(*args, **given)
        finally:
            _named.reset(before)

    declared = inspect.signature(function)
    option = inspect.Parameter("namespace", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=OPTION)
    command.__signature__ = declared.replace(parameters=[*declared.parameters.values(), option])  # type: ignore[attr-defined] # what inspect looks at first (PEP 362)
    command.__annotations__ = {**function.__annotations__, "namespace": OPTION}
    return command
