"""A run's grant: what its worker shows instead of a key. Good for the run's actions, while the worker holds the run and
while the key that the run was queued with could act as its agent. No key is kept for it anywhere.
"""

import re

from interlock.governance.errors import ConflictError, DeniedError, InvalidRequestError, UnauthenticatedError
from interlock.policy import access
from interlock.policy.model import Identity, Role
from interlock.policy.ports import Directory
from interlock.policy.run_ports import Granted, Holding, RunName, RunQueue, agent_of

GRANT_PREFIX = "run_grant:"
_GRANT = re.compile(rf"{GRANT_PREFIX}([a-z0-9-]{{1,63}}):([0-9a-f]{{64}}):(work_[0-9A-Za-z]{{22}})", re.ASCII)


def grant_of(holding: Holding) -> str:
    return f"{GRANT_PREFIX}{holding.run.namespace}:{holding.run.digest}:{holding.token}"


def holding_of(grant: str) -> Holding:
    """Errors: InvalidRequestError for what is no grant."""
    found = _GRANT.fullmatch(grant)
    if found is None:
        raise InvalidRequestError("invalid_request", "this is no grant of a run", field="grant")
    namespace, digest, token = found.groups()
    return Holding(RunName(namespace, digest), token)


def namespace_of(grant: str) -> str:
    """Errors: UnauthenticatedError `invalid_key`: as a credential it is as good as any unknown key."""
    found = _GRANT.fullmatch(grant)
    if found is None:
        raise UnauthenticatedError("invalid_key", "Invalid API key")
    return found[1]


def lost() -> ConflictError:
    return ConflictError("run_lost", "the run is over, was cancelled, or another worker has it")


class Grants:
    """Looks grants up."""

    def __init__(self, queue: RunQueue, directory: Directory) -> None:
        self._queue = queue
        self._directory = directory

    async def identity(self, grant: str) -> Identity:
        """The run's agent, and nothing beside. Errors: ConflictError `run_lost`; UnauthenticatedError `invalid_key` if
        the key that the run was queued with is not good for it any more.
        """
        holding = holding_of(grant)
        granted = await self._queue.granted(holding)
        if granted is None:
            raise lost()
        key_id = await self._key_id(holding.run, granted)
        return Identity(key_id, holding.run.namespace, Role.AGENT, granted.agent_id, holding.run.digest)

    async def _key_id(self, run: RunName, granted: Granted) -> str:
        key = await self._directory.key(granted.key_address)
        try:
            if (
                key is None
                or key.revoked_at_ms
                or access.acting_agent(key.identity, granted.agent_id) != agent_of(run, granted)
            ):
                raise UnauthenticatedError("invalid_key", "Invalid API key")
        except DeniedError as error:
            raise UnauthenticatedError("invalid_key", "Invalid API key") from error
        return key.identity.key_id
