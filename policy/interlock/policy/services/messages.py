"""Values to messages and back. What one service alone speaks of, as of plans or changes, is translated beside it."""

from typing import Any

from google.protobuf import json_format, struct_pb2

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import admin_pb2, governance_pb2
from interlock.policy import tools, upstream
from interlock.policy.answers import answer_message, answer_of
from interlock.policy.authorizing import Judged, Question, ToolChanged
from interlock.policy.degraded import Told
from interlock.policy.model import (
    AUTHORIZATION,
    BEARER,
    GENESIS,
    AgentStanding,
    ApiKey,
    CallRecord,
    Dedup,
    Event,
    Namespace,
    OAuth2,
    Outcome,
    Permit,
    Policy,
    PricingRule,
    Role,
    Scope,
    Switch,
    Tool,
    TrailState,
    Verdict,
    VersionedPolicy,
)
from interlock.policy.rules import terms

DEDUP = {
    Dedup.DERIVED: governance_pb2.DEDUP_MODE_DERIVED,
    Dedup.HEADER: governance_pb2.DEDUP_MODE_HEADER,
    Dedup.OFF: governance_pb2.DEDUP_MODE_OFF,
    None: governance_pb2.DEDUP_MODE_UNSPECIFIED,
}
DEDUP_OF = {number: mode for mode, number in DEDUP.items()}
VERDICTS = {verdict: governance_pb2.Verdict.Value(f"VERDICT_{verdict}") for verdict in Verdict}
OUTCOMES = {
    Outcome.SUCCEEDED: governance_pb2.OUTCOME_SUCCEEDED,
    Outcome.REJECTED: governance_pb2.OUTCOME_REJECTED,
    Outcome.NOT_SENT: governance_pb2.OUTCOME_NOT_SENT,
    Outcome.AMBIGUOUS: governance_pb2.OUTCOME_AMBIGUOUS,
}
OUTCOME_OF = {number: outcome for outcome, number in OUTCOMES.items()}
DEFAULT_TOOL = Tool(name="", scope_id="", url="")


def question_of(request: governance_pb2.AuthorizeRequest) -> Question:
    return Question(
        attempt_id=request.attempt_id,
        credential=request.credential,
        agent_id=request.agent_id,
        tool=request.tool,
        tool_revision=request.tool_revision,
        method=request.method,
        fingerprint=request.fingerprint,
        caller_key=request.idempotency_key,
        args_digest=request.args_digest,
        declared_micros=request.declared_spend_micros,
        run_id=request.run_id,
        will_wait=request.will_wait,
        awaited_call_id=request.awaited_call_id,
        part_of_run=request.part_of_run,
        run_action=request.run_action,
        run_action_digest=request.run_action_digest,
    )


def degraded_of(request: governance_pb2.RecordDegradedRequest) -> Told:
    """Errors: InvalidRequestError without an outcome."""
    outcome = OUTCOME_OF.get(request.outcome)
    if outcome is None:
        raise InvalidRequestError("invalid_request", "an outcome is needed", field="outcome")
    return Told(
        attempt_id=request.attempt_id,
        credential_digest=request.credential_digest,
        agent_id=request.agent_id,
        tool=request.tool,
        method=request.method,
        call_id=request.call_id,
        key=request.key,
        repeatable=request.repeatable,
        fingerprint=request.fingerprint,
        args_digest=request.args_digest,
        declared_micros=request.declared_spend_micros,
        run_id=request.run_id,
        reason=request.reason,
        fence=request.fence,
        outcome=outcome,
        answer=answer_of(request.answer) if request.HasField("answer") else None,
        failure=request.failure,
        upstream_us=request.upstream_us,
        at_ms=request.at_ms,
        age_ms=request.told_at_ms - request.at_ms,
    )


def authorize_response(verdict: Judged | ToolChanged) -> governance_pb2.AuthorizeResponse:
    if isinstance(verdict, ToolChanged):
        return governance_pb2.AuthorizeResponse(
            verdict=governance_pb2.VERDICT_TOOL_CHANGED,
            reason="tool_changed",
            namespace=verdict.scope.namespace,
            agent_id=verdict.scope.agent_id,
        )
    decision = verdict.decision
    response = governance_pb2.AuthorizeResponse(
        verdict=VERDICTS[decision.verdict],
        reason=decision.reason,
        namespace=verdict.scope.namespace,
        agent_id=verdict.scope.agent_id,
        call_id=decision.call_id,
        failure=decision.failure,
        retry_after_ms=decision.retry_after_ms,
        matched_rule=verdict.matched_rule,
        budget=governance_pb2.Budget(
            actions_limit=verdict.limits.actions_per_hour,
            actions_left=decision.remaining.actions,
            tool_calls_limit=verdict.limits.calls_of_tool,
            tool_calls_left=decision.remaining.calls_of_tool,
            spend_limit_micros=verdict.limits.spend_micros_per_day,
            spend_left_micros=decision.remaining.spend_micros,
            day_resets_in_ms=decision.remaining.day_resets_in_ms,
        ),
        charged_micros=decision.charged_micros,
        risk_level=verdict.risk,
    )
    if verdict.quota is not None:
        quota = verdict.quota
        response.quota.CopyFrom(governance_pb2.Quota(plan=quota.plan, limit=quota.limit, usage=quota.used))
    if decision.permit is not None:
        response.permit.CopyFrom(permit_message(decision.permit))
    if decision.answer is not None:
        response.answer.CopyFrom(answer_message(decision.answer))
    return response


