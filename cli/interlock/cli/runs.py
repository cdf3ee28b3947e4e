"""`interlock runs`: runs and what happened in them, and the end of a keyed run that is no longer wanted."""

from typing import Annotated

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, MAX_LISTED, connected
from interlock.cli.completion import agent_names
from interlock.cli.output import AsJson, show_json, show_one, show_rows, show_table

app = OperatorCommands(
    help="List runs, see what happened in one, and cancel keyed runs.", epilog=EXIT_CODES, no_args_is_help=True
)

COLUMNS = ("run_id", "last_type", "last_status", "last_ts", "events_count")
EVENT_COLUMNS = ("ts", "type", "status", "tool", "step", "agent_id", "message")


@app.command("list")
def list_runs(
    prefix: Annotated[str | None, typer.Option(help="Only runs whose id begins so.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List runs, the one that something was last recorded of first."""
    with connected() as api:
        show_rows(api.get("runs", q=prefix, limit=limit)["items"], COLUMNS, as_json=as_json)


@app.command()
def show(run_id: Annotated[str, typer.Argument(help="The run's id.")], as_json: AsJson = False) -> None:
    """Show what happened in a run."""
    with connected() as api:
        found = api.get("runs", run_id)
    if as_json:
        show_json(found)
        return
    show_table(found["events"], EVENT_COLUMNS)
    if len(found["events"]) < found["total"]:
        typer.echo(f"{found['total'] - len(found['events'])} events more: --json and the API's ?offset=", err=True)


@app.command()
def cancel(
    key: Annotated[str, typer.Argument(help="The key that it was started with.")],
    agent: Annotated[
        str | None, typer.Option(help="The agent that started it, if one did.", autocompletion=agent_names)
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; the run's timeline tells it.")] = "",
    as_json: AsJson = False,
) -> None:
    """End a keyed run that waits or is worked on; what it did stands."""
    with connected() as api:
        ended = api.post("ai", "run", "cancel", body={"key": key, "reason": reason, "agent_id": agent})
    show_one(ended, as_json=as_json)
