"""Keys of arguments, and results as JSON."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from itertools import combinations
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from interlock.client.canonical import as_result, bound, derived_key
from interlock.client.errors import UnusableArgumentError


class Colour(Enum):
    RED = 1


@dataclass
class Order:
    id: int
    lines: list[str]


class Model(BaseModel):
    id: int


def charge(order: object, cents: int = 100, *rest: object, note: str = "") -> None:
    """Something to be called."""


def key(value: object) -> str:
    return derived_key(charge, {"order": value})


def told_apart() -> Iterator[object]:
    yield from (None, True, False, 0, 1, 1.0, "1", "", b"1", b"", Decimal(1), [], {}, set(), [1], {1}, {"1": 1}, {1: 1})
    yield from (["1"], [[1]], [1, 2], [2, 1], ["list", 1], ["int", "1"], -0.0, 0.0, "None", "null", Colour.RED)
    yield from (date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1), "2026-01-01")  # noqa: DTZ001
    yield from (UUID(int=1), str(UUID(int=1)), Order(1, []), Order(1, ["a"]), Model(id=1), {"id": 1})


def test_different_values_have_different_keys() -> None:
    values = list(told_apart())
    assert not [(a, b) for a, b in combinations(values, 2) if key(a) == key(b)]


@pytest.mark.parametrize(
    ("one", "other"),
    [({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1, 2, 3}, {3, 2, 1}), ((1, 2), [1, 2]), (Order(1, []), Order(1, []))],
)
def test_equal_values_have_equal_keys(one: object, other: object) -> None:
    assert key(one) == key(other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_keys_are_equal_exactly_if_values_and_types_are(one: object, other: object) -> None:
    assert (key(one) == key(other)) == (repr_sorted(one) == repr_sorted(other))


def repr_sorted(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{name!r}:{repr_sorted(item)}" for name, item in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(repr_sorted, value)) + "]"
    return repr(value)


def test_it_makes_no_difference_how_arguments_are_given() -> None:
    by_position, by_name = bound(charge, (1, 100), {}), bound(charge, (), {"cents": 100, "order": 1, "note": ""})
    assert derived_key(charge, by_position) == derived_key(charge, by_name)
    assert derived_key(charge, bound(charge, (1, 100, "x"), {})) != derived_key(charge, by_position)


def test_a_key_is_the_same_in_every_process() -> None:
    program = (
        "from interlock.client.canonical import derived_key\n"
        "def f(): pass\n"
        "print(derived_key(f, {'a': {'x', 'y', 'z'}, 'b': {'k': 1.5}}))"
    )
    command = [sys.executable, "-c", program]
    told = {
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), lambda: 1, charge, Order, [object()]])
def test_an_argument_without_a_canonical_form_is_named(value: object) -> None:
    with pytest.raises(UnusableArgumentError, match=r"argument 'order' of .*charge.*give key="):
        key(value)


def test_an_argument_that_contains_itself_is_named() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(UnusableArgumentError, match="contains itself"):
        key(endless)


def test_a_key_has_room_for_any_name() -> None:
    def function() -> None: ...

    function.__qualname__ = "f" * 500
    assert len(derived_key(function, {}, prefix="p" * 300)) <= 256


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (None, None),
        ({"a": 1}, {"a": 1}),
        (7, {"value": 7}),
        ([1], {"value": [1]}),
        ({"value": 1}, {"value": {"value": 1}}),
        (Order(1, ["a"]), {"id": 1, "lines": ["a"]}),
        (Model(id=2), {"id": 2}),
        ({"at": date(2026, 1, 1)}, {"at": "2026-01-01"}),
    ],
)
def test_a_result_is_recorded_as_an_object(value: object, recorded: object) -> None:
    assert as_result(value) == recorded


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, {"a": b"x"}])
def test_a_result_that_is_no_json_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        as_result(value)
