"""`interlock keys`: API keys."""

from enum import StrEnum
from typing import Annotated

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.output import AsJson, show_fields, show_json, show_one, show_rows

app = OperatorCommands(help="Make, list and revoke API keys.", epilog=EXIT_CODES, no_args_is_help=True)

COLUMNS = ("key_id", "role", "agent_id", "label", "created_at", "revoked_at")


class Role(StrEnum):
    """What a key may do."""

    AGENT = "agent"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command()
def create(
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    agent: Annotated[str | None, typer.Option(help="The agent it is bound to; with --role agent.")] = None,
    label: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a key. Its value is shown this once."""
    with connected() as api:
        created = api.post("keys", body={"role": role.value, "agent_id": agent, "label": label})
    if as_json:
        show_json(created)
        return
    show_fields(created)
    typer.echo("Keep the key now: it is not shown again.", err=True)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List keys, without their values."""
    with connected() as api:
        show_rows(api.get("keys"), COLUMNS, as_json=as_json)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Its public id, key_….")],
    as_json: AsJson = False,
) -> None:
    """End a key for the very next decision."""
    with connected() as api:
        show_one(api.delete("keys", key_id), as_json=as_json)
