"""Plans: what a namespace may use, as the engine's configuration has it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from interlock.governance.errors import DeniedError, ExhaustedError, InterlockError, InternalError, InvalidRequestError
from interlock.policy.model import Namespace, Policy
from interlock.policy.ports import Room
from interlock.policy.settings import DAY_S, UNLIMITED, Feature, PlanSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """What a namespace may use; None is no limit, and of `features` all."""

    name: str
    tools: int | None = None
    runs_per_month: int | None = None
    default_ttl_s: int = DAY_S
    max_ttl_s: int = 30 * DAY_S
    requests_per_minute: int | None = None
    features: frozenset[Feature] | None = None
    check_locks_per_month: int | None = None

    def ttl_s(self, asked: int | None) -> int:
        """How long what asks for so long, or does not say, is kept: a tool's successes, a lock, a lease."""
        return min(self.default_ttl_s if asked is None else asked, self.max_ttl_s)

    def require(self, feature: Feature) -> None:
        """Errors: DeniedError `feature_not_available`."""
        if self.features is not None and feature not in self.features:
            raise DeniedError("feature_not_available", f"the plan {self.name} has no {feature}", plan=self.name)

    def require_for(self, policy: Policy) -> None:
        """The same for all that a policy makes use of."""
        for feature in used_by(policy):
            self.require(feature)


class Plans:
    """Every plan of this engine. `unlimited` is one of them unless the configuration has another of that name."""

    def __init__(self, settings: Mapping[str, PlanSettings], default: str) -> None:
        self._default = default
        self._plans = {UNLIMITED: Plan(UNLIMITED)} | {
            name: Plan(name, **{field: getattr(plan, field) for field in PlanSettings.model_fields})
            for name, plan in settings.items()
        }

    def __iter__(self) -> Iterator[Plan]:
        """By name."""
        return iter(sorted(self._plans.values(), key=lambda plan: plan.name))

    def of(self, namespace: Namespace) -> Plan:
        """Errors: InternalError `plan_unknown` if this engine is not configured as the one that gave the plan was: a
        limit that nobody knows must not be taken for none.
        """
        name = namespace.plan or self._default
        if name not in self._plans:
            raise InternalError("plan_unknown", f"the plan {name} is not in this engine's configuration")
        return self._plans[name]

    def shown(self, namespace: Namespace) -> Plan:
        """The same for people to read: of a plan that is not known, the name."""
        name = namespace.plan or self._default
        return self._plans.get(name, Plan(name))

    def check(self, name: str) -> None:
        """Errors: InvalidRequestError `unknown_plan`."""
        if name not in self._plans:
            known = ", ".join(plan.name for plan in self)
            raise InvalidRequestError(
                "unknown_plan", f"no plan of that name is configured; there is {known}", field="plan"
            )

    def no_room(self, namespace: Namespace, tools: int) -> InterlockError:
        """What is said to whoever asks for more tools than the plan allows; `tools` are there."""
        plan = self.of(namespace)
        if plan.tools == 0:
            return DeniedError("feature_not_available", f"the plan {plan.name} has no tools", plan=plan.name)
        message = f"the plan {plan.name} allows {plan.tools} tools"
        return ExhaustedError(
            "payment_required", message, plan=plan.name, limit=str(plan.tools), usage=str(tools), field="tools"
        )

    def room(self, namespace: Namespace) -> Room:
        """For how many tools a namespace has room."""
        limit = self.of(namespace).tools
        return Room(namespace.plan, -1 if limit is None else limit)


def used_by(policy: Policy) -> Iterator[Feature]:
    """What a policy makes use of."""
    if policy.max_actions_per_hour is not None or policy.max_spend_micros_per_day is not None or policy.pricing_rules:
        yield "budgets"
    if policy.blocked_tools:
        yield "blocklist"
    if policy.max_calls_per_tool:
        yield "per_tool_limits"
    if policy.allowed_tools is not None or policy.allow_read_only:
        yield "allowlist"
    if policy.on_anomaly:
        yield "anomaly_detection"
