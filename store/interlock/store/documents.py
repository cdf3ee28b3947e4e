"""Tools and policies as JSON documents, the way they lie in Redis.

A newer version's unknown fields are passed over; what an older one did not write takes its default.
"""

import json
from dataclasses import asdict, fields, replace
from typing import Any

from interlock.policy.model import (
    Dedup,
    DefaultPolicy,
    DefaultRule,
    OAuth2,
    Policy,
    PricingRule,
    Sealed,
    Tool,
    ToolSecret,
    VersionedPolicy,
)


def policy_to_json(policy: Policy) -> str:
    return json.dumps(asdict(policy), separators=(",", ":"), sort_keys=True)


def policy_from_json(
    version: int, raw: bytes | None, risk: bytes | None = None, risk_until: bytes | None = None
) -> VersionedPolicy:
    """Version 0 or no document is no policy."""
    policy = _policy(json.loads(raw)) if raw else None
    return VersionedPolicy(policy, version, risk=(risk or b"").decode(), risk_until_ms=int(risk_until or 0))


def default_policy_to_json(default: DefaultPolicy) -> str:
    """The rule's name, or the policy itself; nothing for the engine's rule."""
    if default.policy is not None:
        return policy_to_json(default.policy)
    return "" if default.rule is DefaultRule.ENGINE else default.rule


def default_policy_from_json(raw: str) -> DefaultPolicy:
    if raw.startswith("{"):
        return DefaultPolicy(DefaultRule.POLICY, _policy(json.loads(raw)))
    return DefaultPolicy(DefaultRule(raw or DefaultRule.ENGINE))


def _policy(document: dict[str, Any]) -> Policy:
    document = _known(Policy, document)
    allowed = document["allowed_tools"]
    return replace(
        Policy(**document),
        allowed_tools=None if allowed is None else tuple(allowed),
        blocked_tools=tuple(document["blocked_tools"]),
        pricing_rules=tuple(PricingRule(**rule) for rule in document["pricing_rules"]),
    )


def tool_to_json(tool: Tool) -> str:
    """Without its revision, which the store gives it."""
    document = asdict(tool)
    del document["revision"]
    return json.dumps(document, separators=(",", ":"), sort_keys=True)


def tool_from_json(raw: bytes, revision: int) -> Tool:
    document = _known(Tool, json.loads(raw))
    sealed = document["upstream_value"]
    return Tool(
        **document
        | {
            "revision": revision,
            "methods": tuple(document["methods"]),
            "dedup": Dedup(document["dedup"]) if document["dedup"] else None,
            "dedup_ignore": tuple(document["dedup_ignore"]),
            "secrets": tuple(_secret(secret) for secret in document["secrets"]),
            "upstream_value": Sealed(**sealed) if sealed else None,
            "upstream_oauth2": _oauth2(document.get("upstream_oauth2")),
        }
    )


def _oauth2(document: dict[str, Any] | None) -> OAuth2 | None:
    if document is None:
        return None
    known = _known(OAuth2, document)
    params = tuple((name, value) for name, value in known["params"])
    return OAuth2(**known | {"params": params, "secret": Sealed(**known["secret"])})


def _secret(document: dict[str, Any]) -> ToolSecret:
    return ToolSecret(**document | {"sealed": Sealed(**document["sealed"])})


def _known(of: type, document: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(of)}
    return {name: value for name, value in document.items() if name in names}
