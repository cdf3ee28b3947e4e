"""What has to change for tools and policies to be what a file says: pure plans, with the moment passed in."""

import dataclasses
from functools import partial
from typing import Any

import pytest

from interlock.governance.errors import InvalidRequestError
from interlock.policy import tools
from interlock.policy.applying import Action, Desired, ToolStep, WantedTool, check, policy_steps, tool_steps
from interlock.policy.model import OAuth2, Policy, Switch, Tool, VersionedPolicy
from interlock.policy.plans import Plan
from interlock.policy.secrets import Keyring
from interlock.policy.upstream import Given

CHECK = partial(tools.check, allow_loopback=False, allow_plaintext_tokens=False)
PLAN = Plan("unlimited")
KEYRING = Keyring({"m1": b"k" * 32})
CHARGE = Tool(name="charge", scope_id="global", url="https://pay.example/charge")
MAIL = Tool(name="mail", scope_id="agent:bot", url="https://mail.example")


def by_hand(tool: Tool, *, enabled: bool) -> Tool:
    return tools.switched(tool, tool, enabled=enabled, by=Switch(True, "drill", 0, "key_1"), now_ms=1)


def wanted(
    tool: Tool = CHARGE, enabled: bool | None = None, signing: str | None = None, credential: Given | None = None
) -> WantedTool:
    return WantedTool(tool, tools.Secrets(signing=signing, credential=credential), enabled)


def steps(desired: Desired, *stored: Tool) -> list[ToolStep]:
    current = {(tool.scope_id, tool.name): tool for tool in stored}
    return tool_steps(desired, current, namespace="acme", plan=PLAN, keyring=KEYRING, now_ms=1000)


def applied(desired: Desired, *stored: Tool) -> list[Tool]:
    """The tools as they are after the steps."""
    return [step.after for step in steps(desired, *stored) if step.after is not None]


def owned(tool: Tool = CHARGE, owner: str = "team", **changes: Any) -> Tool:
    return dataclasses.replace(tool, managed_by=owner, revision=3, **changes)


def actions(desired: Desired, *stored: Tool) -> list[str]:
    return [step.action for step in steps(desired, *stored)]


TEAM = Desired("team", (wanted(),))


def test_a_tool_that_is_not_there_is_created_as_the_owners() -> None:
    (step,) = steps(TEAM)
    assert (step.action, step.after and step.after.managed_by) == (Action.CREATE, "team")


def test_what_was_applied_is_unchanged_when_it_is_applied_again_with_its_secrets() -> None:
    client = Given(oauth2=OAuth2("https://login.example/token", "client-1"), client_secret="its-secret")
    for credential in (Given("X-Key", "up"), client):
        desired = Desired("team", (wanted(signing="s3cr3t-s3cr3t", credential=credential),))
        (tool,) = applied(desired)
        assert actions(desired, dataclasses.replace(tool, revision=9)) == [Action.UNCHANGED]


def test_what_an_old_master_key_sealed_is_sealed_anew_once() -> None:
    desired = Desired("team", (wanted(signing="s3cr3t-s3cr3t", credential=Given("X-Key", "up")),))
    (old,) = applied(desired)
    both = Keyring({"m2": b"n" * 32, "m1": b"k" * 32})
    stored = {("global", "charge"): old}
    (step,) = tool_steps(desired, stored, namespace="acme", plan=PLAN, keyring=both, now_ms=1000)
    assert (step.action, step.after and step.after.secrets[0].sealed.key_id) == (Action.UPDATE, "m2")
    assert step.after is not None
    (again,) = tool_steps(
        desired, {("global", "charge"): step.after}, namespace="acme", plan=PLAN, keyring=both, now_ms=1000
    )
    assert again.action is Action.UNCHANGED


def test_a_client_secret_left_out_that_is_not_there_is_told_with_its_tool() -> None:
    nothing = Given(oauth2=OAuth2("https://login.example/token", "client-1"))
    with pytest.raises(InvalidRequestError) as refused:
        steps(Desired("team", (wanted(credential=nothing),)))
    assert refused.value.metadata["field"] == "tools.charge.upstream_credential.client_secret"


@pytest.mark.parametrize("secrets", [{"signing": "an0ther-secret"}, {"credential": Given("X-Key", "2")}])
def test_another_secret_is_an_update(secrets: dict[str, Any]) -> None:
    before: dict[str, Any] = {"signing": "s3cr3t-s3cr3t", "credential": Given("X-Key", "up")}
    (tool,) = applied(Desired("team", (wanted(**before),)))
    assert actions(Desired("team", (wanted(**(before | secrets)),)), tool) == [Action.UPDATE]


def test_secrets_left_out_stay() -> None:
    (tool,) = applied(Desired("team", (wanted(signing="s3cr3t-s3cr3t"),)))
    assert actions(TEAM, tool) == [Action.UNCHANGED]


