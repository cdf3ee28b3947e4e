"""What the REST API accepts: bodies and queries with the bounds of the contract. Unknown fields are refused."""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from interlock.governance.injectable import why_not_injectable

MAX_COUNT = 1_000_000_000
MAX_PRICE_USD = 1_000_000
MAX_DAY_USD = 10_000_000
MAX_SEQ = 2**63 - 1
MAX_ENTRIES = 1000
MAX_IGNORED = 64
MAX_UNKNOWN = 16
"""So many unknown fields are each named. Pydantic makes a finding of every one, and a body has room for 100,000."""


_VISIBLE = r"^[\x20-\x7e]*$"  # VSCHAR, RFC 6749 appendix A


def _no_dots(name: str) -> str:
    if name in {".", ".."}:
        raise PydanticCustomError("tool_name", "'.' and '..' are no names of tools")
    return name


def _number(value: object) -> object:
    """JSON numbers, and only these: what `money.exact` made of a fraction, or an integer."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise PydanticCustomError("number_type", "Input should be a number")
    return Decimal(value)


def _a_number_to(most: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "number", "minimum": 0, "maximum": most})


def _for_every_tool(value: object) -> object:
    """A bare number limits each tool: it is short for `{"*": number}`."""
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:  # pydantic counts them when it has judged each
        raise PydanticCustomError("too_long", f"Input should have at most {MAX_ENTRIES} entries")
    return {"*": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _credential_value(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise PydanticCustomError("header_value", "Input should be printable ASCII without space around it")
    return value


def _visible_secret(value: SecretStr) -> SecretStr:
    if not re.fullmatch(_VISIBLE, value.get_secret_value()):
        raise PydanticCustomError("client_secret", "Input should be printable ASCII")
    return value


def _injectable(header: str) -> str:
    if why_not := why_not_injectable(header):
        raise PydanticCustomError("header_name", f"{why_not[0].upper()}{why_not[1:]}")
    return header


def _not_null(value: object) -> object:
    if value is None:
        raise PydanticCustomError("null", "Input should not be null: left out, the stored secret stays")
    return value


def _no_agent_here(_: object) -> None:
    raise PydanticCustomError("extra_forbidden", "The agent is named beside the overrides")


def _without_null(schema: dict[str, Any]) -> None:
    """Leaves the schema of a field that may be left out, and not be null."""
    (kind,) = (kind for kind in schema.pop("anyOf") if kind != {"type": "null"})
    schema.update(kind)
    schema.pop("default", None)


def _no_agent(_: object) -> None:
    raise PydanticCustomError("extra_forbidden", "A namespace's default is no agent's")


NamespaceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,63}$")]
AgentId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@:-]{1,128}$")]
ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$"), AfterValidator(_no_dots)]
ToolGlob = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.:*-]{1,128}$")]
ScopeId = Annotated[str, StringConstraints(pattern=r"^(global|agent:[A-Za-z0-9_.@:-]{1,128})$")]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
HeaderName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"), AfterValidator(_injectable)
]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Reason = Annotated[str, StringConstraints(max_length=512)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
_COUNT_SCHEMA = {"type": "integer", "minimum": 0, "maximum": MAX_COUNT}
CALLS_SCHEMA = WithJsonSchema({"anyOf": [_COUNT_SCHEMA, {"type": "object", "additionalProperties": _COUNT_SCHEMA}]})
Owner = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@:/-]{1,128}$")]
Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,63}$")]
ToolKey = Annotated[
    str,
    StringConstraints(pattern=r"^(agent:[A-Za-z0-9_.@:-]{1,128}/)?[a-zA-Z0-9_.:-]{1,128}$"),
    AfterValidator(_no_dots),
]
PriceUsd = Annotated[Decimal, Field(ge=0, le=MAX_PRICE_USD), BeforeValidator(_number), _a_number_to(MAX_PRICE_USD)]
DayUsd = Annotated[Decimal, Field(ge=0, le=MAX_DAY_USD), BeforeValidator(_number), _a_number_to(MAX_DAY_USD)]

Item = TypeVar("Item")
# A list is judged up to its first bad entry: a body has room for 200,000 of them.
Entries = Annotated[list[Item], Field(max_length=MAX_ENTRIES, fail_fast=True)]

TokenText = Annotated[str, StringConstraints(max_length=1024, pattern=_VISIBLE)]
OAUTH2 = "oauth2_client_credentials"

AGENT_ID: TypeAdapter[str] = TypeAdapter(AgentId)
NAMESPACE: TypeAdapter[str] = TypeAdapter(NamespaceName)
TOOL_NAME: TypeAdapter[str] = TypeAdapter(ToolName)
IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)
SWITCH_SCOPE: TypeAdapter[str] = TypeAdapter(Literal["global", "namespace", "agent", "tool"])


class Known(BaseModel):
    """Fields of which none may be unknown."""

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, value: Any) -> Any:
        unknown = len(value.keys() - cls.model_fields.keys()) if isinstance(value, dict) else 0
        if unknown > MAX_UNKNOWN:
            raise PydanticCustomError("extra_forbidden", f"{unknown} unknown fields are not permitted")
        return value


class Body(Known):
    """A JSON body: types as written, nothing unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Query(Known):
    """A query: every value comes as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ToolAuth(Body):
    """How calls are signed."""

    type: Literal["hmac_sha256"] = "hmac_sha256"
    """Every signature is an HMAC with SHA-256."""
    secret: Annotated[SecretStr, Field(min_length=8, max_length=1024)]
    """Signs; as `whsec_…` its decoded value does for Standard Webhooks."""
    grace_s: Annotated[int, Field(ge=0, le=604_800)] | None = None
    """How long a replaced secret goes on signing beside this one, s; 86400 if left out."""


class Dedup(Body):
    """What makes two calls the same."""

    mode: Literal["derived", "header", "off"] | None = None
    """Their content, their `Idempotency-Key`, or nothing; left out: off for GET, HEAD and `read_only`, else derived."""
    ttl_s: Annotated[int, Field(ge=1, le=2_592_000)] | None = None
    """How long a success is replayed, from its settlement, s; 86400 if left out."""
    ignore: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=128)]],
        Field(max_length=MAX_IGNORED, fail_fast=True),
    ] = []
    """Top-level fields of JSON arguments that make no difference."""
    run_id: Literal["tracing", "argument"] = "tracing"
    """Whether `args.run_id` on `/v1/ai/run` names the run alone, or is an argument."""


class HeaderCredential(Body):
    """A value that every request to the tool bears in one header field."""

    type: Literal["header"] = "header"
    """A header with a value that is kept."""
    header: HeaderName
    """Its name."""
    value: Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(_credential_value)]
    """Its value."""


class OAuth2Credential(Body):
    """OAuth 2.0 client credentials (RFC 6749 4.4): a token is fetched, kept, and shown in one header field.

    A `client_secret` left out keeps the one that is stored for this client and token URL.
    """

    type: Literal["oauth2_client_credentials"]
    """A token that is fetched."""
    token_url: Annotated[str, StringConstraints(min_length=1, max_length=2048)]
    """Where; https, or http on loopback."""
    client_id: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=_VISIBLE)]
    """Whose token."""
    client_secret: (
        Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(_visible_secret)] | None
    ) = None
    """What proves that it is that client; left out, it is the one that is stored for this client and token URL."""
    scope: TokenText = ""
    """What the token is to reach, if the endpoint is to be told."""
    audience: TokenText = ""
    """For whom the token is, if the endpoint is to be told."""
    auth_style: Literal["basic", "post"] = "basic"
    """Whether the client's secret stands in Authorization, or in the body."""
    header: HeaderName = "Authorization"
    """The header field that the tool is sent the token in."""
    scheme: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{0,64}$")] = "Bearer"
    """Stands before the token; empty for nothing."""
    params: Annotated[dict[TokenText, TokenText], Field(max_length=16)] = {}
    """Further parameters for the endpoint."""


