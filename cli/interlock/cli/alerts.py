"""`interlock alerts`: what was worth telling, where it goes, and what could not be delivered."""

from enum import StrEnum
from typing import Annotated

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, MAX_LISTED, connected
from interlock.cli.output import AsJson, Row, show_json, show_one, show_rows

app = OperatorCommands(
    help="See alerts, say where they go, and deliver dead letters again.", epilog=EXIT_CODES, no_args_is_help=True
)

COLUMNS = ("alert_id", "raised_at", "kind", "agent_id", "tool", "reason", "count", "deliveries")

Limit = Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")]


class State(StrEnum):
    """How far a delivery has come."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@app.command("list")
def list_alerts(
    state: Annotated[State | None, typer.Option(help="Only those with a delivery that is.")] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List alerts, newest first."""
    _show(state, limit, as_json=as_json)


@app.command()
def dead(limit: Limit = 100, as_json: AsJson = False) -> None:
    """List dead letters: alerts that could not be delivered, and what the last try failed with."""
    _show(State.DEAD, limit, as_json=as_json)


@app.command()
def redeliver(
    alert_id: Annotated[str | None, typer.Argument(help="The alert's id, alert_….")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver dead letters again, from the first try on and under the same webhook-id."""
    if (alert_id is None) is not every:
        raise typer.BadParameter("name an alert, or say --all")
    with connected() as api:
        path = ("alerts", "redeliver") if alert_id is None else ("alerts", alert_id, "redeliver")
        show_one(api.post(*path, body={}), as_json=as_json)


@app.command()
def webhook(
    url: Annotated[str | None, typer.Argument(help="Where alerts are posted; left out, what holds is shown.")] = None,
    *,
    secret: Annotated[
        str | None,
        typer.Option(envvar="INTERLOCK_ALERT_SECRET", help="Signs them, best as whsec_BASE64; another URL needs it."),
    ] = None,
    mail_to: Annotated[list[str] | None, typer.Option(help="To whom they are mailed; repeatable.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Have them go where the engine's settings say.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say where the namespace's alerts go, or show it."""
    given = {"webhook_url": url, "secret": secret if url else None, "recipients": mail_to or None}
    body = {name: value for name, value in given.items() if value is not None}
    if remove and body:
        raise typer.BadParameter("--remove goes alone")
    with connected() as api:
        if remove:
            show_one(api.delete("me", "alerts"), as_json=as_json)
        else:
            show_one(api.post("me", "alerts", body=body) if body else api.get("me", "alerts"), as_json=as_json)


def _show(state: State | None, limit: int, *, as_json: bool) -> None:
    with connected() as api:
        alerts = api.get("alerts", state=state, limit=limit)
    if as_json:
        show_json(alerts)
    else:
        show_rows([_row(alert) for alert in alerts], COLUMNS, as_json=False)


def _row(alert: Row) -> Row:
    """With its deliveries in a few words: `webhook dead after 8: status 500`."""
    told = (
        f"{one['channel']} {one['state']}" + (f" after {one['tries']}: {one['problem']}" if one["problem"] else "")
        for one in alert["deliveries"]
    )
    return {**alert, "deliveries": "; ".join(told)}