def test_a_tool_of_nobody_is_adopted_and_never_pruned() -> None:
    assert actions(TEAM, CHARGE, MAIL) == [Action.ADOPT]


def test_a_tool_of_another_is_a_conflict_unless_it_is_taken_by_force() -> None:
    assert actions(TEAM, owned(owner="others")) == [Action.CONFLICT]
    (step,) = steps(dataclasses.replace(TEAM, force=True), owned(owner="others"))
    assert (step.action, step.after and step.after.managed_by) == (Action.UPDATE, "team")


def test_who_names_no_owner_takes_nothing_from_one_and_prunes_nothing() -> None:
    nobody = Desired("", (wanted(),))
    assert actions(nobody, owned()) == [Action.CONFLICT]
    assert actions(nobody, MAIL) == [Action.CREATE]


def test_only_what_the_owner_manages_is_pruned() -> None:
    others, own = owned(MAIL, "others"), owned()
    assert actions(Desired("team"), others, own) == [Action.DELETE]
    assert actions(Desired("team", prune=False), others, own) == []


def test_tools_of_one_name_in_two_scopes_are_two_tools() -> None:
    mine = dataclasses.replace(CHARGE, scope_id="agent:bot")
    assert actions(Desired("team", (wanted(), wanted(mine))), owned()) == [Action.CREATE, Action.UNCHANGED]


@pytest.mark.parametrize("said", [None, True])
def test_a_switch_pulled_by_hand_stays_pulled_whatever_the_file_says(said: bool | None) -> None:
    off = by_hand(owned(), enabled=False)
    (step,) = steps(Desired("team", (wanted(enabled=said),)), off)
    assert (step.action, step.held_off, step.after and step.after.enabled) == (Action.UNCHANGED, True, False)


def test_a_switch_that_the_file_pulled_the_file_lifts() -> None:
    (off,) = applied(Desired("team", (wanted(enabled=False),)), owned())
    assert (off.enabled, off.disabled_by_file) == (False, True)
    assert actions(Desired("team", (wanted(enabled=False),)), off) == [Action.UNCHANGED]
    (on,) = applied(TEAM, off)
    assert (on.enabled, on.disabled_by_file) == (True, False)


def test_a_file_that_says_off_takes_a_hands_off_for_its_own_no_more_than_its_on() -> None:
    off = by_hand(owned(), enabled=False)
    (still,) = applied(Desired("team", (wanted(enabled=False),)), off)
    assert not still.disabled_by_file
    assert [tool.enabled for tool in applied(TEAM, still)] == [False]


def test_off_in_the_file_beats_on_by_hand() -> None:
    on = by_hand(owned(enabled=False, disabled_by_file=True), enabled=True)
    assert [tool.enabled for tool in applied(Desired("team", (wanted(enabled=False),)), on)] == [False]


def test_a_tool_disabled_by_an_earlier_version_was_disabled_by_hand() -> None:
    assert [step.held_off for step in steps(TEAM, dataclasses.replace(CHARGE, enabled=False))] == [True]


def test_policies_are_created_kept_adopted_and_pruned_like_tools() -> None:
    less = Policy(max_actions_per_hour=1)
    current = {
        "same": VersionedPolicy(less, 4, "team"),
        "old": VersionedPolicy(Policy(), 5, "team"),
        "nobodys": VersionedPolicy(less, 1),
        "others": VersionedPolicy(less, 1, "others"),
        "gone": VersionedPolicy(less, 1, "team"),
        "deleted": VersionedPolicy(None, 2, ""),
    }
    asked = dict.fromkeys(("same", "old", "nobodys", "others", "new", "deleted"), less)
    done = {step.agent_id: step.action.value for step in policy_steps(Desired("team", policies=asked), current)}
    assert done == {
        "same": "UNCHANGED",
        "old": "UPDATE",
        "nobodys": "ADOPT",
        "others": "CONFLICT",
        "new": "CREATE",
        "deleted": "CREATE",
        "gone": "DELETE",
    }


def test_all_that_is_wrong_is_told_at_once_with_its_place() -> None:
    bad = (wanted(dataclasses.replace(CHARGE, url="ftp://x")), wanted(dataclasses.replace(MAIL, risk="huge")))
    with pytest.raises(InvalidRequestError) as refused:
        check(Desired("team", bad, {"bot": Policy(on_anomaly="x")}), CHECK)
    for told in ("tools.charge.url: ", "tools.mail.risk: ", "policies.bot.on_anomaly: "):
        assert told in refused.value.message
    assert refused.value.metadata["field"] == "tools.charge.url"


def test_a_tool_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="twice"):
        check(Desired("team", (wanted(), wanted())), CHECK)


@pytest.mark.parametrize("owner", ["a b", "*", "ä", "x" * 129, "a\n"])
def test_an_owner_that_is_no_name_is_refused(owner: str) -> None:
    with pytest.raises(InvalidRequestError, match="owner"):
        check(Desired(owner), CHECK)
