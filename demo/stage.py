"""What the play needs: an `interlock dev` with a folder of its own, a tool back end, agents, an operator."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import httpx

HERE = Path(__file__).parent
SECRET = "whsec_dGhlIGRlbW8gdG9vbHMnIHNlY3JldA=="  # noqa: S105 - of tools that live as long as the demo
STARTS_WITHIN_S = 30.0
ENDS_WITHIN_S = 15.0

Answer = Mapping[str, Any]
Process = subprocess.Popen[str]


class Stage:
    """Everything that runs, from entering the context to leaving it; nothing of it stays."""

    def __enter__(self) -> Self:
        with ExitStack() as leaving:
            self._folder = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="interlock-demo-")))
            self._port, self._admin_port = _free_ports(2)
            self.url = f"http://127.0.0.1:{self._port}"
            self._http = leaving.enter_context(httpx.Client(trust_env=False, timeout=10))
            self._agent_keys: dict[str, str] = {}
            leaving.callback(self._end_redis)
            leaving.callback(self.kill_interlock)
            self.start_interlock()
            leaving.callback(self._stop_interlock)
            leaving.enter_context(self._back_end())
            self._leaving = leaving.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.close()

    def start_interlock(self) -> None:
        """Runs `interlock dev` until it is ready; a second time, on the data that the first left."""
        ports = ("--port", str(self._port), "--admin-port", str(self._admin_port), "--grpc-port", "0")
        command = ["dev", *ports, "--data-dir", self._data]
        with (self._folder / "interlock.log").open("a") as log:
            self._interlock = _start("-m", "interlock.cli.main", *command, output=log, environment={})
        _wait_until(self._ready, self._interlock, "interlock dev does not start")

    def kill_interlock(self) -> None:
        """SIGKILL: the process gets no chance to do anything."""
        self._interlock.kill()
        self._interlock.wait()

    def operator(self, *arguments: str, show: bool = True) -> Any:
        """Runs an operator's command against the API; gives what it says with `--json`."""
        if show:
            print(f"  $ interlock {shlex.join(arguments)}")
        admin_key = (self._folder / "data" / "admin.key").read_text().strip()
        done = subprocess.run(  # noqa: S603 - the demo's own commands
            [sys.executable, "-m", "interlock.cli.main", *arguments, "--json"],
            env=_environment(
                {"INTERLOCK_BASE_URL": self.url, "INTERLOCK_API_KEY": admin_key, "INTERLOCK_TOOL_SECRET": SECRET}
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"interlock {shlex.join(arguments)} failed: {done.stderr}")
        return json.loads(done.stdout)

    def register(self, tool: str, path: str, *options: str) -> None:
        """Registers a tool of the back end, with the secret it knows."""
        self.operator("tools", "put", tool, "--url", f"{self.back_end}/tools{path}", *options)

    def agent(self, agent: str, tool: str, arguments: Mapping[str, object], *options: str) -> Iterator[Answer]:
        """Starts the agent script as this agent; its answers as they come."""
        script = _start(
            *(str(HERE / "agent.py"), tool, json.dumps(arguments), *options),
            environment={"TOOLS_URL": f"{self.url}/tools", "AGENT_KEY": self._agent_key(agent)},
        )
        self._leaving.callback(_end, script)
        return _answers_of(script)

    def wait_until_charged(self, order: str) -> None:
        """Returns when the back end has made the charge, answered or not."""
        _wait_until(
            lambda: order in [charge["order"] for charge in self.ledger()["charges"]], self._interlock, "no charge"
        )

    def ledger(self) -> Any:
        """What the back end really did."""
        return self._http.get(f"{self.back_end}/ledger").json()

    def call_back_end_directly(self, path: str, arguments: Mapping[str, object]) -> int:
        """What somebody gets who goes around the interlock: an HTTP status."""
        return self._http.post(f"{self.back_end}/tools{path}", json=arguments).status_code

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _agent_key(self, agent: str) -> str:
        if agent not in self._agent_keys:
            made = self.operator("keys", "create", "--role", "agent", "--agent", agent, show=False)
            self._agent_keys[agent] = made["key"]
        return self._agent_keys[agent]

    def _ready(self) -> bool:
        with suppress(httpx.TransportError):
            return self._http.get(f"http://127.0.0.1:{self._admin_port}/readyz").status_code == 200
        return False

    @contextmanager
    def _back_end(self) -> Iterator[None]:
        process = _start(str(HERE / "back_end.py"), environment={"TOOL_SECRET": SECRET})
        try:
            port = next(iter(process.stdout or ()), "").strip()
            if not port:
                raise SystemExit("the tool back end does not start")
            self.back_end = f"http://127.0.0.1:{port}"
            yield
        finally:
            _end(process)

    def _stop_interlock(self) -> None:
        self._interlock.terminate()
        if code := self._interlock.wait(ENDS_WITHIN_S):
            raise SystemExit(f"interlock dev ended with {code}")

    def _end_redis(self) -> None:
        """Only where the play broke off between the crash and the restart is there one left to end."""
        with suppress(OSError, ValueError):
            os.kill(int(Path(self._data, "redis", "redis.pid").read_text()), signal.SIGTERM)


def _start(*arguments: str, environment: Mapping[str, str], output: IO[str] | int = subprocess.PIPE) -> Process:
    log = None if output == subprocess.PIPE else output
    return subprocess.Popen(  # noqa: S603 - the demo's own scripts
        [sys.executable, *arguments], env=_environment(environment), stdout=output, stderr=log, text=True
    )


def _answers_of(script: Process) -> Iterator[Answer]:
    yield from map(json.loads, script.stdout or ())
    if code := script.wait():
        raise SystemExit(f"the agent script failed with {code}")


def _end(process: Process) -> None:
    process.kill()
    process.communicate()


def _wait_until(holds: Callable[[], object], lives: Process, otherwise: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not holds():
        if lives.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"NOT SO: {otherwise}")
        time.sleep(0.02)


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Without what the viewer may have set for an Interlock of theirs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("INTERLOCK_")} | dict(own)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
