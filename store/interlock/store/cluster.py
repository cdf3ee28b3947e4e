"""A Redis Cluster: commands go to the node that has the slot of their key, and follow it when it moves.

Every script keeps to one slot (`keys`). What an operation asks of other slots, it asks of them beside: its scripts
first, then the rest, each slot on its own, and what is published last, so that whoever hears it finds what it tells of.
See https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hiredis
import structlog
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from interlock.governance.errors import UnavailableError
from interlock.store.addresses import Node
from interlock.store.link import Link, Scripts, unavailable
from interlock.store.pipe import Command, open_pipe
from interlock.store.settings import RedisSettings

log = structlog.get_logger(__name__)

REFRESH_S = 0.1
"""Who has which slot is asked at most so often."""
AGAIN_S = 0.02
"""A slot on the move is tried again after so long."""
NO_SLOT = 0
"""What has no key, such as PUBLISH, is asked of who has this slot."""
_NO_KEY = frozenset({"TIME", "INFO", "PUBLISH", "MULTI", "EXEC"})
Unit = list[int]
"""Indexes of an operation's commands that belong to one slot, in order."""


class Cluster:
    """The Route to a cluster. A node that is away takes along its own slots alone."""

    def __init__(self, settings: RedisSettings, scripts: Scripts) -> None:
        self._settings = settings
        self._scripts = scripts
        # Who has which slot is a question that no replica has to acknowledge.
        self._alone = settings.model_copy(update={"wait_replicas": 0})
        self._links: dict[Node, Link] = {}
        self._guides = {node: self._new_link(node, self._alone) for node in settings.address.nodes}
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._refreshing = asyncio.Lock()
        self._refreshed_at = -REFRESH_S

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        phases = [*_phases(commands)]
        alone = len(phases) == 1 and len(phases[0]) == 1
        for phase in phases:
            units = [self._ask_slot(slot, [commands[at] for at in unit]) for slot, unit in phase.items()]
            try:
                told = [await units[0]] if len(units) == 1 else await asyncio.gather(*units)
            except UnavailableError as error:
                if alone:
                    raise
                raise unavailable() from error  # another slot's part may have happened
            for unit, answers in zip(phase.values(), told, strict=True):
                for at, answer in zip(unit, answers, strict=True):
                    replies[at] = answer
        return replies

    async def ask_each(self, commands: Sequence[Command]) -> list[list[Any]]:
        await self._owner(NO_SLOT)
        masters = {owner for owner in self._owners if owner is not None}
        return [await self._link(master).ask(commands) for master in masters]

    async def listening_at(self) -> Node:
        """What is published on one node is heard on all."""
        await self._owner(NO_SLOT)
        return random.choice([owner for owner in self._owners if owner is not None])  # noqa: S311 - any of them will do

    def refused(self, error: str) -> None:
        """A slot that moves is followed as soon as it is known to."""

    async def close(self) -> None:
        for link in (*self._links.values(), *self._guides.values()):
            link.drop()

    async def _ask_slot(self, slot: int, commands: Sequence[Command]) -> list[Any]:
        """Runs commands of one slot, in order. A slot on the move has `timeout_ms` to arrive."""
        deadline = time.monotonic() + self._settings.timeout_ms / 1000
        replies: list[Any] = [None] * len(commands)
        left, owner, asked = [*range(len(commands))], None, False
        while True:
            try:
                owner = await self._owner(slot)
                told = await self._link(owner).ask([commands[at] for at in left])
                asked = True
                for at, reply in zip(left, told, strict=True):
                    replies[at] = reply
                left = await self._followed(slot, owner, commands, replies)
            except UnavailableError as error:
                asked = asked or error.metadata.get("effect") != "none"
                if time.monotonic() > deadline or not await self._moved_on(slot, owner):
                    raise unavailable(asked=asked) from error
                continue
            if not left or time.monotonic() > deadline:
                return replies
            await asyncio.sleep(AGAIN_S)

    async def _followed(self, slot: int, owner: Node, commands: Sequence[Command], replies: list[Any]) -> Unit:
        """Goes where redirections point. Returns what is to be asked again; a transaction is, as a whole."""
        whole = commands[0][0] == "MULTI"
        again: Unit = []
        for at, reply in enumerate(replies):
            word, _, where = str(reply).partition(" ") if isinstance(reply, hiredis.ReplyError) else ("", "", "")
            if word == "MOVED":
                self._owners[slot] = _node_of(where, owner)
            if word == "ASK" and not whole:
                # Only this command, and only now: the slot is still the other one's.
                target = self._link(_node_of(where, owner))
                replies[at] = (await target.ask([("ASKING",), commands[at]]))[1]
                word = str(replies[at]).partition(" ")[0] if isinstance(replies[at], hiredis.ReplyError) else ""
            if word in _AGAIN:
                again.append(at)
        return [*range(len(commands))] if whole and again else again

    async def _owner(self, slot: int) -> Node:
        owner = self._owners[slot]
        if owner is None:
            await self._refresh()
            owner = self._owners[slot]
        if owner is None:
            raise unavailable(asked=False)
        return owner

    async def _moved_on(self, slot: int, owner: Node | None) -> bool:
        """Whether a slot has another owner than the one that does not answer."""
        try:
            await self._refresh()
        except UnavailableError:
            return False
        return self._owners[slot] not in (None, owner)

    async def _refresh(self) -> None:
        """Asks the nodes that are known, one after the other, until one says who has which slot."""
        async with self._refreshing:
            if time.monotonic() < self._refreshed_at + REFRESH_S:
                return
            for node, guide in random.sample([*self._guides.items()], len(self._guides)):
                try:
                    (told,) = await guide.ask([("CLUSTER", "SLOTS")])
                except UnavailableError:
                    continue
                if isinstance(told, list) and told:
                    self._learn(told, node)
                    break
                log.warning("redis.no_cluster", node=f"{node.host}:{node.port}", why=str(told) or "it has no slots")
            self._refreshed_at = time.monotonic()

    def _learn(self, ranges: Sequence[Any], told_by: Node) -> None:
        """Takes up what CLUSTER SLOTS says: first slot, last slot, master, replicas; a node's host may be its own."""
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, *nodes in ranges:
            known = [Node(host.decode() if host else told_by.host, port) for host, port, *_ in nodes]
            owners[first : last + 1] = [known[0]] * (last + 1 - first)
            for node in known:
                self._guides.setdefault(node, self._new_link(node, self._alone))
        self._owners = owners

    def _link(self, node: Node) -> Link:
        if node not in self._links:
            self._links[node] = self._new_link(node, self._settings)
        return self._links[node]

    def _new_link(self, node: Node, settings: RedisSettings) -> Link:
        return Link(lambda: open_pipe(settings, node), self._scripts)


