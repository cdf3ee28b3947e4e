"""`interlock agents`: an agent's kill switch, its log and its figures."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.output import AsJson, show_one, show_rows

app = typer.Typer(help="Switch agents off and on, and see what they did.", epilog=EXIT_CODES, no_args_is_help=True)

COLUMNS = ("time", "tool", "decision", "policy_reason", "spend_usd", "risk_level", "call_id", "count")

Agent = Annotated[str, typer.Argument(help="The agent's id.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the switch.")]


class Period(StrEnum):
    """Over which time figures are summed."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"


@app.command()
def show(agent: Agent, as_json: AsJson = False) -> None:
    """Show whether an agent is enabled."""
    with connected() as api:
        show_one(api.get("agents", agent), as_json=as_json)


@app.command()
def disable(agent: Agent, reason: Reason = "", as_json: AsJson = False) -> None:
    """Pull an agent's kill switch: its very next call is refused."""
    with connected() as api:
        show_one(api.post("agents", agent, "disable", body={"reason": reason}), as_json=as_json)


@app.command()
def enable(agent: Agent, reason: Reason = "", as_json: AsJson = False) -> None:
    """Lift an agent's kill switch."""
    with connected() as api:
        show_one(api.post("agents", agent, "enable", body={"reason": reason}), as_json=as_json)


@app.command()
def logs(
    agent: Agent,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show an agent's decisions, newest first."""
    with connected() as api:
        decisions = api.get("agents", agent, "logs", limit=limit)
    rows = decisions if as_json else [{**decision, "time": _time(decision["ts"])} for decision in decisions]
    show_rows(rows, COLUMNS, as_json=as_json)


@app.command()
def metrics(
    agent: Agent,
    period: Annotated[Period, typer.Option(help="Over which time.")] = Period.DAY,
    as_json: AsJson = False,
) -> None:
    """Show an agent's figures."""
    with connected() as api:
        show_one(api.get("agents", agent, "metrics", period=period), as_json=as_json)


def _time(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
