"""Policies as they are set: what is refused."""

from interlock.governance.errors import InvalidRequestError
from interlock.policy.model import MAX_DAY_MICROS, MAX_SPEND_MICROS, Policy

MAX_ENTRIES = 1000
MAX_COUNT = 10**9
MAX_GLOB = 256
ANOMALY_ACTIONS = ("", "alert", "disable")


def check(policy: Policy) -> None:
    """Errors: InvalidRequestError `invalid_policy` that names the field."""
    _check_globs("allowed_tools", policy.allowed_tools or ())
    _check_globs("blocked_tools", policy.blocked_tools)
    _check_globs("max_calls_per_tool", tuple(policy.max_calls_per_tool))
    _check_globs("pricing_rules", tuple(rule.tool for rule in policy.pricing_rules))
    _check_range("max_actions_per_hour", policy.max_actions_per_hour, MAX_COUNT)
    _check_range("max_spend_usd_per_day", policy.max_spend_micros_per_day, MAX_DAY_MICROS)
    for tool, limit in policy.max_calls_per_tool.items():
        _check_range(f"max_calls_per_tool.{tool}", limit, MAX_COUNT)
    for index, rule in enumerate(policy.pricing_rules):
        _check_range(f"pricing_rules.{index}.price_usd", rule.price_micros, MAX_SPEND_MICROS)
    if policy.on_anomaly not in ANOMALY_ACTIONS:
        raise _invalid("on_anomaly", "on_anomaly is alert or disable")


def _check_globs(field: str, globs: tuple[str, ...]) -> None:
    if len(globs) > MAX_ENTRIES:
        raise _invalid(field, f"at most {MAX_ENTRIES} entries")
    for glob in globs:
        if not glob or len(glob) > MAX_GLOB or not glob.isprintable():
            raise _invalid(field, f"a tool is named by 1-{MAX_GLOB} printable characters, * standing for any")


def _check_range(field: str, value: int | None, most: int) -> None:
    if value is not None and not 0 <= value <= most:
        raise _invalid(field, f"{field} is 0 to {most}")


def _invalid(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_policy", message, field=field)