def permit_message(permit: Permit) -> governance_pb2.Permit:
    return governance_pb2.Permit(
        namespace=permit.scope.namespace,
        agent_id=permit.scope.agent_id,
        tool=permit.tool,
        key=permit.key,
        call_id=permit.call_id,
        fence=permit.fence,
        attempt_id=permit.attempt_id,
        lease_ms=permit.lease_ms,
        run_id=permit.run_id,
    )


def permit_of(message: governance_pb2.Permit) -> Permit:
    return Permit(
        scope=Scope(message.namespace, message.agent_id),
        tool=message.tool,
        key=message.key,
        call_id=message.call_id,
        fence=message.fence,
        attempt_id=message.attempt_id,
        lease_ms=message.lease_ms,
        run_id=message.run_id,
    )


def route_message(tool: Tool, secrets: list[str], credential: str) -> governance_pb2.ToolRoute:
    route = governance_pb2.ToolRoute(
        name=tool.name,
        revision=tool.revision,
        url=tool.url,
        methods=tool.methods,
        subpaths=tool.subpaths,
        timeout_ms=tool.timeout_ms,
        max_retries=tool.max_retries,
        on_ambiguous=_on_ambiguous(tool),
        dedup_mode=DEDUP[tool.dedup],
        dedup_ignore=tool.dedup_ignore,
        dedup_run_id=tool.dedup_run_id,
        replay_max_bytes=tool.replay_max_bytes,
        secrets=secrets,
        secret_id=tool.secrets[0].secret_id if tool.secrets else "",
        read_only=tool.read_only,
        on_governance_failure=_on_governance_failure(tool),
        open_max_calls_per_minute=tool.open_max_calls_per_minute,
    )
    if tool.upstream_oauth2 is not None:
        route.upstream_credential.oauth2.CopyFrom(_oauth2_message(tool.upstream_oauth2, credential))
    elif tool.upstream_header:
        route.upstream_credential.CopyFrom(
            governance_pb2.UpstreamCredential(header=tool.upstream_header, value=credential)
        )
    return route


def given_of(message: governance_pb2.UpstreamCredential) -> upstream.Given:
    """A credential as it was put."""
    if not message.HasField("oauth2"):
        return upstream.Given(message.header, message.value)
    told = message.oauth2
    oauth2 = OAuth2(
        token_url=told.token_url,
        client_id=told.client_id,
        scope=told.scope,
        audience=told.audience,
        in_body=told.client_auth == governance_pb2.CLIENT_AUTH_POST,
        header=told.header or AUTHORIZATION,
        scheme=told.scheme if told.HasField("scheme") else BEARER,
        params=tuple(sorted(told.params.items())),
    )
    return upstream.Given(oauth2=oauth2, client_secret=told.client_secret or None)


def _oauth2_message(oauth2: OAuth2, client_secret: str = "") -> governance_pb2.OAuth2ClientCredentials:
    return governance_pb2.OAuth2ClientCredentials(
        token_url=oauth2.token_url,
        client_id=oauth2.client_id,
        client_secret=client_secret,
        scope=oauth2.scope,
        audience=oauth2.audience,
        client_auth=governance_pb2.CLIENT_AUTH_POST if oauth2.in_body else governance_pb2.CLIENT_AUTH_BASIC,
        header=oauth2.header,
        scheme=oauth2.scheme,
        params=dict(oauth2.params),
    )


