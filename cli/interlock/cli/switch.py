"""`interlock switch`: the kill switches above the agents."""

from enum import StrEnum
from typing import Annotated

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.output import AsJson, show_one, show_rows

app = OperatorCommands(
    help="Pull and lift the kill switches above the agents.", epilog=EXIT_CODES, no_args_is_help=True
)

COLUMNS = ("scope", "pulled", "reason", "changed_at")


class SwitchScope(StrEnum):
    """What a switch stops."""

    NAMESPACE = "namespace"
    GLOBAL = "global"


Scope = Annotated[SwitchScope, typer.Option(help="Stop the key's namespace, or everything.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the switch.")]


@app.command()
def on(scope: Scope = SwitchScope.NAMESPACE, reason: Reason = "", as_json: AsJson = False) -> None:
    """Pull a switch: nothing goes through any more."""
    _throw(scope, reason, pulled=True, as_json=as_json)


@app.command()
def off(scope: Scope = SwitchScope.NAMESPACE, reason: Reason = "", as_json: AsJson = False) -> None:
    """Lift a switch: calls go through again."""
    _throw(scope, reason, pulled=False, as_json=as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show both switches as they stand."""
    with connected() as api:
        show_rows(api.get("switches"), COLUMNS, as_json=as_json)


def _throw(scope: SwitchScope, reason: str, *, pulled: bool, as_json: bool) -> None:
    with connected() as api:
        show_one(api.post("switches", scope, body={"pulled": pulled, "reason": reason}), as_json=as_json)
