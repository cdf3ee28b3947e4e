"""`interlock agents`: an agent's kill switch, its log and its figures."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, MAX_LISTED, connected
from interlock.cli.completion import agent_names
from interlock.cli.output import AsJson, show_json, show_one, show_rows, show_table

app = OperatorCommands(help="Switch agents off and on, and see what they did.", epilog=EXIT_CODES, no_args_is_help=True)

COLUMNS = ("time", "tool", "decision", "policy_reason", "spend_usd", "risk_level", "call_id", "count")
STANDING = (
    *("agent_id", "enabled", "last_seen", "actions_this_hour", "spend_today", "blocked_today", "running", "unknown"),
)

Agent = Annotated[str, typer.Argument(help="The agent's id.", autocompletion=agent_names)]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the switch.")]


class Period(StrEnum):
    """Over which time figures are summed."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"


@app.command("list")
def list_agents(
    after: Annotated[str | None, typer.Option(help="Only agents whose id comes after this one: the next page.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List agents with what they did beside what they may."""
    with connected() as api:
        found = api.get("agents", after=after, limit=limit)
    if as_json:
        show_json(found)
        return
    show_table([_standing(agent) for agent in found], STANDING)
    if len(found) == limit:
        typer.echo(f"There may be more: --after {found[-1]['agent_id']}", err=True)


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


def _standing(agent: dict[str, Any]) -> dict[str, Any]:
    """An agent's row: what it did `of` what it may."""
    return {
        **agent,
        "enabled": agent["is_enabled"],
        "last_seen": agent["last_seen_at"],
        "actions_this_hour": _of(agent["actions_in_hour"], agent["max_actions_per_hour"]),
        "spend_today": _of(f"${agent['spend_usd_today']:,.2f}", agent["max_spend_usd_per_day"]),
        "blocked_today": agent["blocked_today"],
        "running": agent["running_calls"],
        "unknown": agent["unknown_calls"],
    }


def _of(used: object, limit: float | None) -> str:
    return str(used) if limit is None else f"{used} of {limit:,g}"


def _time(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
