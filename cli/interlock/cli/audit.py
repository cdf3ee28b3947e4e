"""`interlock audit`: the audit trail."""

from typing import Annotated

import typer

from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.output import AsJson, show_rows

app = typer.Typer(help="Read the audit trail.", epilog=EXIT_CODES, no_args_is_help=True)

COLUMNS = ("seq", "at", "type", "tool", "verdict", "reason", "charged_usd", "call_id")


@app.callback()
def audit() -> None:
    """Keeps `show` a command of its own: a group with a single command would swallow its name."""


@app.command()
def show(
    agent: Annotated[str, typer.Option(help="Whose events.")],
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater seq.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show an agent's events in the order of their gapless seq."""
    with connected() as api:
        show_rows(api.get("audit", agent_id=agent, after_seq=after, limit=limit), COLUMNS, as_json=as_json)
