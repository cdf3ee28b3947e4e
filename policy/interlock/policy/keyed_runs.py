"""Keyed runs: who may have what done under a key, and by whom."""

from interlock.governance.values import dataclass, replace
from interlock.policy import access, credentials
from interlock.policy.credentials import Credential
from interlock.policy.knowledge import Knowledge
from interlock.policy.lock_ports import Lease, Queued
from interlock.policy.locking import Granted, Locking, Question
from interlock.policy.model import Identity, Role
from interlock.policy.ports import Directory
from interlock.policy.run_plan import PlannedAction, RunPlan

HANDLED_AS = "run-handler"
"""The agent that a namespace's handler is called as, if the run's caller is none and names none."""


@dataclass(frozen=True, slots=True)
class WantedRun:
    """A run that is asked for: its lease, and what is to be done. An empty `agent_id` is the caller's own."""

    question: Question
    agent_id: str
    run_id: str
    dry_run: bool
    actions: tuple[PlannedAction, ...]


class KeyedRuns:
    """Starts runs and cancels them."""

    def __init__(self, locking: Locking, directory: Directory, knowledge: Knowledge) -> None:
        self._locking = locking
        self._directory = directory
        self._knowledge = knowledge

    async def start(self, credential: Credential, wanted: WantedRun) -> Granted:
        """Queues the run with its lease; if there is nothing that a worker could do, the lease is the caller's.

        Errors: as `Locking.acquire`; DeniedError for another's agent, InvalidRequestError.
        """
        # A run is the key's, and so in the key's own namespace, as a call is.
        credential = credential.at_home()
        identity = (await self._knowledge.identify(credential.key)).identity
        actions = wanted.actions or await self._handled(identity.namespace, wanted)
        if not actions:
            return await self._locking.acquire(credential, wanted.question)
        agent = access.acting_agent(identity, _agent_id(identity, wanted)).agent_id
        plan = RunPlan(agent, wanted.run_id, wanted.dry_run, actions)
        queued = Queued(plan.as_json(), agent, credentials.address(credential.key))
        return await self._locking.acquire(credential, replace(wanted.question, metadata=b"", run=queued))

    async def cancel(self, credential: Credential, key: str, agent_id: str, reason: str) -> Lease:
        """Errors: as `Locking.cancel_run`."""
        return await self._locking.cancel_run(credential.at_home(), key, agent_id, reason)

    async def _handled(self, namespace: str, wanted: WantedRun) -> tuple[PlannedAction, ...]:
        """The one call of the namespace's handler, if it has one."""
        tool = (await self._directory.namespace(namespace)).run_handler
        return (PlannedAction(tool, (wanted.question.metadata or b"{}").decode()),) if tool else ()


def _agent_id(identity: Identity, wanted: WantedRun) -> str:
    if wanted.agent_id or wanted.actions or identity.role is Role.AGENT:
        return wanted.agent_id
    return HANDLED_AS