_AGAIN = frozenset({"MOVED", "ASK", "TRYAGAIN"})


def _phases(commands: Sequence[Command]) -> Iterator[Mapping[int, Unit]]:
    """What is asked at once, by slot: a transaction; or scripts, then all else, then what is published."""
    everything = [*range(len(commands))]
    if commands[0][0] == "MULTI":
        yield {_slots(commands, everything)[1]: everything}
        return
    scripts = next((at for at, command in enumerate(commands) if command[0] != "EVALSHA"), len(commands))
    said = [at for at in everything[scripts:] if commands[at][0] == "PUBLISH"]
    rest = [at for at in everything[scripts:] if commands[at][0] != "PUBLISH"]
    for part in (everything[:scripts], rest, said):
        if part:
            yield _by_slot(commands, part)


def _by_slot(commands: Sequence[Command], part: Unit) -> Mapping[int, Unit]:
    units: defaultdict[int, Unit] = defaultdict(list)
    for at, slot in zip(part, _slots(commands, part), strict=True):
        units[slot].append(at)
    return units


def _slots(commands: Sequence[Command], part: Unit) -> list[int]:
    """The slot of each. What has no key goes with the first that has: TIME is told by the clock of what is read."""
    slots = [_slot(commands[at]) for at in part]
    first = next((slot for slot in slots if slot is not None), NO_SLOT)
    return [first if slot is None else slot for slot in slots]


def _slot(command: Command) -> int | None:
    if command[0] in _NO_KEY:
        return None
    key = command[3 if command[0] == "EVALSHA" else 1]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _node_of(redirection: str, asked: Node) -> Node:
    """`<slot> <host>:<port>`: without a host, it is that of who was asked."""
    host, _, port = redirection.partition(" ")[2].rpartition(":")
    return Node(host.strip("[]") or asked.host, int(port))
