"""What policy says of a call, before anything is counted: pure functions over frozen values."""

from collections.abc import Iterable

from interlock.governance.call_key import SAFE_METHODS, call_key
from interlock.policy.model import (
    Dedup,
    DefaultRule,
    Limits,
    Namespace,
    Policy,
    Ruling,
    Scope,
    Snapshot,
    Terms,
    Tool,
    VersionedPolicy,
)

SHORT_TTL_MS = 60_000
"""How long a call that is not de-duplicated is remembered: enough to make its own settlement idempotent."""
LEASE_MARGIN_MS = 1_000
"""A lease outlives one try by this much; a call that takes longer renews it."""


RISKS = ("low", "medium", "high")
EVERYTHING = Policy()
OF_NAMESPACE = "namespace's default_policy: "
ENGINES = "default_policy: "
"""What stands before a rule that is not the agent's own: whose default it is."""


def switches(snapshot: Snapshot) -> Ruling:
    """Whether a kill switch above the agent is pulled."""
    if snapshot.world_switch.pulled:
        return Ruling("kill_switch", "switch: global")
    if snapshot.namespace_switch.pulled:
        return Ruling("kill_switch", "switch: namespace")
    return Ruling()


def terms(own: Policy | None, namespace: Namespace, *, allow_without_policy: bool) -> Terms:
    """What an agent is held to: its own policy, else its namespace's default, else what the engine's settings say."""
    if own is not None:
        return Terms(own)
    default = namespace.default_policy
    match default.rule:
        case DefaultRule.ENGINE:
            return Terms(EVERYTHING if allow_without_policy else None)
        case DefaultRule.ALLOW:
            return Terms(EVERYTHING, OF_NAMESPACE)
        case DefaultRule.DENY:
            return Terms(None, OF_NAMESPACE)
        case DefaultRule.POLICY:
            return Terms(default.policy, OF_NAMESPACE)


def lists(tool: Tool, held: Terms) -> Ruling:
    """The tool's own switch, then the block list, then the allow list. Block beats allow."""
    policy, origin = held.policy, held.origin
    if not tool.enabled:
        return Ruling("tool_disabled", f"tool: {tool.name}")
    if policy is None:
        return Ruling("no_policy", f"{origin or ENGINES}deny")
    blocked = first_match(policy.blocked_tools, tool.name)
    if blocked is not None:
        return Ruling("tool_explicitly_blocked", f"{origin}blocked_tools: {blocked}")
    if not allows(policy, tool):
        rule = "allow_read_only" if policy.allow_read_only and not policy.allowed_tools else "allowed_tools"
        return Ruling("tool_not_in_allowed_list", f"{origin}{rule}")
    return Ruling()


def allows(policy: Policy, tool: Tool) -> bool:
    """Whether a policy's allowlist holds a tool: by name, or by what the tool is declared to be."""
    if policy.allow_read_only and tool.read_only:
        return True
    if policy.allowed_tools is None:
        return not policy.allow_read_only
    return first_match(policy.allowed_tools, tool.name) is not None


def limits(tool: str, policy: Policy | None, declared_micros: int) -> Limits:
    """The numbers a call is held to. Its cost is the larger of what is declared and what the rules price it at."""
    if policy is None:
        return Limits(cost_micros=declared_micros)
    prices = [rule.price_micros for rule in policy.pricing_rules if matches(rule.tool, tool)]
    return Limits(
        cost_micros=max([declared_micros, *prices]),
        actions_per_hour=_or_none(policy.max_actions_per_hour),
        calls_of_tool=_or_none(calls_limit(policy, tool)),
        spend_micros_per_day=_or_none(policy.max_spend_micros_per_day),
    )


def calls_limit(policy: Policy, tool: str) -> int | None:
    """The limit of the most exact name: the tool's own, else the longest glob that matches; of equals the lowest."""
    if tool in policy.max_calls_per_tool:
        return policy.max_calls_per_tool[tool]
    globs = [(-len(glob), limit) for glob, limit in policy.max_calls_per_tool.items() if matches(glob, tool)]
    return min(globs)[1] if globs else None


def dedup_mode(tool: Tool, method: str) -> Dedup:
    """As the tool says, else by what the call may change."""
    if tool.dedup is not None:
        return tool.dedup
    return Dedup.OFF if tool.read_only or method in SAFE_METHODS else Dedup.DERIVED


def key_of(scope: Scope, *, mode: Dedup, caller_key: str, fingerprint: bytes, attempt_id: str) -> str:
    """The key of a call in this mode, see `call_key`."""
    return call_key(
        scope.namespace,
        scope.agent_id,
        deduplicated=mode is not Dedup.OFF,
        caller_key=caller_key,
        fingerprint=fingerprint,
        attempt_id=attempt_id,
    )


def remembered_ms(tool: Tool, *, mode: Dedup, caller_key: str, max_ttl_s: int) -> int:
    """How long a settled call is replayed: `max_ttl_s` is the plan's."""
    return min(tool.dedup_ttl_s, max_ttl_s) * 1000 if is_remembered(mode=mode, caller_key=caller_key) else SHORT_TTL_MS


def is_remembered(*, mode: Dedup, caller_key: str) -> bool:
    """Whether the same call can come again under the same key."""
    return mode is not Dedup.OFF or bool(caller_key)


def lease_ms(tool: Tool) -> int:
    return tool.timeout_ms + LEASE_MARGIN_MS


def first_match(globs: Iterable[str], name: str) -> str | None:
    return next((glob for glob in globs if matches(glob, name)), None)


def matches(glob: str, name: str) -> bool:
    """`*` stands for any run of characters, and nothing else is special.

    Each part between two stars is taken where it first fits, which is right because stars follow it: so no glob takes
    longer than a search, and there is nothing to compile or remember.
    """
    first, *rest = glob.split("*")
    if not rest:
        return glob == name
    if not name.startswith(first):
        return False
    *between, last = rest
    at = len(first)
    for part in between:
        found = name.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(name) - len(last) >= at and name.endswith(last)


def risk_level(declared: str, agents: VersionedPolicy, now_ms: int) -> str:
    """The higher of the tool's declared risk and the agent's own, while that lasts."""
    if not agents.risk or agents.risk_until_ms <= now_ms:
        return declared
    return max(declared, agents.risk, key=RISKS.index)


def _or_none(limit: int | None) -> int:
    return -1 if limit is None else limit
