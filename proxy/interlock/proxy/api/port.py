"""What the REST API stands on: the engine's admin services over the sidecar's channel."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from grpc import aio

from interlock.governance.v1 import (
    account_pb2_grpc,
    alerts_pb2_grpc,
    configuration_pb2_grpc,
    figures_pb2_grpc,
    locks_pb2_grpc,
    namespaces_pb2_grpc,
    runs_pb2_grpc,
    timeline_pb2_grpc,
)
from interlock.governance.v1 import admin_pb2_grpc as rpc
from interlock.proxy.destinations import Destinations
from interlock.proxy.large_bodies import LargeBodies
from interlock.proxy.settings import KiB

if TYPE_CHECKING:  # these types exist in the generated stubs only
    from interlock.governance.v1.account_pb2_grpc import AccountAsyncStub
    from interlock.governance.v1.admin_pb2_grpc import (
        AgentsAsyncStub,
        AuditAsyncStub,
        CallsAsyncStub,
        KeysAsyncStub,
        PoliciesAsyncStub,
        SwitchesAsyncStub,
        ToolsAsyncStub,
    )
    from interlock.governance.v1.alerts_pb2_grpc import AlertsAsyncStub
    from interlock.governance.v1.configuration_pb2_grpc import ConfigurationAsyncStub
    from interlock.governance.v1.figures_pb2_grpc import FiguresAsyncStub
    from interlock.governance.v1.locks_pb2_grpc import LocksAsyncStub
    from interlock.governance.v1.namespaces_pb2_grpc import NamespacesAsyncStub
    from interlock.governance.v1.runs_pb2_grpc import KeyedRunsAsyncStub
    from interlock.governance.v1.timeline_pb2_grpc import TimelinesAsyncStub


MAX_BODY_BYTES = 256 * KiB
"""No tool and no policy needs as much, and a body is read before the engine has judged the key."""


@dataclass(frozen=True, slots=True)
class Api:
    """The admin services, where tools may live, how much of a body is read and how long an RPC may take.

    `draining` ends what has no end of its own.
    """

    tools: "ToolsAsyncStub"
    policies: "PoliciesAsyncStub"
    agents: "AgentsAsyncStub"
    switches: "SwitchesAsyncStub"
    keys: "KeysAsyncStub"
    calls: "CallsAsyncStub"
    audit: "AuditAsyncStub"
    configuration: "ConfigurationAsyncStub"
    namespaces: "NamespacesAsyncStub"
    alerts: "AlertsAsyncStub"
    account: "AccountAsyncStub"
    timelines: "TimelinesAsyncStub"
    figures: "FiguresAsyncStub"
    locks: "LocksAsyncStub"
    runs: "KeyedRunsAsyncStub"
    destinations: Destinations
    bodies: LargeBodies
    max_body_bytes: int
    max_apply_bytes: int
    timeout_s: float
    duplicates_conflict: bool = False
    """Whether a check-lock of a locked key is answered 409."""
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def over(
        cls,
        channel: aio.Channel,
        destinations: Destinations,
        bodies: LargeBodies,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        timeout_s: float = 5.0,
        duplicates_conflict: bool = False,
    ) -> Self:
        """The API over a channel to the engine, remote or in this process."""
        return cls(
            tools=rpc.ToolsStub(channel),
            policies=rpc.PoliciesStub(channel),
            agents=rpc.AgentsStub(channel),
            switches=rpc.SwitchesStub(channel),
            keys=rpc.KeysStub(channel),
            calls=rpc.CallsStub(channel),
            audit=rpc.AuditStub(channel),
            configuration=configuration_pb2_grpc.ConfigurationStub(channel),
            namespaces=namespaces_pb2_grpc.NamespacesStub(channel),
            alerts=alerts_pb2_grpc.AlertsStub(channel),
            account=account_pb2_grpc.AccountStub(channel),
            timelines=timeline_pb2_grpc.TimelinesStub(channel),
            figures=figures_pb2_grpc.FiguresStub(channel),
            locks=locks_pb2_grpc.LocksStub(channel),
            runs=runs_pb2_grpc.KeyedRunsStub(channel),
            destinations=destinations,
            bodies=bodies,
            max_body_bytes=min(max_body_bytes, MAX_BODY_BYTES),
            max_apply_bytes=max_body_bytes,
            timeout_s=timeout_s,
            duplicates_conflict=duplicates_conflict,
        )
