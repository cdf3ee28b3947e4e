"""`interlock audit`: the audit trail."""
# ruff: noqa: PLC0415 - what only evidence needs is imported for evidence

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, MAX_LISTED, connected
from interlock.cli.completion import agent_names
from interlock.cli.event_lines import coloured, event_line
from interlock.cli.following import Follower, until_interrupted
from interlock.cli.output import AsJson, show_line, show_rows

app = OperatorCommands(help="Read the audit trail, and prove what it says.", epilog=EXIT_CODES, no_args_is_help=True)
offline = partial(typer.Typer.command, app)
"""A command that asks no API, and so takes no namespace."""

COLUMNS = ("seq", "at", "type", "tool", "verdict", "reason", "charged_usd", "call_id")


@app.command()
def show(
    agent: Annotated[str, typer.Option(help="Whose events.", autocompletion=agent_names)],
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater seq.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show an agent's events in the order of their gapless seq."""
    with connected() as api:
        show_rows(api.get("audit", agent_id=agent, after_seq=after, limit=limit), COLUMNS, as_json=as_json)


@app.command()
def changes(
    *,
    everywhere: Annotated[bool, typer.Option("--global", help="Of the global switch; takes an admin's key.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater seq.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show what was changed above the agents: namespace, tools, keys and switches, and by which key."""
    scope = "global" if everywhere else "namespace"
    with connected() as api:
        events = api.get("changes", scope=scope, after_seq=after, limit=limit)
    rows = events if as_json else [event | {"key_id": event["facts"].get("key_id")} for event in events]
    show_rows(rows, ("seq", "at", "type", "tool", "verdict", "reason", "key_id", "facts"), as_json=as_json)


@app.command()
def tail(
    agent: Annotated[
        str | None, typer.Option(help="Only of this agent; without, of all.", autocompletion=agent_names)
    ] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=0, max=100, help="Begin with so many.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those to come, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the latest events, raw, a line each, and with --follow those to come.

    A connection that breaks is made again: no event is lost, and none shown twice.
    """
    colour = coloured() and not as_json
    with connected() as api, until_interrupted():
        for event in Follower(api, agent=agent, last=last, on=follow).events():
            show_line(json.dumps(event) if as_json else event_line(event, colour=colour))


@app.command()
def export(
    agent: Annotated[str | None, typer.Option(help="Whose events; every agent's by default.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater seq: to go on where a file ends.")] = 0,
) -> None:
    """Print the trail as the exporter writes it: chained CloudEvents, one a line, for `verify` or another program."""
    from interlock.cli import evidence

    if after and agent is None:
        raise typer.BadParameter("needs --agent: each agent has seqs of its own", param_hint="--after")
    with connected() as api:
        evidence.export(api, agent, after)


@offline(epilog="Exit codes: 0 proved, 1 not proved: something is wrong, or there is nothing, 2 cannot be read.")
def verify(
    files: Annotated[
        list[Path], typer.Argument(help="Exported files (.jsonl, .gz) in their order, or folders of them.")
    ],
    public_key: Annotated[
        list[Path] | None, typer.Option(help="Verifies the signed heads; of every key that ever signed, one each.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove offline that exported files are complete, in order and unchanged, or name the first event that is not."""
    from interlock.cli import evidence

    evidence.check(files, public_key or [], as_json=as_json)


@offline()
def new_key() -> None:
    """Print a new key to sign with (audit.signing_key_file), PEM. It is kept nowhere else."""
    from interlock.cli import evidence

    evidence.print_new_key()


@offline()
def public_key(signing_key: Annotated[Path, typer.Argument(help="The file with the signing key.")]) -> None:
    """Print the public key of a signing key: what an auditor needs for `verify`, PEM."""
    from interlock.cli import evidence

    evidence.print_public_key(signing_key)
