"""What the rules say of a call, before anything is counted."""

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.policy import rules
from interlock.policy.model import (
    Dedup,
    DefaultPolicy,
    DefaultRule,
    Epochs,
    Limits,
    Namespace,
    Policy,
    PricingRule,
    Scope,
    Snapshot,
    Switch,
    Terms,
    Tool,
)

TOOL = Tool(name="mail.send", scope_id="global", url="https://tools.example/mail")
AGENT = Scope("acme", "bot-1")


@pytest.mark.parametrize(
    ("glob", "name", "expected"),
    [
        ("mail.send", "mail.send", True),
        ("mail.*", "mail.send", True),
        ("*", "mail.send", True),
        ("*.send", "mail.send", True),
        ("m*l.s*d", "mail.send", True),
        ("mail", "mail.send", False),
        ("mail.send", "mail_send", False),
        ("MAIL.*", "mail.send", False),
        ("mail.?end", "mail.send", False),
        ("[m]ail.send", "mail.send", False),
    ],
)
def test_only_the_star_is_special_in_a_glob(glob: str, name: str, expected: bool) -> None:
    assert rules.matches(glob, name) is expected


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_glob_matches_what_a_shell_would_match(glob: str, name: str) -> None:
    assert rules.matches(glob, name) is fnmatch.fnmatchcase(name, glob)


def test_a_glob_of_many_stars_is_matched_at_once() -> None:
    began = time.perf_counter()
    assert not rules.matches("*" * 250 + "x", "a" * 128)
    assert not rules.matches("a*" * 12 + "x", "a" * 128)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("allowed", "read_only", "expected"),
    [
        (None, True, ""),
        (None, False, "allow_read_only"),
        ((), True, ""),
        ((), False, "allow_read_only"),
        (("mail.*",), False, ""),
        (("charge",), True, ""),
        (("charge",), False, "allowed_tools"),
    ],
)
def test_read_only_tools_are_allowed_beside_those_that_are_named_and_nothing_else_is(
    allowed: tuple[str, ...] | None, read_only: bool, expected: str
) -> None:
    tool = Tool(name="mail.send", scope_id="global", url="https://tools.example/mail", read_only=read_only)
    ruling = rules.lists(tool, Terms(Policy(allowed_tools=allowed, allow_read_only=True)))
    assert ruling.matched_rule == expected
    assert bool(ruling.reason) is bool(expected)
    blocked = Policy(allowed_tools=allowed, allow_read_only=True, blocked_tools=("mail.*",))
    assert rules.lists(tool, Terms(blocked)).reason == "tool_explicitly_blocked"


def test_block_beats_allow() -> None:
    policy = Policy(allowed_tools=("*",), blocked_tools=("mail.*",))
    ruling = rules.lists(TOOL, Terms(policy))
    assert (ruling.reason, ruling.matched_rule) == ("tool_explicitly_blocked", "blocked_tools: mail.*")


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [(None, ""), ((), "tool_not_in_allowed_list"), (("mail.*",), ""), (("charge",), "tool_not_in_allowed_list")],
)
def test_an_absent_allowlist_is_everything_and_an_empty_one_nothing(
    allowed: tuple[str, ...] | None, reason: str
) -> None:
    assert rules.lists(TOOL, Terms(Policy(allowed_tools=allowed))).reason == reason


@pytest.mark.parametrize(("allow", "reason"), [(True, ""), (False, "no_policy")])
def test_without_a_policy_the_engines_default_holds(allow: bool, reason: str) -> None:
    assert rules.lists(TOOL, rules.terms(None, Namespace("acme"), allow_without_policy=allow)).reason == reason


BLOCKING = Policy(blocked_tools=("mail.*",), max_actions_per_hour=3)


@pytest.mark.parametrize(
    ("default", "reason", "rule"),
    [
        (DefaultPolicy(DefaultRule.ALLOW), "", ""),
        (DefaultPolicy(DefaultRule.DENY), "no_policy", "namespace's default_policy: deny"),
        (
            DefaultPolicy(DefaultRule.POLICY, BLOCKING),
            "tool_explicitly_blocked",
            "namespace's default_policy: blocked_tools: mail.*",
        ),
    ],
)
@pytest.mark.parametrize("engine_allows", [True, False])
def test_a_namespaces_default_goes_before_the_engines_and_is_named_by_the_rule(
    default: DefaultPolicy, reason: str, rule: str, engine_allows: bool
) -> None:
    acme = Namespace("acme", default_policy=default)
    ruling = rules.lists(TOOL, rules.terms(None, acme, allow_without_policy=engine_allows))
    assert (ruling.reason, ruling.matched_rule) == (reason, rule)


