"""The governance engine, put together: its services on any server, its health, its first key."""

import asyncio
from functools import partial
from typing import Any, Protocol

import structlog
from google.protobuf import descriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from interlock.governance.errors import InterlockError
from interlock.governance.ids import new_id
from interlock.governance.tasks import end
from interlock.governance.v1 import (
    account_pb2,
    account_pb2_grpc,
    admin_pb2,
    admin_pb2_grpc,
    alerts_pb2,
    alerts_pb2_grpc,
    configuration_pb2,
    configuration_pb2_grpc,
    figures_pb2,
    figures_pb2_grpc,
    governance_pb2,
    governance_pb2_grpc,
    locks_pb2,
    locks_pb2_grpc,
    namespaces_pb2,
    namespaces_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    timeline_pb2,
    timeline_pb2_grpc,
)
from interlock.policy import credentials, tools
from interlock.policy.account_ports import Accounts, Requests
from interlock.policy.alert_ports import AlertRecorder, Courier, Outbox, Watch
from interlock.policy.alerting import Alerting
from interlock.policy.applying import Applier
from interlock.policy.authorizing import Authorizer
from interlock.policy.degraded import DegradedCalls
from interlock.policy.delivering import Dispatcher
from interlock.policy.figures_ports import DailyFigures
from interlock.policy.following import Following
from interlock.policy.keyed_runs import KeyedRuns
from interlock.policy.knowledge import Knowledge, SwitchRecorder
from interlock.policy.learning import Learning
from interlock.policy.lock_ports import Locks
from interlock.policy.locking import Locking
from interlock.policy.model import DEFAULT_NAMESPACE, ApiKey, Identity, Role
from interlock.policy.plans import Plans
from interlock.policy.ports import Directory, Held, Ledger, Overview, Quotas, Trails
from interlock.policy.rates import Rates
from interlock.policy.reconciling import Asker, Reconciler, Recorder
from interlock.policy.renewing import Renewer
from interlock.policy.run_dispatch import RunDispatch
from interlock.policy.run_grants import Grants
from interlock.policy.run_ports import RunQueue
from interlock.policy.run_timeline import RunTimeline
from interlock.policy.runs import Runs
from interlock.policy.secrets import load_keyring
from interlock.policy.services.account import AccountService
from interlock.policy.services.agents import AgentsService, SwitchesService
from interlock.policy.services.alerts import AlertsService
from interlock.policy.services.calls import AuditService, CallsService
from interlock.policy.services.configuration import ConfigurationService
from interlock.policy.services.figures import FiguresService
from interlock.policy.services.governance import GovernanceService
from interlock.policy.services.keyed_runs import KeyedRunsService
from interlock.policy.services.keys import KeysService
from interlock.policy.services.locks import LocksService
from interlock.policy.services.namespaces import NamespacesService
from interlock.policy.services.policies import PoliciesService
from interlock.policy.services.run_work import RunWorkService
from interlock.policy.services.timelines import TimelinesService
from interlock.policy.services.tools import ToolsService
from interlock.policy.settings import EngineSettings
from interlock.policy.switching import Switching
from interlock.policy.timeline_ports import Timeline
from interlock.policy.waiting import Waits
from interlock.policy.watching import Surroundings, Watcher

log = structlog.get_logger(__name__)

HEALTH_INTERVAL_S = 0.5
SERVICES: tuple[descriptor.ServiceDescriptor, ...] = tuple(
    service
    for contract in (
        governance_pb2,
        admin_pb2,
        configuration_pb2,
        namespaces_pb2,
        account_pb2,
        timeline_pb2,
        figures_pb2,
        locks_pb2,
        alerts_pb2,
        runs_pb2,
    )
    for service in contract.DESCRIPTOR.services_by_name.values()
)


