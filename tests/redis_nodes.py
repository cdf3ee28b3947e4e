"""Several real Redis servers on loopback: a master with replicas, watched by sentinels or not, and a cluster."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import RedisError

from tests.redis_server import CARRIED

SERVICE = "interlock"
DOWN_AFTER_MS = 500
"""So long a master is away before anybody thinks of another one."""
SLOTS = 16_384


class RedisNode:
    """A server, or a sentinel, on a port of its own; a test kills, freezes and starts it."""

    def __init__(self, folder: Path, options: Sequence[str] = (), *, sentinel: str = "") -> None:
        """`sentinel` is the configuration of one: it writes its own down there."""
        self.port = _free_port()
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        self._options = (
            [*options, "--cluster-config-file", f"nodes-{self.port}.conf"] if not sentinel else ["--sentinel"]
        )
        self._sentinel = sentinel
        if sentinel:
            (self._folder / "sentinel.conf").write_text(sentinel)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        if self._sentinel:
            place = place[:-2]
        file = [str(self._folder / "sentinel.conf")] if self._sentinel else []
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [CARRIED.program, *file, *place, *self._options], stdout=log, stderr=log, cwd=self._folder
            )
        wait_until(lambda: self.ask("PING") is not None)

    def ask(self, *command: str | int) -> Any:
        """A command's reply as it comes; one that fails is raised."""
        with self.client() as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def client(self) -> redis.Redis:
        """One of its own, which is to be closed."""
        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=30, protocol=2)

    def info(self, section: str) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.info(section))

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)
        self.process = None

    def freeze(self) -> None:
        """It goes on taking connections and answers nobody."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def wait_until(holds: Callable[[], object], within_s: float = 30) -> None:
    """Waits for what other processes do: there is no event for it. One that cannot be asked yet is asked again."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(RedisError, OSError):
            if holds():
                return
        time.sleep(0.02)
    raise TimeoutError("the servers do not come to it")


class Watched:
    """A master, its replicas, and the sentinels that watch it."""

    def __init__(self, nodes: list[RedisNode], sentinels: list[RedisNode]) -> None:
        self.nodes = nodes
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{node.port}' for node in self.sentinels)}/{SERVICE}"

    @property
    def master(self) -> RedisNode:
        """Whom the first sentinel names."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(node for node in self.nodes if node.port == int(port))

    @property
    def followed(self) -> bool:
        """Whether all replicas that run follow the master, and all sentinels know of that."""
        following = [node.info("replication") for node in self.nodes if node is not self.master and node.process]
        known = [_pairs(sentinel.ask("SENTINEL", "MASTER", SERVICE)) for sentinel in self.sentinels]
        return all(told.get("master_link_status") == "up" for told in following) and all(
            state[b"num-slaves"] == b"%d" % (len(self.nodes) - 1) and state[b"num-other-sentinels"] == b"2"
            for state in known
        )

    def fail_over(self) -> None:
        """As an operator would have it: the old master lives on as a replica."""
        before = self.master
        self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
        wait_until(lambda: self.master is not before)


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Cluster:
    """Three masters with a replica each."""

    def __init__(self, nodes: list[RedisNode]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes[:2])}"

    def flush(self) -> None:
        """Forgets all data and loaded scripts, and what a test configured."""
        for node in {self.owner(slot) for slot in range(0, SLOTS, 512)}:
            node.ask("FLUSHALL")
            node.ask("SCRIPT", "FLUSH")
            node.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")

    def owner(self, slot: int) -> RedisNode:
        """The master that has a slot, as the last node that runs knows it."""
        asked = [node for node in self.nodes if node.process][-1]
        port = next(master[1] for first, last, master, *_ in asked.ask("CLUSTER", "SLOTS") if first <= slot <= last)
        return next(node for node in self.nodes if node.port == int(port))

    def others(self, node: RedisNode) -> list[RedisNode]:
        """The masters but this one."""
        return [found for found in {self.owner(slot) for slot in range(0, SLOTS, 512)} if found is not node]

    @property
    def whole(self) -> bool:
        """Whether every node that runs knows every slot's master to be up, and every replica follows."""
        running = [node for node in self.nodes if node.process]
        told = [node.info("replication") for node in running]
        ok = all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in running)
        return ok and all(found["role"] == "master" or found["master_link_status"] == "up" for found in told)


def name_of(node: RedisNode) -> str:
    """What it is called in its cluster."""
    return str(node.ask("CLUSTER", "MYID").decode())


@contextlib.contextmanager
def replicated(folder: Path, replicas: int = 1, options: Sequence[str] = ()) -> Iterator[list[RedisNode]]:
    """A master and its replicas, which follow it; the master comes first."""
    nodes = [RedisNode(folder, options) for _ in range(1 + replicas)]
    with _running(nodes):
        for node in nodes[1:]:
            node.ask("REPLICAOF", "127.0.0.1", nodes[0].port)
        wait_until(lambda: all(node.info("replication").get("master_link_status") == "up" for node in nodes[1:]))
        yield nodes


@contextlib.contextmanager
def watched(folder: Path, options: Sequence[str] = ()) -> Iterator[Watched]:
    """A master, two replicas, and three sentinels that know all of them and one another."""
    with replicated(folder, 2, options) as nodes:
        settings = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {nodes[0].port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        sentinels = [RedisNode(folder, sentinel="\n".join(settings)) for _ in range(3)]
        with _running(sentinels):
            found = Watched(nodes, sentinels)
            wait_until(lambda: found.followed)
            yield found


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Six nodes that have found one another."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(DOWN_AFTER_MS))
    nodes = [RedisNode(folder, options) for _ in range(6)]
    with _running(nodes):
        for number, node in enumerate(nodes[:3]):
            node.ask("CLUSTER", "ADDSLOTS", *range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
        for number, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        wait_until(lambda: all(node.ask("CLUSTER", "NODES").count(b"connected") == 6 for node in nodes))
        for master, replica in zip(nodes[:3], nodes[3:], strict=True):
            wait_until(lambda master=master, replica=replica: replica.ask("CLUSTER", "REPLICATE", name_of(master)))  # type: ignore[misc] # mypy cannot infer it
        found = Cluster(nodes)
        wait_until(lambda: found.whole and all(len(shard) == 4 for shard in nodes[0].ask("CLUSTER", "SLOTS")))
        yield found


@contextlib.contextmanager
def _running(nodes: list[RedisNode]) -> Iterator[None]:
    try:
        for node in nodes:
            node.start()
        yield
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()


def _free_port() -> int:
    """A free port whose fellow for the cluster's bus, 10,000 above, is free, too."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port + 10_000 > 65_535:
                continue
            with contextlib.suppress(OSError):
                bus.bind(("127.0.0.1", port + 10_000))
                return port