def test_an_agents_own_policy_goes_before_any_default() -> None:
    acme = Namespace("acme", default_policy=DefaultPolicy(DefaultRule.DENY))
    assert rules.terms(BLOCKING, acme, allow_without_policy=False) == Terms(BLOCKING)


def test_a_disabled_tool_is_refused_before_any_list() -> None:
    off = Tool(name="t", scope_id="global", url="https://t.example", enabled=False)
    assert rules.lists(off, Terms(Policy(blocked_tools=("*",)))).reason == "tool_disabled"


@pytest.mark.parametrize(
    ("world", "own", "rule"),
    [
        (False, False, ""),
        (False, True, "switch: namespace"),
        (True, False, "switch: global"),
        (True, True, "switch: global"),
    ],
)
def test_the_global_switch_is_looked_at_first(world: bool, own: bool, rule: str) -> None:
    snapshot = Snapshot(Epochs(), Switch(world), Switch(own), {}, Namespace("acme"))
    assert rules.switches(snapshot).matched_rule == rule


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**12)))
def test_a_call_costs_the_largest_of_what_is_declared_and_priced(declared: int, prices: list[int]) -> None:
    policy = Policy(pricing_rules=tuple(PricingRule("mail.*", price) for price in prices))
    assert rules.limits("mail.send", policy, declared).cost_micros == max([declared, *prices])


def test_rules_for_other_tools_do_not_price_a_call() -> None:
    policy = Policy(pricing_rules=(PricingRule("charge", 5), PricingRule("mail.*", 3)))
    assert rules.limits("mail.send", policy, 0) == Limits(cost_micros=3)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"*": 9}, 9),
        ({"*": 1, "mail.*": 5}, 5),
        ({"mail.*": 5, "mail.send": 7}, 7),
        ({"charge": 1}, None),
        ({"mail.*": 5, "*.send": 4}, 4),
    ],
)
def test_the_most_exact_limit_of_a_tool_holds(limits: dict[str, int], expected: int | None) -> None:
    assert rules.calls_limit(Policy(max_calls_per_tool=limits), "mail.send") == expected


def test_a_limit_of_zero_is_a_limit() -> None:
    policy = Policy(max_actions_per_hour=0, max_spend_micros_per_day=0)
    limits = rules.limits("t", policy, 0)
    assert (limits.actions_per_hour, limits.spend_micros_per_day, limits.calls_of_tool) == (0, 0, -1)


def key(**changes: object) -> str:
    asked = {
        "mode": Dedup.DERIVED,
        "caller_key": "",
        "fingerprint": b"f" * 32,
        "attempt_id": "a",
    }
    scope = changes.pop("scope", AGENT)
    return rules.key_of(scope, **(asked | changes))  # type: ignore[arg-type]


def test_a_key_is_64_hex_digits_whatever_it_is_made_of() -> None:
    for made in (key(), key(caller_key="x" * 256), key(mode=Dedup.OFF)):
        assert len(made) == 64
        assert int(made, 16) >= 0


def test_a_derived_key_depends_on_agent_namespace_and_fingerprint_only() -> None:
    assert key() == key(attempt_id="b")
    others = [key(scope=Scope("acme", "bot-2")), key(scope=Scope("other", "bot-1")), key(fingerprint=b"g" * 32)]
    assert len({key(), *others}) == 4


def test_a_callers_key_is_scoped_to_the_agent_and_free_of_the_fingerprint() -> None:
    assert key(caller_key="k") == key(caller_key="k", fingerprint=b"g" * 32, attempt_id="b")
    assert key(caller_key="k") != key(caller_key="k", scope=Scope("acme", "bot-2"))
    assert key(caller_key="k") == key(caller_key="k", mode=Dedup.OFF)


def test_without_deduplication_every_attempt_is_a_call_of_its_own() -> None:
    assert key(mode=Dedup.OFF) != key(mode=Dedup.OFF, attempt_id="b")


def test_parts_of_a_key_cannot_run_into_each_other() -> None:
    assert key(scope=Scope("ab", "c")) != key(scope=Scope("a", "bc"))
    assert key(caller_key="derived") != key()


@pytest.mark.parametrize(
    ("tool", "method", "mode"),
    [
        (TOOL, "POST", Dedup.DERIVED),
        (TOOL, "GET", Dedup.OFF),
        (TOOL, "HEAD", Dedup.OFF),
        (TOOL, "DELETE", Dedup.DERIVED),
        (Tool("t", "global", "", read_only=True), "POST", Dedup.OFF),
        (Tool("t", "global", "", read_only=True, dedup=Dedup.HEADER), "GET", Dedup.HEADER),
    ],
)
def test_what_changes_nothing_is_not_deduplicated_unless_the_tool_says_so(tool: Tool, method: str, mode: Dedup) -> None:
    assert rules.dedup_mode(tool, method) is mode
