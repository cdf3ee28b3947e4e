"""Tools and policies as a whole: what has to change for them to be what is asked for, and the changing of it.

What to do is planned on one reading of the store and written only where that reading still holds: of two who change the
same thing at once, none is overwritten unseen. If something moved in between, all is planned again.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import structlog

from interlock.governance.errors import ConflictError, InterlockError, InvalidRequestError, NotFoundError
from interlock.policy import policies, tools
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import OWNER, Policy, Scope, Snapshot, Tool, VersionedPolicy
from interlock.policy.plans import Plan, Plans
from interlock.policy.ports import Directory, NoRoomError, ToolChange
from interlock.policy.secrets import Keyring

log = structlog.get_logger(__name__)

ATTEMPTS = 10
PAUSE_S = 0.05
"""The longest pause before a second attempt; before each further one it is so much longer."""
MAX_APPLIED = 1000

Facts = Mapping[str, str]


class Action(StrEnum):
    """What becomes of a tool or a policy; names as in the proto."""

    UNCHANGED = "UNCHANGED"
    CREATE = "CREATE"
    UPDATE = "UPDATE"
    ADOPT = "ADOPT"
    DELETE = "DELETE"
    CONFLICT = "CONFLICT"


@dataclass(frozen=True, slots=True)
class WantedTool:
    """A tool as it is to be. `enabled` None leaves the switch: on, unless it was pulled by hand. Without `says_ttl` the
    plan says how long its successes are replayed.
    """

    tool: Tool
    secrets: tools.Secrets
    enabled: bool | None = None
    says_ttl: bool = True


@dataclass(frozen=True, slots=True)
class Desired:
    """What an owner ("" for none) wants to be. Without an owner nothing is pruned: nothing is known to be its own."""

    owner: str = ""
    tools: tuple[WantedTool, ...] = ()
    policies: Mapping[str, Policy] = field(default_factory=dict)
    prune: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True)
class ToolStep:
    """What becomes of a tool. `held_off`: it is to be enabled, and stays as a hand has left it."""

    action: Action
    before: Tool | None
    after: Tool | None
    held_off: bool = False

    @property
    def what(self) -> str:
        tool = self.after or self.before
        if tool is None:
            return "tool"
        return f"tool {tool.name}" if tool.scope_id == tools.GLOBAL_SCOPE else f"tool {tool.scope_id}/{tool.name}"

    @property
    def managed_by(self) -> str:
        return self.before.managed_by if self.before else ""


@dataclass(frozen=True, slots=True)
class PolicyStep:
    """What becomes of an agent's policy."""

    action: Action
    agent_id: str
    before: VersionedPolicy
    after: VersionedPolicy

    @property
    def what(self) -> str:
        return f"policy {self.agent_id}"

    @property
    def managed_by(self) -> str:
        return self.before.managed_by


Step = ToolStep | PolicyStep


def check(desired: Desired, check_tool: tools.Check) -> None:
    """Errors: InvalidRequestError with all that is wrong, whose `field` is the place of the first."""
    if desired.owner and not OWNER.fullmatch(desired.owner):
        raise InvalidRequestError("invalid_request", "an owner is 1-128 of A-Z a-z 0-9 _ . @ : / -", field="owner")
    if max(len(desired.tools), len(desired.policies)) > MAX_APPLIED:
        raise InvalidRequestError("invalid_request", f"at most {MAX_APPLIED} tools and policies are applied at once")
    found = [*_findings(desired, check_tool)]
    if found:
        message = "; ".join(f"{error.metadata['field']}: {error.message}" for error in found)
        raise InvalidRequestError(found[0].reason, message, field=found[0].metadata["field"])