class _CredentialType(Body):
    type: Literal["header", "oauth2_client_credentials"] = "header"


def _credential_of_type(value: object) -> object:
    """Judged as what its `type` says, so that a finding names the field and not every kind there is."""
    if value is None or isinstance(value, HeaderCredential | OAuth2Credential):
        return value
    named = {"type": value["type"]} if isinstance(value, dict) and "type" in value else {}
    kind = _CredentialType.model_validate(named).type
    return (OAuth2Credential if kind == OAUTH2 else HeaderCredential).model_validate(value)


UpstreamCredential = Annotated[HeaderCredential | OAuth2Credential, BeforeValidator(_credential_of_type)]


class ToolFields(Body):
    """What a tool is, but for its name. Secrets left out stay as stored; `upstream_credential: null` removes it."""

    scope_id: ScopeId = "global"
    """`global`, or `agent:ID` for an agent's own tool, which hides the global one of its name."""
    url: Annotated[str, StringConstraints(min_length=1, max_length=2048), Field(json_schema_extra={"format": "uri"})]
    """Where it listens: http, https, grpc or grpcs."""
    auth: Annotated[ToolAuth | None, BeforeValidator(_not_null), Field(json_schema_extra=_without_null)] = None
    """How calls are signed; left out, they are as before, and new tools get calls without signatures."""
    timeout_ms: Annotated[int, Field(ge=250, le=120_000)] | None = None
    """Time until an answer's head is there, then between two pieces of its body, ms; 15000 if left out."""
    max_retries: Annotated[int, Field(ge=0, le=10)] | None = None
    """Further tries inside one call; 2 if left out."""
    enabled: bool | None = None
    """False pulls the tool's kill switch."""
    description: Annotated[str, StringConstraints(max_length=512)] | None = None
    """For people."""
    methods: Annotated[list[Method], Field(min_length=1, max_length=MAX_IGNORED, fail_fast=True)] | None = None
    """The methods that it takes; POST if left out."""
    subpaths: bool = False
    """Whether agents may name paths below the tool's own."""
    dedup: Dedup = Dedup()
    """What makes two calls the same."""
    on_ambiguous: Literal["retry", "hold"] = "retry"
    """After a try that may have happened: try again, or hold until somebody says what did."""
    read_only: bool = False
    """Its calls change nothing."""
    risk: Literal["low", "medium", "high"] = "low"
    """Told beside each decision, unless the agent's own behaviour makes it higher."""
    upstream_credential: UpstreamCredential | None = None
    """A credential that the tool is sent and no agent sees."""
    replay_max_bytes: Annotated[int, Field(ge=0, le=1_048_576)] | None = None
    """A larger answer is not kept, and a retry is told so; 65536 if left out."""
    on_governance_failure: Literal["closed", "open"] = "closed"
    """When nobody can judge a call: refuse it, or (reads) let a few through."""
    open_max_calls_per_minute: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """With `on_governance_failure: open`, so many a minute at each sidecar; 10 if left out."""
    reconcile_url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = None
    """Asked what became of a call of unknown outcome; needs `on_ambiguous: hold`."""
    reconcile_deadline_s: Annotated[int, Field(ge=60, le=2_592_000)] | None = None
    """From the call's first try, s; after that an operator decides; 86400 if left out."""
    reconcile_timeout_ms: Annotated[int, Field(ge=250, le=30_000)] | None = None
    """Time for one answer of it, ms; 5000 if left out."""