def tool_of(message: admin_pb2.Tool) -> Tool:
    """The tool that a message describes, with defaults for what it leaves out."""

    def given(name: str) -> int:
        return int(getattr(message, name) if message.HasField(name) else getattr(DEFAULT_TOOL, name))  # type: ignore[arg-type] # the names below are fields

    return Tool(
        name=message.name,
        scope_id=message.scope_id or tools.GLOBAL_SCOPE,
        url=message.url,
        timeout_ms=given("timeout_ms"),
        max_retries=given("max_retries"),
        enabled=message.enabled if message.HasField("enabled") else True,
        description=message.description,
        methods=tuple(message.methods) or DEFAULT_TOOL.methods,
        subpaths=message.subpaths,
        dedup=DEDUP_OF.get(message.dedup_mode),
        dedup_ttl_s=given("dedup_ttl_s"),
        dedup_ignore=tuple(message.dedup_ignore),
        dedup_run_id=message.dedup_run_id,
        hold=message.on_ambiguous == governance_pb2.ON_AMBIGUOUS_HOLD,
        read_only=message.read_only,
        risk=message.risk or DEFAULT_TOOL.risk,
        replay_max_bytes=given("replay_max_bytes"),
        fails_open=message.on_governance_failure == governance_pb2.ON_GOVERNANCE_FAILURE_OPEN,
        open_max_calls_per_minute=given("open_max_calls_per_minute"),
        reconcile_url=message.reconcile_url,
        reconcile_deadline_s=given("reconcile_deadline_s"),
        reconcile_timeout_ms=given("reconcile_timeout_ms"),
    )


def secrets_of(request: admin_pb2.PutToolRequest) -> tools.Secrets:
    """The secrets that come with a tool."""
    return tools.Secrets(
        signing=request.secret if request.HasField("secret") else None,
        grace_s=request.secret_grace_s if request.HasField("secret_grace_s") else tools.DEFAULT_GRACE_S,
        credential=given_of(request.upstream_credential) if request.HasField("upstream_credential") else None,
    )


def tool_message(tool: Tool) -> admin_pb2.Tool:
    current = tool.secrets[0] if tool.secrets else None
    return admin_pb2.Tool(
        name=tool.name,
        scope_id=tool.scope_id,
        url=tool.url,
        timeout_ms=tool.timeout_ms,
        max_retries=tool.max_retries,
        enabled=tool.enabled,
        description=tool.description,
        methods=tool.methods,
        subpaths=tool.subpaths,
        dedup_mode=DEDUP[tool.dedup],
        dedup_ttl_s=tool.dedup_ttl_s,
        dedup_ignore=tool.dedup_ignore,
        dedup_run_id=tool.dedup_run_id,
        on_ambiguous=_on_ambiguous(tool),
        read_only=tool.read_only,
        risk=tool.risk,
        replay_max_bytes=tool.replay_max_bytes,
        has_secret=current is not None,
        secret_id=current.secret_id if current else "",
        secret_mask=current.mask if current else "",
        upstream_header=tool.upstream_header,
        upstream_oauth2=_oauth2_message(tool.upstream_oauth2) if tool.upstream_oauth2 else None,
        upstream_mask=tool.upstream_mask,
        revision=tool.revision,
        updated_at_ms=tool.updated_at_ms,
        on_governance_failure=_on_governance_failure(tool),
        open_max_calls_per_minute=tool.open_max_calls_per_minute,
        reconcile_url=tool.reconcile_url,
        reconcile_deadline_s=tool.reconcile_deadline_s,
        reconcile_timeout_ms=tool.reconcile_timeout_ms,
        managed_by=tool.managed_by,
        disabled_reason=tool.disabled_reason,
        disabled_at_ms=tool.disabled_at_ms,
        disabled_by=tool.disabled_by,
    )


def policy_of(message: admin_pb2.Policy) -> Policy:
    return Policy(
        allowed_tools=tuple(message.allowed_tools) if message.has_allowed_tools else None,
        blocked_tools=tuple(message.blocked_tools),
        max_actions_per_hour=_optional(message, "max_actions_per_hour"),
        max_spend_micros_per_day=_optional(message, "max_spend_micros_per_day"),
        max_calls_per_tool=dict(message.max_calls_per_tool),
        pricing_rules=tuple(PricingRule(rule.tool, rule.price_micros) for rule in message.pricing_rules),
        on_anomaly=message.on_anomaly,
        allow_read_only=message.allow_read_only,
    )


def policy_message(policy: Policy) -> admin_pb2.Policy:
    return admin_pb2.Policy(
        has_allowed_tools=policy.allowed_tools is not None,
        allowed_tools=policy.allowed_tools or (),
        blocked_tools=policy.blocked_tools,
        max_actions_per_hour=policy.max_actions_per_hour,
        max_spend_micros_per_day=policy.max_spend_micros_per_day,
        max_calls_per_tool=policy.max_calls_per_tool,
        pricing_rules=[
            admin_pb2.PricingRule(tool=rule.tool, price_micros=rule.price_micros) for rule in policy.pricing_rules
        ],
        on_anomaly=policy.on_anomaly,
        allow_read_only=policy.allow_read_only,
    )


