"""The processes that are measured: each lives as long as its context, and is ended by its own id."""

import asyncio
import os
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx

from bench.failure import BenchError

READY_WITHIN_S = 30
ENDS_WITHIN_S = 15
POLL_S = 0.02


@asynccontextmanager
async def running(
    *command: str, log: Path, ready_at: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Starts a command and waits until it answers 200 at a URL. What it says goes to `log`. Raises BenchError."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env=_environment(settings or {}), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        await _until_ready(process, ready_at, log)
        yield process
    finally:
        await _end(process)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def resident_mib(pid: int) -> float | None:
    """What a process holds in memory, MiB; None where the system has no /proc to tell it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next(round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmRSS:"))


def cpu_seconds(pid: int) -> float | None:
    """Processor time that a process has used, user and system (proc(5)); None where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _until_ready(process: Process, url: str, log: Path) -> None:
    """Asks again and again: what happens in another process sends us no event."""
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not await _answers(client, url):
                    if process.returncode is not None:
                        break
                    await asyncio.sleep(POLL_S)
                else:
                    return
        except TimeoutError:
            pass
    raise BenchError(f"{log.stem} does not start: {_last_words(log)}")


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip()


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Without what the user may have set for an Interlock of theirs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")} | dict(own)