def _findings(desired: Desired, check_tool: tools.Check) -> Iterable[InvalidRequestError]:
    known: set[tuple[str, str]] = set()
    for wanted in desired.tools:
        tool, place = wanted.tool, f"tools.{wanted.tool.name}"
        if (tool.scope_id, tool.name) in known:
            yield InvalidRequestError("invalid_tool", "the same tool stands here twice", field=place)
        known.add((tool.scope_id, tool.name))
        try:
            check_tool(tool, wanted.secrets)
        except InvalidRequestError as error:
            yield _below(place, error)
    for agent_id, policy in desired.policies.items():
        try:
            policies.check(policy)
        except InvalidRequestError as error:
            yield _below(f"policies.{agent_id}", error)


def _below(place: str, error: InvalidRequestError) -> InvalidRequestError:
    return InvalidRequestError(error.reason, error.message, field=f"{place}.{error.metadata.get('field', '')}")


def policy_steps(desired: Desired, current: Mapping[str, VersionedPolicy]) -> list[PolicyStep]:
    """What has to become of every policy that is asked for, or owned. By agent."""
    steps = []
    for agent_id, policy in sorted(desired.policies.items()):
        before = current.get(agent_id, VersionedPolicy())
        after = VersionedPolicy(policy, before.version, desired.owner)
        same = before.policy == policy and before.managed_by == desired.owner
        action = _action(desired, was_there=before.policy is not None, managed_by=before.managed_by, same=same)
        steps.append(PolicyStep(action, agent_id, before, after))
    owned = [
        agent for agent, before in sorted(current.items()) if before.policy and _pruned(desired, before.managed_by)
    ]
    gone = [agent_id for agent_id in owned if agent_id not in desired.policies]
    return [*steps, *(PolicyStep(Action.DELETE, agent, current[agent], VersionedPolicy()) for agent in gone)]


def tool_steps(
    desired: Desired,
    current: Mapping[tuple[str, str], Tool],
    *,
    namespace: str,
    plan: Plan,
    keyring: Keyring,
    now_ms: int,
) -> list[ToolStep]:
    """What has to become of every tool that is asked for, or owned. By scope and name."""
    steps = []
    asked = {(wanted.tool.scope_id, wanted.tool.name): wanted for wanted in desired.tools}
    for key, wanted in sorted(asked.items()):
        before = current.get(key)
        tool = replace(wanted.tool, dedup_ttl_s=plan.ttl_s(wanted.tool.dedup_ttl_s if wanted.says_ttl else None))
        try:
            sealed = tools.with_secrets(
                tool, wanted.secrets, before, namespace=namespace, keyring=keyring, now_ms=now_ms
            )
        except InvalidRequestError as error:  # a secret was left out that is not there to be kept
            raise _below(f"tools.{wanted.tool.name}", error) from error
        after, held_off = _switched(replace(sealed, managed_by=desired.owner), wanted.enabled, before)
        same = before is not None and _same(before, after)
        action = _action(
            desired, was_there=before is not None, managed_by=before.managed_by if before else "", same=same
        )
        steps.append(ToolStep(action, before, before if same else after, held_off))
    gone = [tool for key, tool in sorted(current.items()) if key not in asked and _pruned(desired, tool.managed_by)]
    return [*steps, *(ToolStep(Action.DELETE, tool, None) for tool in gone)]


def _action(desired: Desired, *, was_there: bool, managed_by: str, same: bool) -> Action:
    if not was_there:
        return Action.CREATE
    if managed_by not in ("", desired.owner) and not desired.force:
        return Action.CONFLICT
    if same:
        return Action.UNCHANGED
    return Action.ADOPT if desired.owner and not managed_by else Action.UPDATE


def _pruned(desired: Desired, managed_by: str) -> bool:
    return desired.prune and desired.owner != "" and managed_by == desired.owner


def _switched(tool: Tool, enabled: bool | None, before: Tool | None) -> tuple[Tool, bool]:
    """The tool with its kill switch, and whether that is held: off wins, and what a hand has pulled a hand lifts."""
    by_hand = before is not None and not before.enabled and not before.disabled_by_file
    off = enabled is False
    switched = replace(tool, enabled=not (off or by_hand), disabled_by_file=off and not by_hand)
    if before is not None and not before.enabled and not switched.enabled:
        switched = tools.pulled_as(switched, before)
    return switched, by_hand and not off


