"""In which order, and of which slot, the parts of an operation are asked in a cluster."""

import pytest
from redis.crc import key_slot

from interlock.policy.model import Scope
from interlock.store import keys
from interlock.store.addresses import Node
from interlock.store.cluster import NO_SLOT, _node_of, _phases
from interlock.store.pipe import Command

AGENT = Scope("acme", "bot-1")
OWN, NAMESPACE, WORLD = keys.of_agent(AGENT, "state"), keys.of_namespace("acme", "epoch"), keys.of_namespace(keys.WORLD)
SCRIPT: Command = ("EVALSHA", "sha", 1, OWN, "argument")


def slot(key: str) -> int:
    return key_slot(key.encode())


def test_what_an_operation_reads_beside_its_script_is_asked_after_it() -> None:
    commands = [SCRIPT, ("GET", WORLD), ("GET", NAMESPACE), ("PUBLISH", keys.QUEUED_CHANNEL, "acme"), ("GET", OWN)]
    assert [*_phases(commands)] == [
        {slot(OWN): [0]},
        {slot(WORLD): [1], slot(NAMESPACE): [2], slot(OWN): [4]},
        {NO_SLOT: [3]},
    ]


def test_the_time_is_that_of_the_node_that_is_read() -> None:
    assert [*_phases([("TIME",), ("GET", OWN), ("GET", WORLD)])] == [{slot(OWN): [0, 1], slot(WORLD): [2]}]
    assert [*_phases([("TIME",)])] == [{NO_SLOT: [0]}]


def test_a_transaction_stays_whole() -> None:
    assert [*_phases([("MULTI",), ("GET", NAMESPACE), ("TIME",), ("EXEC",)])] == [{slot(NAMESPACE): [0, 1, 2, 3]}]


@pytest.mark.parametrize(
    ("where", "node"),
    [("3999 10.0.0.1:6381", Node("10.0.0.1", 6381)), ("3999 ::1:6381", Node("::1", 6381)), ("3999 :1", Node("me", 1))],
)
def test_a_redirection_names_a_node(where: str, node: Node) -> None:
    assert _node_of(where, Node("me", 7000)) == node
