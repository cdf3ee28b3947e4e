"""`interlock calls`: calls still open, and an operator's word on those of unknown outcome."""

from enum import StrEnum
from typing import Annotated

import typer

from interlock.cli.audit import COLUMNS as EVENT_COLUMNS
from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.output import AsJson, show_fields, show_json, show_one, show_rows, show_table

app = typer.Typer(
    help="See calls that are still open, and resolve those of unknown outcome.", epilog=EXIT_CODES, no_args_is_help=True
)

COLUMNS = ("call_id", "agent_id", "tool", "state", "tries", "charged_usd", "first_seen_at", "lease_until")

CallId = Annotated[str, typer.Argument(help="The call's id, call_….")]
Agent = Annotated[str | None, typer.Option(help="Its agent, if known: the call is found faster.")]


class State(StrEnum):
    """How a call stands."""

    IN_FLIGHT = "in_flight"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    OPEN = "open"


@app.command("list")
def list_calls(
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List calls, oldest first."""
    with connected() as api:
        show_rows(api.get("calls", state=state, agent_id=agent, limit=limit), COLUMNS, as_json=as_json)


@app.command()
def show(call_id: CallId, agent: Agent = None, as_json: AsJson = False) -> None:
    """Show a call with its events."""
    with connected() as api:
        call = api.get("calls", call_id, agent_id=agent)
    if as_json:
        show_json(call)
        return
    show_fields({name: value for name, value in call.items() if name != "events"})
    show_table(call["events"], EVENT_COLUMNS)


@app.command()
def resolve(
    call_id: CallId,
    succeeded: Annotated[
        bool, typer.Option("--succeeded/--not-sent", help="It happened, or it did not: then key and money are freed.")
    ],
    note: Annotated[str, typer.Option(help="How you know; it is kept in the audit trail.")] = "",
    agent: Agent = None,
    as_json: AsJson = False,
) -> None:
    """Say what became of a call of unknown outcome."""
    body = {"outcome": "succeeded" if succeeded else "not_sent", "note": note, "agent_id": agent}
    with connected() as api:
        show_one(api.post("calls", call_id, "resolve", body=body), as_json=as_json)