def _same(one: Tool, other: Tool) -> bool:
    return replace(one, revision=0, updated_at_ms=0) == replace(other, revision=0, updated_at_ms=0)


class Applier:
    """Makes a namespace what is asked for."""

    def __init__(
        self, directory: Directory, knowledge: Knowledge, plans: Plans, keyring: Keyring, check_tool: tools.Check
    ) -> None:
        self._directory = directory
        self._knowledge = knowledge
        self._plans = plans
        self._keyring = keyring
        self._check_tool = check_tool

    async def apply(self, namespace: str, desired: Desired, facts: Facts, *, dry_run: bool) -> Sequence[Step]:
        """What was, or would be, done: policies first, then tools. `facts` says who asks, in trail and log.

        Errors: InvalidRequestError with all that is wrong; ConflictError `managed_by_another` (nothing is written) or
        `configuration_changing`; whatever the store fails with, and then the message says what was done before.
        """
        check(desired, self._check_tool)
        facts = {**facts, "owner": desired.owner} if desired.owner else facts
        done: dict[str, Step] = {}
        try:
            for attempt in range(ATTEMPTS):
                # Who undo what the other has done would go on so in step.
                await asyncio.sleep(attempt * random.uniform(0, PAUSE_S))  # noqa: S311 - no secret hangs on it
                snapshot = await self._knowledge.up_to_date(namespace)
                if not snapshot.namespace.exists:
                    raise NotFoundError("namespace_not_found", f"there is no namespace {namespace}")
                steps = await self._planned(snapshot, desired)
                self._refuse_too_many(snapshot, steps)
                if dry_run:
                    return steps
                _refuse_conflicts(steps)
                if await self._write(snapshot, steps, facts, done) and await self._stands(namespace, desired, steps):
                    return _told(steps, done)
        except InterlockError as error:
            raise _after(done, error) from error
        raise _after(done, ConflictError("configuration_changing", "others are changing the same things; try again"))

    async def _stands(self, namespace: str, desired: Desired, steps: Sequence[Step]) -> bool:
        """Whether what was written is as a whole what is asked for. Of two who apply at once each step may have held
        where the two together do not: a tool of the one, and of its policy what the other left. Who ends last sees it.
        """
        changed = any(step.action is not Action.UNCHANGED for step in steps)
        if not changed or not any(isinstance(step, PolicyStep) for step in steps):
            return True
        found = await self._planned(await self._knowledge.up_to_date(namespace), desired)
        return all(step.action is Action.UNCHANGED for step in found)

    def _refuse_too_many(self, snapshot: Snapshot, steps: Sequence[Step]) -> None:
        """Before policies are written: the script that changes tools would only say it after them."""
        count = Counter(step.action for step in steps if isinstance(step, ToolStep))
        limit, grows = self._plans.of(snapshot.namespace).tools, count[Action.CREATE] - count[Action.DELETE]
        if limit is not None and grows > 0 and len(snapshot.tools) + grows > limit:
            raise self._plans.no_room(snapshot.namespace, len(snapshot.tools))

    async def _planned(self, snapshot: Snapshot, desired: Desired) -> list[Step]:
        namespace, plan = snapshot.namespace.name, self._plans.of(snapshot.namespace)
        agents = sorted({*await self._directory.agents(namespace), *desired.policies})
        held = await self._directory.policies([Scope(namespace, agent_id) for agent_id in agents])
        now_ms = int(time.time() * 1000)
        return [
            *policy_steps(desired, dict(zip(agents, held, strict=True))),
            *tool_steps(desired, snapshot.tools, namespace=namespace, plan=plan, keyring=self._keyring, now_ms=now_ms),
        ]

    async def _write(self, snapshot: Snapshot, steps: Sequence[Step], facts: Facts, done: dict[str, Step]) -> bool:
        """Writes what is planned; False if something has moved since.

        Policies come before the tools, so that no tool is open under a policy that did not know it; those that go, go
        after them. Tools that go, go before policies that change: these need not forbid any more what is to be gone.
        """
        namespace = snapshot.namespace.name
        put = [step for step in steps if isinstance(step, PolicyStep) and step.action is not Action.DELETE]
        gone = [step for step in steps if isinstance(step, PolicyStep) and step.action is Action.DELETE]
        changed = [step for step in steps if isinstance(step, ToolStep)]
        if any(step.action is not Action.UNCHANGED for step in put):
            leaving = [step for step in changed if step.action is Action.DELETE]
            if not await self._change_tools(snapshot, leaving, facts, done):
                return False
            changed = [step for step in changed if step.action is not Action.DELETE]
        for step in put:
            if not await self._put_policy(Scope(namespace, step.agent_id), step, facts, done):
                return False
        if not await self._change_tools(snapshot, changed, facts, done):
            return False
        for step in gone:
            if not await self._delete_policy(Scope(namespace, step.agent_id), step, facts, done):
                return False
        return True

    async def _put_policy(self, scope: Scope, step: PolicyStep, facts: Facts, done: dict[str, Step]) -> bool:
        await self._knowledge.see(scope)
        if step.action is Action.UNCHANGED or step.after.policy is None:
            return True
        version = await self._directory.put_policy(
            scope, step.after.policy, json.dumps(facts), managed_by=step.after.managed_by, replaces=step.before.version
        )
        if version:
            done[step.what] = replace(step, after=replace(step.after, version=version))
            self._knowledge.learn(scope, replace(step.before, policy=step.after.policy, version=version))
        return version > 0

    async def _delete_policy(self, scope: Scope, step: PolicyStep, facts: Facts, done: dict[str, Step]) -> bool:
        version = await self._directory.delete_policy(scope, json.dumps(facts), replaces=step.before.version)
        if version:
            done[step.what] = step
            self._knowledge.learn(scope, replace(step.before, policy=None, version=version))
        return version is not None

    async def _change_tools(
        self, snapshot: Snapshot, steps: Sequence[ToolStep], facts: Facts, done: dict[str, Step]
    ) -> bool:
        """All in one step, with those that stay as they are: the whole is as asked for, or as it was."""
        changing = [step for step in steps if step.action is not Action.UNCHANGED]
        if not changing:
            return True
        changes = [ToolChange(step.before, step.after) for step in steps]
        namespace, room = snapshot.namespace.name, self._plans.room(snapshot.namespace)
        try:
            revision = await self._directory.change_tools(namespace, changes, room=room, facts=json.dumps(facts))
        except NoRoomError as full:
            raise self._plans.no_room(snapshot.namespace, len(snapshot.tools)) from full
        self._knowledge.forget(namespace)
        if revision is None:
            return False
        for step in changing:
            done[step.what] = replace(step, after=replace(step.after, revision=revision) if step.after else None)
            event = "tool.put" if step.after else "tool.deleted"
            log.info(event, namespace=namespace, tool=step.what.removeprefix("tool "), **facts)
        return True


def _refuse_conflicts(steps: Sequence[Step]) -> None:
    others = [f"{step.what} ({step.managed_by})" for step in steps if step.action is Action.CONFLICT]
    if others:
        raise ConflictError(
            "managed_by_another",
            f"managed by another owner: {', '.join(others)}; take them over by force, or leave them",
        )


def _told(steps: Sequence[Step], done: Mapping[str, Step]) -> list[Step]:
    """All steps, with those done in an earlier attempt as they were done."""
    planned = {step.what: step for step in steps}
    return [*(planned | dict(done)).values()]


def _after(done: Mapping[str, Step], error: InterlockError) -> InterlockError:
    """The error, and what was done before it: whoever applies again goes on from there."""
    if not done:
        return error
    listed = ", ".join(f"{step.action.lower()} {step.what}" for step in done.values())
    # Whatever the failure itself left undone, something was done.
    facts = {name: value for name, value in error.metadata.items() if name != "effect"}
    return type(error)(error.reason, f"{error.message}; done before: {listed}; apply again to finish", **facts)
