"""`interlock tools`: the registry of what agents may call."""

import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from interlock.cli.acting import OperatorCommands
from interlock.cli.client import EXIT_CODES, USAGE, ApiError, connected
from interlock.cli.completion import tool_names
from interlock.cli.documents import FromFile, document, given
from interlock.cli.output import AsJson, show_one, show_rows

app = OperatorCommands(help="Register, show and switch tools.", epilog=EXIT_CODES, no_args_is_help=True)

COLUMNS = ("name", "scope_id", "url", "enabled", "on_ambiguous", "risk", "timeout_ms", "max_retries", "has_secret")

CREDENTIAL = "INTERLOCK_TOOL_CREDENTIAL"

Name = Annotated[str, typer.Argument(help="The tool's name.", autocompletion=tool_names)]
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


class AuthStyle(StrEnum):
    """How an OAuth client shows its secret to the token endpoint."""

    BASIC = "basic"
    POST = "post"


@dataclass(frozen=True, slots=True)
class CredentialFlags:
    """The tool's own credential as flags tell it. Its secret never stands on the command line, where `ps` shows it."""

    header: str | None
    token_url: str | None
    client_id: str | None
    scope: str | None
    audience: str | None
    auth_style: AuthStyle | None
    from_stdin: bool
    removed: bool

    def fields(self, file: Path | None) -> dict[str, object]:
        """What these flags set of a tool's fields. Raises ApiError for half of a credential."""
        oauth2 = given(
            token_url=self.token_url,
            client_id=self.client_id,
            scope=self.scope,
            audience=self.audience,
            auth_style=self.auth_style,
        )
        if self.removed:
            if oauth2 or self.header:
                raise ApiError("--no-credential excludes the flags of one", USAGE)
            return {"upstream_credential": None}
        if not oauth2 and self.header is None:
            return {}
        secret = self._secret(file)
        if oauth2:
            shown = given(header=self.header, client_secret=secret)
            return {"upstream_credential": {"type": "oauth2_client_credentials", **oauth2, **shown}}
        if not secret:
            raise ApiError(f"--credential-header needs its value: set {CREDENTIAL} or use --credential-stdin", USAGE)
        return {"upstream_credential": {"header": self.header, "value": secret}}

    def _secret(self, file: Path | None) -> str | None:
        if not self.from_stdin:
            return os.environ.get(CREDENTIAL)
        if str(file) == "-":
            raise ApiError(f"standard input is the tool's file already: set the secret in {CREDENTIAL}", USAGE)
        return sys.stdin.read().rstrip("\r\n")


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


@app.command()  # long by its flags: typer reads them from the signature
def put(
    name: Annotated[str | None, typer.Argument(help="The tool's name, if no file gives it.")] = None,
    *,
    file: FromFile = None,
    url: Annotated[str | None, typer.Option(help="Where it listens: http, https, grpc or grpcs.")] = None,
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
    credential_header: Annotated[
        str | None, typer.Option(help=f"Sent to the tool with the value in {CREDENTIAL}, or an OAuth token.")
    ] = None,
    oauth_token_url: Annotated[
        str | None, typer.Option(help=f"Where the tool's tokens are had; the client's secret is in {CREDENTIAL}.")
    ] = None,
    oauth_client_id: Annotated[str | None, typer.Option(help="The client that asks for them.")] = None,
    oauth_scope: Annotated[str | None, typer.Option(help="What it asks for.")] = None,
    oauth_audience: Annotated[str | None, typer.Option(help="Whom the token is for.")] = None,
    oauth_auth_style: Annotated[AuthStyle | None, typer.Option(help="How the client shows its secret.")] = None,
    credential_stdin: Annotated[
        bool, typer.Option("--credential-stdin", help="Read the credential's secret from standard input.")
    ] = False,
    no_credential: Annotated[bool, typer.Option("--no-credential", help="Remove the stored credential.")] = False,
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
    credential = CredentialFlags(
        credential_header,
        oauth_token_url,
        oauth_client_id,
        oauth_scope,
        oauth_audience,
        oauth_auth_style,
        from_stdin=credential_stdin,
        removed=no_credential,
    )
    with connected() as api:
        show_one(api.post("tools", body={**document(file), **flags, **credential.fields(file)}), as_json=as_json)


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
