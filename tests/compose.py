"""deploy/compose.yaml without a container engine: its services as processes of this machine, each on a free port.

What a process is given is what the file says: its command, its variables and nothing but them, its volumes. Addresses
of services and paths in containers are put into those of this machine, and nothing else is changed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.interlock_dev import free_port
from tests.redis_server import CARRIED

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PORTS = {
    "redis": (6379,),
    "engine": (8402, 8403),
    "sidecar": (8400, 8401, 8405),
    "exporter": (8404,),
    "tool": (9000,),
    "prometheus": (9090,),
}
HERE = {
    "engine": ("INTERLOCK_ENGINE__ALLOW_LOOPBACK_TOOLS=true", "INTERLOCK_ENGINE__ADMIN_PORT={8403}"),
    "sidecar": (
        *("INTERLOCK_SIDECAR__ALLOW_LOOPBACK_TOOLS=true", "INTERLOCK_SIDECAR__PORT={8400}"),
        *("INTERLOCK_SIDECAR__ADMIN_PORT={8401}", "INTERLOCK_SIDECAR__GRPC_PORT={8405}"),
    ),
    "exporter": ("INTERLOCK_AUDIT__ADMIN_PORT={8404}",),
    "enrol": ("INTERLOCK_BASE_URL=http://127.0.0.1:{8400}",),
}
"""What a network of one's own makes needless: ports that are not the default, and tools on loopback."""


def read() -> dict[str, Any]:
    """The file, its anchors and merges resolved."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load((DEPLOY / "compose.yaml").read_text())
    return content


def soon(holds: Callable[[], bool], within_s: float = 30) -> None:
    """Waits for what another process does: there is no event for it. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@dataclass
class Stack:
    """The services, in a folder that holds their volumes, secrets and logs."""

    folder: Path
    ports: dict[int, int] = field(
        default_factory=lambda: {port: free_port() for each in PORTS.values() for port in each}
    )
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.services = read()["services"]
        shutil.copy(DEPLOY / "compose-keys.sh", self.folder)
        subprocess.run(["sh", str(self.folder / "compose-keys.sh")], check=True)
        lines = (self.folder / ".env").read_text().splitlines()
        self.variables = dict(line.split("=", 1) for line in lines)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Its process; what it says goes to its log."""
        environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **self.environment(name)}
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(name), env=environment, cwd=self._home(name), stdout=log, stderr=log
            )
        return self.running[name]

    def stop(self, name: str) -> int:
        process = self.running.pop(name)
        process.terminate()
        return process.wait(30)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def is_healthy(self, name: str) -> bool:
        """What its health check says."""
        assert self.running[name].poll() is None, self.log(name).read_text()
        _, program, *words = self.services[name]["healthcheck"]["test"]
        assert program == "python"
        return (
            subprocess.run([sys.executable, *map(self.here, words)], capture_output=True, check=False).returncode == 0
        )

    def command(self, name: str) -> list[str]:
        service = self.services[name]
        words = [self.here(word, name) for word in service["command"]]
        image = service["image"].partition(":")[0]
        if image == "redis":
            data = self._mounts(name)["/data"]
            assert words[0] == "redis-server"
            return [str(CARRIED.program), *words[1:], "--port", str(self.ports[6379]), "--dir", str(data)]
        if image == "interlock":
            return [*service.get("entrypoint", (sys.executable, "-m", "interlock.cli.start")), *words]
        if image == "prom/prometheus":
            return ["prometheus", *words, f"--web.listen-address=127.0.0.1:{self.ports[9090]}"]
        return [sys.executable, *words[1:]] if words[0] == "python" else words

    def environment(self, name: str) -> dict[str, str]:
        given = {key: self.here(value, name) for key, value in self.services[name].get("environment", {}).items()}
        for line in HERE.get(name, ()):
            key, value = re.sub(r"\{(\d+)\}", lambda port: str(self.ports[int(port[1])]), line).split("=", 1)
            given[key] = value
        return given

    def here(self, text: str, name: str = "") -> str:
        """A text of the file as it is for this machine."""
        text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda variable: self.variables[variable[1]], text)
        for service, ports in PORTS.items():
            for port in ports:
                text = re.sub(rf"\b({service}|127\.0\.0\.1|0\.0\.0\.0):{port}\b", f"127.0.0.1:{self.ports[port]}", text)
        mounts = self._mounts(name) if name else {}
        for inside in sorted(mounts, key=len, reverse=True):
            text = re.sub(rf"(?<![\w./-]){re.escape(inside)}(?![\w.-])", str(mounts[inside]), text)
        return str(self.ports[9000]) if text == "9000" else text

    def _mounts(self, name: str) -> dict[str, Path]:
        """Paths in its container, and what is there."""
        service = self.services[name]
        found = {f"/run/secrets/{secret}": self._secret(secret) for secret in service.get("secrets", ())}
        for volume in service.get("volumes", ()):
            source, inside, *_ = volume.split(":")
            found[inside] = self._bound(source) if source.startswith(".") else self.folder / "volumes" / source
            if not source.startswith("."):
                found[inside].mkdir(parents=True, exist_ok=True)
        return found

    def _secret(self, secret: str) -> Path:
        return self.folder / str(read()["secrets"][secret]["file"])

    def _bound(self, source: str) -> Path:
        """A copy in which addresses are those of this machine, and Prometheus does not wait long for its first look."""
        copy = self.folder / "bound" / Path(source).name
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            original = DEPLOY / source
            for file in [original] if original.is_file() else sorted(original.iterdir()):
                target = copy if original.is_file() else copy / file.name
                target.parent.mkdir(exist_ok=True)
                target.write_text(self.here(file.read_text()).replace("scrape_interval: 5s", "scrape_interval: 1s"))
        return copy

    def _home(self, name: str) -> Path:
        return self._mounts(name).get("/var/lib/interlock", self.folder)

    def said(self, name: str) -> Iterator[dict[str, Any]]:
        """The whole lines of JSON in its log."""
        *lines, _ = self.log(name).read_text().split("\n")
        return (json.loads(line) for line in lines)
