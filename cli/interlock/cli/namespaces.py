"""`interlock namespaces`: who shares this Interlock, and what holds in each namespace."""

from typing import Annotated

import typer

from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.documents import FromFile, document, given
from interlock.cli.output import AsJson, Row, show_fields, show_json, show_rows

app = typer.Typer(
    help="Manage namespaces, their plans and default policies. Takes an admin's key.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
)

COLUMNS = ("name", "plan", "default_policy", "description", "created_at", "deleted_at")

Name = Annotated[str, typer.Argument(help="The namespace: 1-63 of a-z 0-9 -.")]


@app.command("list")
def list_namespaces(
    *,
    with_deleted: Annotated[bool, typer.Option("--with-deleted", help="Those that were deleted, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List namespaces."""
    with connected() as api:
        show_rows(api.get("namespaces", with_deleted=str(with_deleted).lower()), COLUMNS, as_json=as_json)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a namespace, what its plan allows and what it has used of it."""
    with connected() as api:
        _show(api.get("namespaces", name), as_json=as_json)


@app.command()
def put(
    name: Name,
    *,
    file: FromFile = None,
    plan: Annotated[str | None, typer.Option(help="A plan of the engine's configuration.")] = None,
    default_policy: Annotated[
        str | None,
        typer.Option(help="For agents without a policy: allow, deny, or as the engine says. A policy comes in a file."),
    ] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    run_handler: Annotated[
        str | None, typer.Option(help="The tool that keyed runs without actions are given to; '' for none.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a namespace, or change what is given of it."""
    flags = given(plan=plan, default_policy=default_policy, description=description, run_handler=run_handler)
    with connected() as api:
        _show(api.post("namespaces", name, body={**document(file), **flags}), as_json=as_json)


@app.command()
def delete(
    name: Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="Even if it has tools or keys, which end with it.")] = False,
    as_json: AsJson = False,
) -> None:
    """End a namespace. Its audit trail stays, and its name is not given again."""
    with connected() as api:
        _show(api.delete("namespaces", name, force=str(force).lower()), as_json=as_json)


@app.command()
def plans(as_json: AsJson = False) -> None:
    """List the plans that there are."""
    columns = ("name", "tools", "runs_per_month", "requests_per_minute", "default_ttl_s", "max_ttl_s", "features")
    with connected() as api:
        show_rows(api.get("plans"), columns, as_json=as_json)


def _show(namespace: Row, *, as_json: bool) -> None:
    if as_json:
        show_json(namespace)
        return
    # Limits and usage, a line each.
    shown = {name: value for name, value in namespace.items() if name not in {"limits", "usage"}}
    limits, usage = namespace["limits"], namespace["usage"]
    shown |= {f"limit of {name}": value for name, value in limits.items() if name != "name" and value is not None}
    shown |= {f"used: {name}": value for name, value in (usage or {}).items()}
    show_fields(shown)