class ToolBody(ToolFields):
    """A tool to create or replace."""

    name: ToolName
    """Its name; with `scope_id` it says which tool is replaced, if there is one."""


class ToggleBody(Body):
    """A tool's kill switch."""

    enabled: bool
    """False pulls it: nothing goes to the tool."""


class PricingRule(Body):
    """What a call costs."""

    tool: ToolGlob
    """A tool's name, or a `*` glob; of those that match, the highest price holds."""
    price_usd: PriceUsd
    """US dollars a call."""


class PolicyBody(Body):
    """What an agent may do. Null is the same as absent, as the stock client has it."""

    agent_id: AgentId | None = None
    """The agent, which is that of the path or the key."""
    allowed_tools: Entries[ToolGlob] | None = None
    """Names or `*` globs; left out: all that is not blocked, empty: nothing."""
    blocked_tools: Entries[ToolGlob] | None = None
    """Names or `*` globs; block beats allow."""
    max_actions_per_hour: Count | None = None
    """In any rolling hour; no limit if left out."""
    max_spend_usd_per_day: DayUsd | None = None
    """US dollars in a UTC day; no limit if left out."""
    max_calls_per_tool: Annotated[dict[ToolGlob, Count], BeforeValidator(_for_every_tool), CALLS_SCHEMA] | None = None
    """In a UTC day, by name or `*` glob (the most exact holds), or one number for each tool."""
    pricing_rules: Entries[PricingRule] | None = None
    """What calls cost."""
    on_anomaly: Literal["alert", "disable"] | None = None
    """What an anomaly does beside raising an alert: nothing more, or pull the agent's kill switch."""
    allow_read_only: bool | None = None
    """Allows tools that are declared `read_only`, beside `allowed_tools`; alone, it allows them and nothing else."""


