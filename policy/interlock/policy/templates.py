"""Policies to begin with: what is known by a name, and changed field by field.

Names of tools say little about what they do, so what a template forbids by name is only a second line: `read_only` and
`support_bot` rest on what tools are declared to be, and hold for every tool that is registered or changed later.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace

from interlock.governance.errors import InvalidRequestError
from interlock.policy.model import Policy

USD = 1_000_000
DESTRUCTIVE = ("*delete*", "*destroy*", "*drop_*", "*purge*", "*wipe*")
MONEY = ("*payment*", "*payout*", "*refund*", "*transfer*", "*charge*")

TEMPLATES: Mapping[str, Policy] = {
    # Nothing but what the overrides name, and little of it; whatever is odd ends it.
    "strict": Policy(
        allowed_tools=(),
        max_actions_per_hour=60,
        max_spend_micros_per_day=5 * USD,
        max_calls_per_tool={"*": 50},
        on_anomaly="disable",
    ),
    # All tools but those whose names say that they destroy.
    "moderate": Policy(
        blocked_tools=DESTRUCTIVE,
        max_actions_per_hour=300,
        max_spend_micros_per_day=50 * USD,
        max_calls_per_tool={"*": 500},
    ),
    # All tools; only what runs away is stopped.
    "permissive": Policy(max_actions_per_hour=3_000, max_spend_micros_per_day=500 * USD),
    # Tools that are declared to change nothing.
    "read_only": Policy(
        allowed_tools=(),
        allow_read_only=True,
        max_actions_per_hour=1_000,
        max_spend_micros_per_day=10 * USD,
        on_anomaly="alert",
    ),
    # Looks everything up, answers people and keeps their tickets; moves no money.
    "support_bot": Policy(
        allowed_tools=("*ticket*", "*reply*", "*message*", "*note*"),
        allow_read_only=True,
        blocked_tools=(*DESTRUCTIVE, *MONEY),
        max_actions_per_hour=200,
        max_spend_micros_per_day=10 * USD,
        max_calls_per_tool={"*": 300},
        on_anomaly="alert",
    ),
}
FIELDS = frozenset(field.name for field in fields(Policy))


def policy_from(template: str, overrides: Policy, overridden: Collection[str]) -> Policy:
    """The template with the fields that are named as the overrides have them. Errors: InvalidRequestError."""
    if template not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise InvalidRequestError("unknown_template", f"there is {known}", field="template")
    if unknown := sorted({*overridden} - FIELDS):
        raise InvalidRequestError("invalid_policy", f"a policy has no {unknown[0]}", field=f"overrides.{unknown[0]}")
    return replace(TEMPLATES[template], **{name: getattr(overrides, name) for name in overridden})
