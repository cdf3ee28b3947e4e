"""`interlock switch`: the kill switches of every kind."""

from enum import StrEnum
from typing import Annotated

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.output import AsJson, show_one, show_rows

app = OperatorCommands(help="Pull and lift kill switches of every kind.", epilog=EXIT_CODES, no_args_is_help=True)

COLUMNS = ("scope", "name", "scope_id", "pulled", "reason", "changed_at", "changed_by")


class SwitchScope(StrEnum):
    """What a switch stops."""

    NAMESPACE = "namespace"
    GLOBAL = "global"
    AGENT = "agent"
    TOOL = "tool"


Scope = Annotated[SwitchScope, typer.Option(help="Stop the namespace, everything, an agent or a tool.")]
Name = Annotated[str | None, typer.Option(help="Which agent or tool.")]
ScopeId = Annotated[str | None, typer.Option("--scope-id", help="Of a tool: `global` (default), or `agent:ID`.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the switch.")]


@app.command()
def on(
    *,
    scope: Scope = SwitchScope.NAMESPACE,
    name: Name = None,
    scope_id: ScopeId = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Pull a switch: nothing goes through any more."""
    _throw(scope, {"pulled": True, "reason": reason, "name": name, "scope_id": scope_id}, as_json=as_json)


@app.command()
def off(
    *,
    scope: Scope = SwitchScope.NAMESPACE,
    name: Name = None,
    scope_id: ScopeId = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Lift a switch: calls go through again."""
    _throw(scope, {"pulled": False, "reason": reason, "name": name, "scope_id": scope_id}, as_json=as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the global and the namespace's switch, and those of agents and tools that are pulled."""
    with connected() as api:
        show_rows(api.get("switches"), COLUMNS, as_json=as_json)


def _throw(scope: SwitchScope, body: dict[str, object], *, as_json: bool) -> None:
    given = {name: value for name, value in body.items() if value is not None}
    with connected() as api:
        show_one(api.post("switches", scope, body=given), as_json=as_json)