def agent_policy_message(agent_id: str, versioned: VersionedPolicy) -> admin_pb2.AgentPolicy:
    message = policy_message(versioned.policy or Policy())
    return admin_pb2.AgentPolicy(
        agent_id=agent_id, policy=message, version=versioned.version, managed_by=versioned.managed_by
    )


def agent_status(agent_id: str, switch: Switch) -> admin_pb2.AgentStatus:
    return admin_pb2.AgentStatus(
        agent_id=agent_id,
        is_enabled=not switch.pulled,
        disabled_reason=switch.reason,
        disabled_at_ms=switch.changed_at_ms if switch.pulled else 0,
        disabled_by=switch.changed_by if switch.pulled else "",
    )


def standing_message(standing: AgentStanding, namespace: Namespace) -> admin_pb2.AgentStanding:
    """Its limits are those it is held to: without a policy of its own, those of its namespace's default."""
    policy = terms(standing.policy.policy, namespace, allow_without_policy=True).policy or Policy()
    return admin_pb2.AgentStanding(
        status=agent_status(standing.agent_id, standing.switch),
        last_seen_ms=standing.last_seen_ms,
        actions_in_hour=standing.actions_in_hour,
        max_actions_per_hour=policy.max_actions_per_hour,
        actions_per_minute=standing.actions_per_minute,
        spend_today_micros=standing.spend_today_micros,
        max_spend_micros_per_day=policy.max_spend_micros_per_day,
        blocked_today=standing.blocked_today,
        running_calls=standing.running,
        unknown_calls=standing.unknown,
    )


def switch_status(scope: str, switch: Switch, name: str = "", scope_id: str = "") -> admin_pb2.SwitchStatus:
    return admin_pb2.SwitchStatus(
        scope=scope,
        pulled=switch.pulled,
        reason=switch.reason,
        changed_at_ms=switch.changed_at_ms,
        name=name,
        scope_id=scope_id,
        changed_by=switch.changed_by,
    )


def key_message(key: ApiKey) -> admin_pb2.ApiKey:
    identity = key.identity
    return admin_pb2.ApiKey(
        key_id=identity.key_id,
        role=admin_pb2.Role.ValueType(identity.role),
        agent_id=identity.agent_id,
        label=key.label,
        created_at_ms=key.created_at_ms,
        revoked_at_ms=key.revoked_at_ms,
        namespace=identity.namespace,
    )


def role_of(number: int) -> Role:
    try:
        return Role(number)
    except ValueError as error:
        raise InvalidRequestError("invalid_role", "role is agent, viewer, operator or admin", field="role") from error


def call_message(record: CallRecord) -> admin_pb2.Call:
    return admin_pb2.Call(
        call_id=record.call_id,
        agent_id=record.agent_id,
        tool=record.tool,
        key=record.key,
        state=record.state,
        first_seen_ms=record.first_seen_ms,
        lease_until_ms=record.lease_until_ms,
        charged_micros=record.charged_micros,
        fence=record.fence,
        tries=record.tries,
        status=record.status,
    )


def event_message(event: Event) -> admin_pb2.Event:
    return admin_pb2.Event(
        seq=event.seq,
        at_ms=event.at_ms,
        type=event.type,
        agent_id=event.agent_id,
        tool=event.tool,
        call_id=event.call_id,
        verdict=event.verdict,
        reason=event.reason,
        charged_micros=event.charged_micros,
        facts=json_format.ParseDict(dict(event.facts), struct_pb2.Struct()),
    )


def trail_message(state: TrailState, first_seq: int) -> admin_pb2.Trail:
    before = state.chain_before(first_seq)
    known = before is not None and before.seq == first_seq - 1
    return admin_pb2.Trail(
        namespace=state.scope.namespace,
        agent_id=state.scope.agent_id,
        first_seq=first_seq,
        last_seq=state.last_seq,
        hash_before=before.hash if before is not None and known else GENESIS,
    )


def _on_ambiguous(tool: Tool) -> governance_pb2.OnAmbiguous.ValueType:
    return governance_pb2.ON_AMBIGUOUS_HOLD if tool.hold else governance_pb2.ON_AMBIGUOUS_RETRY


def _on_governance_failure(tool: Tool) -> governance_pb2.OnGovernanceFailure.ValueType:
    return governance_pb2.ON_GOVERNANCE_FAILURE_OPEN if tool.fails_open else governance_pb2.ON_GOVERNANCE_FAILURE_CLOSED


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None