class OverridesBody(PolicyBody):
    """What is otherwise than in the template: a field that is given replaces that of the template."""

    agent_id: Annotated[None, BeforeValidator(_no_agent_here), WithJsonSchema({"not": {}})] = None
    """Must be left out."""


class TemplateBody(Body):
    """A policy made of a template."""

    agent_id: AgentId | None = None
    """The agent, which is that of the path."""
    template: Literal["strict", "moderate", "permissive", "read_only", "support_bot"]
    """What to begin with."""
    overrides: OverridesBody | None = None
    """What is otherwise; left out or null, nothing."""


class Manifest(Body):
    """Tools and policies as they are to be."""

    owner: Owner | None = None
    """Who manages what stands here. Left out: nobody, and nothing is pruned."""
    namespace: Namespace | None = None
    """Where it is to be; left out: in that of the key. Another takes an admin."""
    tools: Annotated[dict[ToolKey, ToolFields], Field(max_length=MAX_ENTRIES)] = {}
    """Tools by name; an agent's own are `agent:ID/NAME`."""
    policies: Annotated[dict[AgentId, PolicyBody], Field(max_length=MAX_ENTRIES)] = {}
    """Policies by agent."""


class ApplyBody(Manifest):
    """Tools and policies as they are to be, and how to get there."""

    dry_run: bool = False
    """Only say what would change."""
    prune: bool = True
    """Delete what the owner manages and is not here."""
    force: bool = False
    """Take over what others manage."""


class DefaultPolicyBody(PolicyBody):
    """A policy of no agent's own."""

    agent_id: Annotated[None, BeforeValidator(_no_agent), WithJsonSchema({"not": {}})] = None
    """Must be left out."""


class NamespaceBody(Body):
    """A namespace to create or change: what is left out stays as it is."""

    description: Reason | None = None
    """For people."""
    plan: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,63}$")] | None = None
    """The name of its plan, one of `GET /v1/plans`."""
    default_policy: Literal["engine", "allow", "deny"] | DefaultPolicyBody | None = None
    """What holds for agents without a policy: the engine's default, a rule, or a policy."""
    run_handler: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.:-]{0,128}$")] | None = None
    """The tool that keyed runs without actions are given to; empty: their callers do them."""


class NotificationsBody(Body):
    """What the namespace wants to be told of: what is left out stays as it is. At least one is given."""

    email_notifications_enabled: bool | None = None
    """By mail, too."""
    tool_error_notifications_enabled: bool | None = None
    """Tools that fail."""
    run_failure_notifications_enabled: bool | None = None
    """Runs that fail."""


class ReasonBody(Body):
    """Why."""

    reason: Reason | None = None
    """For people: it stands in the audit trail."""


class KeyBody(Body):
    """A key to make."""

    role: Literal["agent", "viewer", "operator", "admin"]
    """What it may do; an admin's takes an admin."""
    agent_id: AgentId | None = None
    """The agent that it is of; needed with the role `agent`, and only then."""
    label: Annotated[str, StringConstraints(max_length=128)] = ""
    """For people."""


class ResolveBody(Body):
    """An operator's word on a call of unknown outcome."""

    outcome: Literal["succeeded", "not_sent"]
    """What became of it: `not_sent` frees its key for another try."""
    note: Reason = ""
    """For people: it stands in the audit trail."""
    agent_id: AgentId | None = None
    """Whose call; finds it faster."""


class SwitchBody(Body):
    """A kill switch to pull or to lift."""

    pulled: bool
    """True pulls it: nothing of what it is for goes through."""
    reason: Reason = ""
    """For people: it stands in the audit trail."""
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@:-]{1,128}$")] | None = None
    """The agent or tool; needed for these, and only for these."""
    scope_id: ScopeId | None = None
    """The tool's, if it is not global."""
