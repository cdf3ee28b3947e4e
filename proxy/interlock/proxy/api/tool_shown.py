"""A tool as the REST API shows it: whether there is a secret, never which."""

from typing import Literal, Self

from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import governance_pb2 as governance
from interlock.proxy.api.answer import ABSENT, Answer, Time
from interlock.proxy.api.models import OAUTH2
from interlock.proxy.api.times import rfc3339

DEDUP_NAMES = {
    governance.DEDUP_MODE_DERIVED: "derived",
    governance.DEDUP_MODE_HEADER: "header",
    governance.DEDUP_MODE_OFF: "off",
}


class DedupShown(Answer):
    """What makes two calls of a tool the same."""

    mode: Literal["derived", "header", "off"] = ABSENT
    """As it was set; absent where the method of a call decides."""
    ttl_s: int
    """How long a success is replayed, from its settlement, s."""
    ignore: list[str]
    """Top-level fields of JSON arguments that make no difference."""
    run_id: Literal["tracing", "argument"]
    """Whether `args.run_id` names the run alone, or is an argument."""

    @classmethod
    def of(cls, tool: pb.Tool) -> Self:
        mode = {"mode": DEDUP_NAMES[tool.dedup_mode]} if tool.dedup_mode in DEDUP_NAMES else {}
        run_id = "argument" if tool.dedup_run_id else "tracing"
        return cls(**mode, ttl_s=tool.dedup_ttl_s, ignore=list(tool.dedup_ignore), run_id=run_id)


class HeaderShown(Answer):
    """A value that is kept and sent in one header field."""

    type: Literal["header"]
    """A header with a value that is kept."""
    header: str
    """Its name."""
    mask: str | None
    """The value, unreadable but for its end."""


class OAuth2Shown(Answer):
    """OAuth 2.0 client credentials."""

    type: Literal["oauth2_client_credentials"]
    """A token that is fetched."""
    token_url: str
    """Where."""
    client_id: str
    """Whose token."""
    mask: str | None
    """The client's secret, unreadable but for its end."""
    scope: str
    """What the token is to reach."""
    audience: str
    """For whom the token is."""
    auth_style: Literal["basic", "post"]
    """Whether the client's secret stands in Authorization, or in the body."""
    header: str
    """The header field that the tool is sent the token in."""
    scheme: str
    """Stands before the token."""
    params: dict[str, str]
    """Further parameters for the endpoint."""

    @classmethod
    def of(cls, tool: pb.Tool) -> Self:
        oauth2 = tool.upstream_oauth2
        return cls(
            type=OAUTH2,
            token_url=oauth2.token_url,
            client_id=oauth2.client_id,
            mask=tool.upstream_mask or None,
            scope=oauth2.scope,
            audience=oauth2.audience,
            auth_style="post" if oauth2.client_auth == governance.CLIENT_AUTH_POST else "basic",
            header=oauth2.header,
            scheme=oauth2.scheme,
            params=dict(oauth2.params),
        )


class Tool(Answer):
    """A tool as it stands in the registry."""

    name: str
    """Its name."""
    scope_id: str
    """`global`, or `agent:ID` for an agent's own, which hides the global one of its name."""
    url: str
    """Where it listens."""
    timeout_ms: int
    """Time until an answer's head is there, then between two pieces of its body, ms."""
    max_retries: int
    """Further tries inside one call."""
    enabled: bool
    """False: its kill switch is pulled."""
    description: str
    """For people."""
    methods: list[str]
    """The methods that it takes."""
    subpaths: bool
    """Whether agents may name paths below the tool's own."""
    dedup: DedupShown
    """What makes two calls the same."""
    on_ambiguous: Literal["retry", "hold"]
    """What is done after a try that may have happened."""
    read_only: bool
    """Whether its calls change nothing."""
    risk: str
    """`low`, `medium` or `high`: told beside each decision."""
    replay_max_bytes: int
    """A larger answer is not kept."""
    has_secret: bool
    """Whether its calls are signed."""
    secret_id: str | None
    """Names the secret, as `keyid` in signatures does."""
    secret_mask: str | None
    """The secret, unreadable but for its end."""
    upstream_credential: HeaderShown | OAuth2Shown | None
    """What the tool is sent and no agent sees, without its secret."""
    on_governance_failure: Literal["closed", "open"]
    """What is done when nobody can judge a call."""
    open_max_calls_per_minute: int
    """With `on_governance_failure: open`, so many a minute at each sidecar."""
    reconcile_url: str | None
    """Asked what became of a call of unknown outcome."""
    reconcile_deadline_s: int
    """How long it is asked, from the call's first try, s."""
    reconcile_timeout_ms: int
    """Time for one answer of it, ms."""
    managed_by: str | None
    """The owner of the manifest that it comes from."""
    revision: int
    """Grows with each change."""
    updated_at: Time | None
    """When it was changed last."""

    @classmethod
    def of(cls, tool: pb.Tool) -> Self:
        return cls(
            name=tool.name,
            scope_id=tool.scope_id,
            url=tool.url,
            timeout_ms=tool.timeout_ms,
            max_retries=tool.max_retries,
            enabled=tool.enabled,
            description=tool.description,
            methods=list(tool.methods),
            subpaths=tool.subpaths,
            dedup=DedupShown.of(tool),
            on_ambiguous="hold" if tool.on_ambiguous == governance.ON_AMBIGUOUS_HOLD else "retry",
            read_only=tool.read_only,
            risk=tool.risk,
            replay_max_bytes=tool.replay_max_bytes,
            has_secret=tool.has_secret,
            secret_id=tool.secret_id or None,
            secret_mask=tool.secret_mask or None,
            upstream_credential=_credential(tool),
            on_governance_failure="open" if _fails_open(tool) else "closed",
            open_max_calls_per_minute=tool.open_max_calls_per_minute,
            reconcile_url=tool.reconcile_url or None,
            reconcile_deadline_s=tool.reconcile_deadline_s,
            reconcile_timeout_ms=tool.reconcile_timeout_ms,
            managed_by=tool.managed_by or None,
            revision=tool.revision,
            updated_at=rfc3339(tool.updated_at_ms),
        )


def _fails_open(tool: pb.Tool) -> bool:
    return tool.on_governance_failure == governance.ON_GOVERNANCE_FAILURE_OPEN


def _credential(tool: pb.Tool) -> HeaderShown | OAuth2Shown | None:
    if tool.upstream_header:
        return HeaderShown(type="header", header=tool.upstream_header, mask=tool.upstream_mask or None)
    return OAuth2Shown.of(tool) if tool.HasField("upstream_oauth2") else None
