"""What a worker holds a run by: nobody else is told of it, and it is good for the run's actions alone."""

from collections.abc import AsyncIterator

import pytest

from interlock.governance.v1 import locks_pb2, runs_pb2, runs_pb2_grpc, timeline_pb2
from tests.integration.engines import EngineClient, running_engine

GIVEN_BACK = 2


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[EngineClient]:
    async with running_engine(redis_url) as engine:
        yield engine


async def held(engine: EngineClient) -> str:
    """The grant of a run that other workers gave back."""
    await engine.put_tool()
    action = runs_pb2.Action(tool="charge", args=b"{}")
    runs, work = runs_pb2_grpc.KeyedRunsStub(engine.channel), runs_pb2_grpc.RunWorkStub(engine.channel)
    await engine.ask(
        runs.StartRun, runs_pb2.StartRunRequest(key="job", agent_id="bot-1", run_id="job", actions=[action])
    )
    asked = runs_pb2.TakeRunRequest(worker="w", wait_ms=10_000)
    grant = (await engine.ask(work.TakeRun, asked)).run.grant
    checked = runs_pb2.CheckpointActionRequest(grant=grant, index=0, outcome=b"{}")
    await engine.ask(work.CheckpointAction, checked)
    for _ in range(GIVEN_BACK):
        await engine.ask(work.ReturnRun, runs_pb2.HeldRun(grant=grant))
        grant = (await engine.ask(work.TakeRun, asked)).run.grant
    assert isinstance(grant, str)
    return grant


async def test_a_timeline_does_not_tell_what_a_worker_holds_its_run_by(engine: EngineClient) -> None:
    grant = await held(engine)
    told = await engine.ask(engine.timelines.ListRunEvents, timeline_pb2.ListRunEventsRequest(run_id="job"))
    assert [event.type for event in told.events].count("run_resumed") == GIVEN_BACK
    assert len({event.event_id for event in told.events}) == len(told.events)
    assert grant.rpartition(":")[2] not in str(told)


async def test_a_runs_grant_locks_leases_and_starts_nothing(engine: EngineClient) -> None:
    worker = engine.speaking_with(await held(engine))
    for method, request in (
        (worker.locks.CheckLock, locks_pb2.CheckLockRequest(key="lock")),
        (worker.locks.AcquireLease, locks_pb2.AcquireLeaseRequest(key="lease")),
        (runs_pb2_grpc.KeyedRunsStub(worker.channel).StartRun, runs_pb2.StartRunRequest(key="run")),
    ):
        assert await worker.refused(method, request) == "invalid_key"
