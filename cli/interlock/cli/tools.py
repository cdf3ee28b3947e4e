"""`interlock tools`: the registry of what agents may call."""

from enum import StrEnum
from typing import Annotated

import typer

from interlock.cli.client import EXIT_CODES, connected
from interlock.cli.documents import FromFile, document, given
from interlock.cli.output import AsJson, show_one, show_rows

app = typer.Typer(help="Register, show and switch tools.", epilog=EXIT_CODES, no_args_is_help=True)

COLUMNS = ("name", "scope_id", "url", "enabled", "on_ambiguous", "risk", "timeout_ms", "max_retries", "has_secret")

Name = Annotated[str, typer.Argument(help="The tool's name.")]
Scope = Annotated[str, typer.Option(help="`global`, or `agent:ID` for an agent's own tool.")]


class OnAmbiguous(StrEnum):
    """What may follow a try of unknown outcome."""

    RETRY = "retry"
    HOLD = "hold"


class OnGovernanceFailure(StrEnum):
    """What becomes of a call while nobody can be asked to judge it."""

    CLOSED = "closed"
    OPEN = "open"


class DedupMode(StrEnum):
    """How a call's key is found."""

    DERIVED = "derived"
    HEADER = "header"
    OFF = "off"


class Risk(StrEnum):
    """How risky a call is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@app.command("list")
def list_tools(
    scope: Annotated[str | None, typer.Option(help="Only of this scope.")] = None, as_json: AsJson = False
) -> None:
    """List tools."""
    with connected() as api:
        show_rows(api.get("tools", scope_id=scope), COLUMNS, as_json=as_json)


@app.command()
def show(name: Name, scope: Scope = "global", as_json: AsJson = False) -> None:
    """Show a tool."""
    with connected() as api:
        show_one(api.get("tools", name, scope_id=scope), as_json=as_json)


@app.command()
def put(
    name: Annotated[str | None, typer.Argument(help="The tool's name, if no file gives it.")] = None,
    *,
    file: FromFile = None,
    url: Annotated[str | None, typer.Option(help="Where it listens: http or https.")] = None,
    secret: Annotated[
        str | None,
        typer.Option(envvar="INTERLOCK_TOOL_SECRET", help="Calls are signed with it; at least 8 characters."),
    ] = None,
    scope: Annotated[str | None, typer.Option(help="`global` (default), or `agent:ID`.")] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="A method it accepts; may be repeated.")] = None,
    timeout_ms: Annotated[int | None, typer.Option(help="Until the answer's head, and between its pieces.")] = None,
    max_retries: Annotated[int | None, typer.Option(help="Further tries inside one call.")] = None,
    on_ambiguous: Annotated[OnAmbiguous | None, typer.Option(help="After a try of unknown outcome.")] = None,
    dedup: Annotated[DedupMode | None, typer.Option(help="How a call's key is found.")] = None,
    read_only: Annotated[bool | None, typer.Option(help="Its calls change nothing.")] = None,
    risk: Annotated[Risk | None, typer.Option(help="How risky a call is.")] = None,
    on_governance_failure: Annotated[
        OnGovernanceFailure | None,
        typer.Option(help="While engine or Redis cannot be reached; `open` is for reads, see docs/failure.md."),
    ] = None,
    open_max_calls_per_minute: Annotated[
        int | None, typer.Option(help="With `open`: so many a minute, from each sidecar.")
    ] = None,
    reconcile_url: Annotated[
        str | None, typer.Option(help="With `hold`: asked what became of a call of unknown outcome.")
    ] = None,
    reconcile_deadline_s: Annotated[
        int | None, typer.Option(help="How long it is asked, from the first try; then it is yours to resolve.")
    ] = None,
    reconcile_timeout_ms: Annotated[int | None, typer.Option(help="Time for one answer of it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create or replace a tool, from a file, from flags, or from a file with flags over it."""
    flags = given(
        name=name,
        url=url,
        auth={"type": "hmac_sha256", "secret": secret} if secret else None,
        scope_id=scope,
        description=description,
        methods=method,
        timeout_ms=timeout_ms,
        max_retries=max_retries,
        on_ambiguous=on_ambiguous,
        dedup={"mode": dedup} if dedup else None,
        read_only=read_only,
        risk=risk,
        on_governance_failure=on_governance_failure,
        open_max_calls_per_minute=open_max_calls_per_minute,
        reconcile_url=reconcile_url,
        reconcile_deadline_s=reconcile_deadline_s,
        reconcile_timeout_ms=reconcile_timeout_ms,
    )
    with connected() as api:
        show_one(api.post("tools", body={**document(file), **flags}), as_json=as_json)


@app.command()
def delete(name: Name, scope: Scope = "global", as_json: AsJson = False) -> None:
    """Delete a tool."""
    with connected() as api:
        show_one(api.delete("tools", name, scope_id=scope), as_json=as_json)


@app.command()
def enable(name: Name, scope: Scope = "global", as_json: AsJson = False) -> None:
    """Lift a tool's kill switch."""
    _toggle(name, scope, enabled=True, as_json=as_json)


@app.command()
def disable(name: Name, scope: Scope = "global", as_json: AsJson = False) -> None:
    """Pull a tool's kill switch."""
    _toggle(name, scope, enabled=False, as_json=as_json)


def _toggle(name: str, scope: str, *, enabled: bool, as_json: bool) -> None:
    with connected() as api:
        tool = api.post("tools", name, "toggle", body={"enabled": enabled}, scope_id=scope)
        show_one(tool, as_json=as_json)
