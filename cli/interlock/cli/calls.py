"""`interlock calls`: calls still open, and an operator's word on those of unknown outcome."""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.audit import COLUMNS as EVENT_COLUMNS
from interlock.cli.client import EXIT_CODES, MAX_LISTED, connected
from interlock.cli.completion import agent_names, tool_names
from interlock.cli.event_lines import call_line, coloured
from interlock.cli.following import Follower, until_interrupted
from interlock.cli.output import AsJson, show_fields, show_json, show_line, show_one, show_rows, show_table

app = OperatorCommands(
    help="Watch calls as they are made, see those that are open, and resolve those of unknown outcome.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)

COLUMNS = ("call_id", "agent_id", "tool", "state", "tries", "charged_usd", "first_seen_at", "lease_until")

CallId = Annotated[str, typer.Argument(help="The call's id, call_….")]
Agent = Annotated[
    str | None, typer.Option(help="Its agent, if known: the call is found faster.", autocompletion=agent_names)
]


class State(StrEnum):
    """How a call stands."""

    IN_FLIGHT = "in_flight"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    OPEN = "open"


class Verdict(StrEnum):
    """What a decision says, or what became of a call."""

    EXECUTE = "EXECUTE"
    REPLAY = "REPLAY"
    BLOCKED = "BLOCKED"
    IN_FLIGHT = "IN_FLIGHT"
    MISMATCH = "MISMATCH"
    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "SUCCEEDED"
    REJECTED = "REJECTED"
    NOT_SENT = "NOT_SENT"
    AMBIGUOUS = "AMBIGUOUS"


@app.command("list")
def list_calls(
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.", autocompletion=agent_names)] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")] = 100,
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


@app.command()
def follow(
    agent: Annotated[str | None, typer.Option(help="Only of this agent.", autocompletion=agent_names)] = None,
    tool: Annotated[
        list[str] | None, typer.Option(help="Only of this tool (or * glob); repeatable.", autocompletion=tool_names)
    ] = None,
    verdict: Annotated[
        list[Verdict] | None,
        typer.Option(help="Only with this verdict or outcome; repeatable.", case_sensitive=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show decisions and settlements as they are made, a line each, until Ctrl-C. With --json, an event a line.

    A connection that breaks is made again: no event is lost, and none shown twice.
    """
    colour = coloured() and not as_json
    with connected() as api, until_interrupted():
        for event in Follower(api, agent=agent, last=0, on=True).events():
            if _is_wanted(event, tool or (), verdict or ()):
                show_line(json.dumps(event) if as_json else call_line(event, colour=colour))


def _is_wanted(event: Mapping[str, Any], tools: Sequence[str], verdicts: Sequence[str]) -> bool:
    """Whether it is about a call, and one that was asked for."""
    name = event.get("tool")
    if not name or (verdicts and event.get("verdict") not in verdicts):
        return False
    return not tools or any(fnmatch.fnmatchcase(name, glob) for glob in tools)