class Store(Protocol):
    """All parts of the store."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def directory(self) -> Directory: ...

    @property
    def trails(self) -> Trails: ...

    @property
    def held(self) -> Held: ...

    @property
    def overview(self) -> Overview: ...

    @property
    def quotas(self) -> Quotas: ...

    @property
    def accounts(self) -> Accounts: ...

    @property
    def requests(self) -> Requests: ...

    @property
    def timeline(self) -> Timeline: ...

    @property
    def figures(self) -> DailyFigures: ...

    @property
    def locks(self) -> Locks: ...

    @property
    def watch(self) -> Watch: ...

    @property
    def outbox(self) -> Outbox: ...

    @property
    def run_queue(self) -> RunQueue: ...


class Engine:
    """One engine. Any number of them may share a Redis."""

    def __init__(self, store: Store, settings: EngineSettings, recorder: SwitchRecorder | None = None) -> None:
        # Long, and without a branch: everything is made once, in the order in which it is needed.
        self._directory = store.directory
        self._plans = Plans(settings.plans, settings.default_plan)
        rates = Rates(store.requests, self._plans)
        self._knowledge = Knowledge(store.directory, rates, recorder, Grants(store.run_queue, store.directory))
        self._learning = Learning(store.directory, self._knowledge)
        self._waits = Waits(store.ledger)
        self._following = Following(store.overview, store.directory)
        self._health = health.HealthServicer()
        self._problem: str | None = None
        self._watch: asyncio.Task[None] | None = None
        inline = settings.master_key.get_secret_value() if settings.master_key else None
        self._keyring = load_keyring(inline, settings.master_key_file)
        self._ledger = store.ledger
        self._overview = store.overview
        self._trails = store.trails
        self._held = store.held
        token = settings.sidecar_token.get_secret_value() if settings.sidecar_token else ""
        allow = settings.default_policy == "allow"
        self._accounts = store.accounts
        self._timelines = TimelinesService(store.timeline, self._knowledge, token)
        self._figures = FiguresService(store.figures, self._directory, self._knowledge, self._plans)
        run_timeline = RunTimeline(store.timeline)
        self._locking = Locking(store.locks, store.directory, self._knowledge, self._plans, rates, run_timeline)
        self._watch_port, self._outbox = store.watch, store.outbox
        self._settings = settings
        self._runs = Runs(store.quotas, self._knowledge, self._plans)
        authorizer = Authorizer(
            self._ledger, self._knowledge, self._plans, self._runs, rates, allow_without_policy=allow
        )
        self._dispatch = RunDispatch(
            store.run_queue,
            run_timeline,
            lease_ms=settings.runs.lease_ms,
            max_workers_lost=settings.runs.max_workers_lost,
        )
        self._run_work = RunWorkService(self._dispatch, authorizer, store.run_queue, token)
        self._governance = GovernanceService(
            authorizer,
            Renewer(self._ledger, self._knowledge, allow_without_policy=allow),
            DegradedCalls(self._directory, self._ledger, self._knowledge, self._runs, allow_without_policy=allow),
            self._runs,
            self._ledger,
            self._knowledge,
            self._waits,
            self._keyring,
            token,
            settings.connection_age_ms / 1000,
        )
        self._check_tool = partial(
            tools.check,
            allow_loopback=settings.allow_loopback_tools,
            allow_plaintext_tokens=settings.allow_plaintext_token_urls,
        )
        applier = Applier(self._directory, self._knowledge, self._plans, self._keyring, self._check_tool)
        self._configuration = ConfigurationService(applier, self._knowledge, self._plans)

    async def apply(self, request: configuration_pb2.ApplyRequest) -> configuration_pb2.ApplyResponse:
        """Applies files of this engine's own, in the name of nobody's key.

        Errors: as the RPC's, but those that are about a key.
        """
        return await self._configuration.apply(request, request.namespace or DEFAULT_NAMESPACE, {"by": "manifest"})

    def register(self, server: Any) -> None:
        """Adds every service, and gRPC health, to a grpc.aio server or a LocalServer."""
        directory, ledger, knowledge = self._directory, self._ledger, self._knowledge
        switching = Switching(directory, knowledge, self._plans)
        governance_pb2_grpc.add_GovernanceServicer_to_server(self._governance, server)
        registry = ToolsService(directory, knowledge, self._plans, self._keyring, switching, self._check_tool)
        admin_pb2_grpc.add_ToolsServicer_to_server(registry, server)
        admin_pb2_grpc.add_PoliciesServicer_to_server(PoliciesService(directory, knowledge, self._plans), server)
        agents = AgentsService(directory, ledger, self._overview, knowledge, self._plans, switching)
        admin_pb2_grpc.add_AgentsServicer_to_server(agents, server)
        admin_pb2_grpc.add_SwitchesServicer_to_server(SwitchesService(knowledge, switching), server)
        admin_pb2_grpc.add_KeysServicer_to_server(KeysService(directory, knowledge), server)
        admin_pb2_grpc.add_CallsServicer_to_server(CallsService(directory, ledger, knowledge, self._runs), server)
        admin_pb2_grpc.add_AuditServicer_to_server(
            AuditService(directory, ledger, self._trails, knowledge, self._following), server
        )
        configuration_pb2_grpc.add_ConfigurationServicer_to_server(self._configuration, server)
        namespaces = NamespacesService(directory, knowledge, self._plans, self._accounts)
        namespaces_pb2_grpc.add_NamespacesServicer_to_server(namespaces, server)
        account = AccountService(self._accounts, knowledge, self._plans)
        account_pb2_grpc.add_AccountServicer_to_server(account, server)
        figures_pb2_grpc.add_FiguresServicer_to_server(self._figures, server)
        timeline_pb2_grpc.add_TimelinesServicer_to_server(self._timelines, server)
        locks_pb2_grpc.add_LocksServicer_to_server(LocksService(self._locking), server)
        alerts = AlertsService(
            self._outbox,
            knowledge,
            self._keyring,
            self._settings.alerts,
            allow_loopback=self._settings.allow_loopback_tools,
        )
        alerts_pb2_grpc.add_AlertsServicer_to_server(alerts, server)
        runs_pb2_grpc.add_RunWorkServicer_to_server(self._run_work, server)
        keyed = KeyedRunsService(KeyedRuns(self._locking, directory, knowledge))
        runs_pb2_grpc.add_KeyedRunsServicer_to_server(keyed, server)
        self.register_health(server)

    def alerting(self, courier: Courier, recorder: AlertRecorder) -> Alerting:
        """Watches for what is worth telling and tells it, once it is started."""
        settings = self._settings.alerts
        around = Surroundings(
            self._trails,
            self._overview,
            self._directory,
            self._knowledge,
            self._plans,
            self._outbox,
            self._accounts,
            allow_without_policy=self._settings.default_policy == "allow",
        )
        watcher = Watcher(self._watch_port, around, settings, recorder)
        dispatcher = Dispatcher(self._outbox, courier, self._keyring, settings, recorder)
        return Alerting(self._watch_port, self._trails, watcher, dispatcher, recorder, settings.lease_ms)

    def reconciler(self, asker: Asker, recorder: Recorder) -> Reconciler:
        """Looks after calls of unknown outcome, once it is started."""
        route_of = self._governance.route
        return Reconciler(self._held, self._ledger, self._knowledge, self._runs, route_of, asker, recorder)

    def register_health(self, server: Any) -> None:
        """Adds gRPC health alone: what a listener for operators needs."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    async def start(self) -> None:
        """Begins to watch Redis; health says SERVING while it may be used."""
        await self._look()
        self._watch = asyncio.create_task(self._keep_looking())
        self._learning.start()

    async def drain(self) -> None:
        """Health says NOT_SERVING from now on; streams end when what was asked on them is answered."""
        await self._stop_watching()
        await self._health.enter_graceful_shutdown()
        self._governance.drain()
        self._following.drain()
        self._locking.drain()
        self._dispatch.drain()

    async def close(self) -> None:
        await self._stop_watching()
        await self._learning.close()
        await self._waits.close()
        await self._locking.close()
        await self._dispatch.close()

    async def bootstrap(self, key: str) -> bool:
        """Creates the first admin key of the default namespace. False if that key existed before, revoked or not."""
        identity = Identity(new_id("key"), DEFAULT_NAMESPACE, Role.ADMIN)
        return await self._directory.create_key(credentials.address(key), ApiKey(identity, "bootstrap", 0))

    async def _stop_watching(self) -> None:
        await end(self._watch)
        self._watch = None

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            await self._look()

    async def _look(self) -> None:
        try:
            problem = await self._directory.check()
        except InterlockError as error:
            problem = error.message
        if problem == self._problem:
            return
        self._problem = problem
        if problem:
            log.warning("engine.not_serving", problem=problem)
        else:
            log.info("engine.serving")
        status = health_pb2.HealthCheckResponse.NOT_SERVING if problem else health_pb2.HealthCheckResponse.SERVING
        for service in ("", *(service.full_name for service in SERVICES)):
            await self._health.set(service, status)
