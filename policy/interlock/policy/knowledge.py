"""What the engine remembers between calls: identities, snapshots and policies.

Nothing here has to be fresh for a decision to be right: every decision carries the versions it rests on, and the ledger
tells when one has moved. What is remembered for a namespace is forgotten together.
"""

import asyncio
import time
from dataclasses import field
from typing import Protocol

from interlock.governance.errors import NotFoundError, UnauthenticatedError
from interlock.governance.values import dataclass, replace
from interlock.policy import access, credentials
from interlock.policy.credentials import Credential
from interlock.policy.model import Epochs, Identity, Role, Scope, Snapshot, VersionedPolicy
from interlock.policy.ports import Directory
from interlock.policy.rates import Rates
from interlock.policy.run_grants import GRANT_PREFIX, Grants, namespace_of

MAX_REMEMBERED = 50_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Who asks, and the namespace as it was when they were still good: the two are always of one time."""

    identity: Identity
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class _Remembered:
    snapshot: Snapshot
    identities: dict[str, Identity] = field(default_factory=dict)


class SwitchRecorder(Protocol):
    """Where it is noted how long it took until a change was known."""

    def switch_known(self, scope: str, seconds: float) -> None: ...


class Knowledge:
    """The directory, remembered."""

    def __init__(
        self,
        directory: Directory,
        rates: Rates,
        recorder: SwitchRecorder | None = None,
        grants: Grants | None = None,
    ) -> None:
        self._directory = directory
        self._rates = rates
        self._grants = grants
        self._recorder = recorder
        # The last changes of switches that were known, global ("") and by namespace; those there is something known of.
        self._switched: dict[str, int] = {}
        self._namespaces: dict[str, _Remembered] = {}
        self._homes: dict[str, str] = {}
        self._policies: dict[Scope, VersionedPolicy] = {}
        self._seen: set[Scope] = set()
        self._coming: dict[str, asyncio.Task[_Remembered]] = {}
        self._loading: dict[str, asyncio.Task[_Remembered]] = {}

    async def identify(self, credential: str, *, of_run: bool = False) -> Standing:
        """Whose key it is, or with `of_run` whose run's grant: that is good for calls of tools, and for nothing else.

        Errors: UnauthenticatedError `missing_key` or `invalid_key`; of a run's grant `run_lost`.
        """
        if not credential:
            raise UnauthenticatedError("missing_key", "a bearer key is needed")
        if of_run and credential.startswith(GRANT_PREFIX) and self._grants is not None:
            return await self._of_run(credential, self._grants)
        address = credentials.address(credential)
        remembered = self._namespaces.get(self._homes.get(address, ""))
        if remembered is not None and address in remembered.identities:
            return Standing(remembered.identities[address], remembered.snapshot)
        return await self._look_up(credential, address)

    async def authenticate(self, credential: Credential, *, counted: bool = True) -> Identity:
        """Whose key it is, from the record itself: for what is not held to an epoch afterwards.

        An admin's identity is that of the namespace it names; of one that was deleted there is only something to read.
        Unless not `counted`, it is a request of the key's own namespace. Errors: UnauthenticatedError, DeniedError,
        InvalidRequestError, NotFoundError `namespace_not_found`, ExhaustedError `rate_limited`.
        """
        if not credential.key:
            raise UnauthenticatedError("missing_key", "a bearer key is needed")
        identity = await self._stored(credential.key, credentials.address(credential.key))
        home = await self._directory.namespace(identity.namespace)
        if not home.exists:
            raise _invalid_key()
        if counted and (refusal := await self._rates.refusal(home)) is not None:
            raise refusal
        name = access.namespace(identity, credential.namespace)
        if name == identity.namespace:
            return identity
        named = await self._directory.namespace(name)
        if named.exists:
            return replace(identity, namespace=name)
        if not named.revision:
            raise NotFoundError("namespace_not_found", "there is no namespace of that name")
        return replace(identity, namespace=name, role=Role.VIEWER)

    async def _look_up(self, credential: str, address: str) -> Standing:
        namespace = (await self._stored(credential, address)).namespace
        remembered = await self._loaded(namespace)
        if not remembered.snapshot.namespace.exists:
            # It may have been made since.
            remembered = await self._loaded_anew(namespace)
        if not remembered.snapshot.namespace.exists:
            raise _invalid_key()
        # Read again behind the snapshot: a key revoked since has raised the epoch that this snapshot is held to.
        identity = await self._stored(credential, address)
        if len(self._homes) >= MAX_REMEMBERED:
            self._homes.clear()
        self._homes[address] = namespace
        remembered.identities[address] = identity
        return Standing(identity, remembered.snapshot)

    async def _of_run(self, grant: str, grants: Grants) -> Standing:
        """A grant is looked at each time, behind the snapshot: a key revoked since has raised its epoch."""
        namespace = namespace_of(grant)
        remembered = await self._loaded(namespace)
        if not remembered.snapshot.namespace.exists:
            raise _invalid_key()
        return Standing(await grants.identity(grant), remembered.snapshot)

    async def _stored(self, credential: str, address: str) -> Identity:
        key = await self._directory.key(address) if credentials.looks_like_key(credential) else None
        if key is None or key.revoked_at_ms:
            raise _invalid_key()
        return key.identity

    async def snapshot(self, namespace: str) -> Snapshot:
        return (await self._loaded(namespace)).snapshot

    async def refresh(self, namespace: str) -> Snapshot:
        """Forgets all that is known of a namespace and asks anew."""
        return (await self._loaded_anew(namespace)).snapshot

    async def _loaded(self, namespace: str) -> _Remembered:
        """What is known of a namespace: how old it is does not matter, so a load that is under way will do."""
        remembered = self._namespaces.get(namespace)
        if remembered is not None:
            return remembered
        return await asyncio.shield(self._loading.get(namespace) or self._next_load(namespace))

    async def _loaded_anew(self, namespace: str) -> _Remembered:
        """The same, asked for after this was called: a load that is under way may have missed what the caller knows."""
        return await asyncio.shield(self._next_load(namespace))

    def _next_load(self, namespace: str) -> asyncio.Task[_Remembered]:
        """The load that begins next: one for all who ask until it does."""
        coming = self._coming.get(namespace)
        if coming is None:
            coming = asyncio.create_task(self._load(namespace, self._loading.get(namespace)))
            coming.add_done_callback(_heard)
            self._coming[namespace] = coming
        return coming

    async def _load(self, namespace: str, before: asyncio.Task[_Remembered] | None) -> _Remembered:
        if before is not None:
            await asyncio.wait([before])
        self._loading[namespace] = self._coming.pop(namespace)
        began = time.perf_counter()
        try:
            remembered = _Remembered(await self._directory.snapshot(namespace))
        finally:
            del self._loading[namespace]
        self._namespaces[namespace] = remembered
        self._note_switches(namespace, remembered.snapshot, time.perf_counter() - began)
        return remembered

    def _note_switches(self, namespace: str, snapshot: Snapshot, reading_s: float) -> None:
        """How long ago the switches were changed that are new to this engine.

        The time of reading is added, not to claim to have known sooner than was.
        """
        if len(self._switched) >= MAX_REMEMBERED:
            self._switched.clear()
        for scope, of, switch in (
            ("global", "", snapshot.world_switch),
            ("namespace", namespace, snapshot.namespace_switch),
        ):
            known = self._switched.get(of)
            if known is not None and switch.changed_at_us > known and self._recorder is not None:
                age_us = max(0, snapshot.read_at_us - switch.changed_at_us)
                self._recorder.switch_known(scope, age_us / 1_000_000 + reading_s)
            self._switched[of] = max(known or 0, switch.changed_at_us)

    async def relearn(self, namespace: str | None) -> None:
        """Renews what is known of a namespace (None: of all), if anything is: somebody has changed it."""
        known = [name for name in self._switched if name] if namespace is None else [namespace]
        for name in known:
            if name in self._switched:
                await self.refresh(name)

    def forget(self, namespace: str | None = None) -> None:
        """Drops what is remembered of a namespace (None: of all), because this engine itself has just changed it."""
        if namespace is None:
            self._namespaces.clear()
        else:
            self._namespaces.pop(namespace, None)

    async def up_to_date(self, namespace: str) -> Snapshot:
        """A snapshot of now: what a refusal must rest on that the ledger does not check."""
        return await self.current(namespace, await self._directory.epochs(namespace))

    async def current(self, namespace: str, epochs: Epochs) -> Snapshot:
        """The snapshot of these epochs, or a newer one."""
        snapshot = await self.snapshot(namespace)
        return snapshot if snapshot.epochs == epochs else await self.refresh(namespace)

    async def policy(self, scope: Scope) -> VersionedPolicy:
        policy = self._policies.get(scope)
        if policy is None:
            policy = await self._directory.policy(scope)
            self.learn(scope, policy)
        return policy

    async def policy_of(self, scope: Scope, version: int) -> VersionedPolicy:
        """The policy of this version, or a newer one."""
        policy = await self.policy(scope)
        if policy.version != version:
            policy = await self._directory.policy(scope)
            self.learn(scope, policy)
        return policy

    def learn(self, scope: Scope, policy: VersionedPolicy) -> None:
        if len(self._policies) >= MAX_REMEMBERED:
            self._policies.clear()
        self._policies[scope] = policy

    async def see(self, scope: Scope) -> None:
        """Makes sure that the agent is in its namespace's index before its first event."""
        if scope in self._seen:
            return
        await self._directory.see_agent(scope)
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.clear()
        self._seen.add(scope)


def _heard(load: asyncio.Task[_Remembered]) -> None:
    """Who asked for it may be gone: then nobody else hears why it failed."""
    if not load.cancelled():
        load.exception()


def _invalid_key() -> UnauthenticatedError:
    return UnauthenticatedError("invalid_key", "Invalid API key")
