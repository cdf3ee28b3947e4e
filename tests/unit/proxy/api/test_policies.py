import json

from hypothesis import given
from hypothesis import strategies as st

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy import strict_json
from interlock.proxy.api.models import PolicyBody
from interlock.proxy.api.policies import AgentPolicy, policy_of
from interlock.proxy.money import exact

GLOBS = st.text("abz0._:*-", min_size=1, max_size=12)
COUNTS = st.integers(min_value=0, max_value=10**9)
USD = st.integers(min_value=0, max_value=10**12).map(lambda micros: micros / 10**6)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "allowed_tools": st.lists(GLOBS, max_size=3),
        "blocked_tools": st.lists(GLOBS, min_size=1, max_size=3),
        "max_actions_per_hour": COUNTS,
        "max_spend_usd_per_day": USD,
        "max_calls_per_tool": st.dictionaries(GLOBS, COUNTS, min_size=1, max_size=3),
        "pricing_rules": st.lists(st.fixed_dictionaries({"tool": GLOBS, "price_usd": USD}), min_size=1, max_size=3),
        "on_anomaly": st.sampled_from(["alert", "disable"]),
    },
)


def there_and_back(policy: dict[str, object]) -> object:
    """A policy as an answer gives it after it was put as JSON."""
    body = PolicyBody.model_validate(strict_json.parse(json.dumps(policy).encode(), parse_float=exact))
    answer = AgentPolicy.of(pb.AgentPolicy(agent_id="billing", policy=policy_of(body))).model_dump(exclude_unset=True)
    return json.loads(json.dumps(answer))


@given(POLICIES)
def test_a_policy_comes_back_as_it_was_put(policy: dict[str, object]) -> None:
    assert there_and_back(policy) == {"agent_id": "billing", "policy": policy}


def test_one_tenth_of_a_dollar_comes_back_as_one_tenth() -> None:
    policy = {"max_spend_usd_per_day": 0.1, "pricing_rules": [{"tool": "charge", "price_usd": 0.07}]}
    assert there_and_back(policy) == {"agent_id": "billing", "policy": policy}


def test_money_goes_to_the_engine_in_micro_dollars_rounded_up() -> None:
    body = PolicyBody.model_validate(
        strict_json.parse(
            b'{"max_spend_usd_per_day": 0.29, "pricing_rules": [{"tool": "*", "price_usd": 1e-9}]}', parse_float=exact
        )
    )
    policy = policy_of(body)
    assert policy.max_spend_micros_per_day == 290_000
    assert policy.pricing_rules[0].price_micros == 1


def test_a_limit_of_zero_is_a_limit() -> None:
    policy = policy_of(PolicyBody.model_validate({"max_actions_per_hour": 0, "max_spend_usd_per_day": 0}))
    assert policy.HasField("max_actions_per_hour")
    assert policy.HasField("max_spend_micros_per_day")


def test_null_is_no_limit() -> None:
    names = ("allowed_tools", "blocked_tools", "max_actions_per_hour", "max_spend_usd_per_day", "max_calls_per_tool")
    assert policy_of(PolicyBody.model_validate(dict.fromkeys(names))) == pb.Policy()


def test_an_empty_allowlist_stays_one() -> None:
    assert there_and_back({"allowed_tools": []}) == {"agent_id": "billing", "policy": {"allowed_tools": []}}
