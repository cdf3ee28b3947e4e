import dataclasses
from typing import Any

import pytest

from interlock.governance import values
from interlock.governance.values import dataclass, replace


@dataclass(frozen=True, slots=True)
class Place:
    host: str
    port: int = 80
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Single:
    one: int


@dataclasses.dataclass(frozen=True, slots=True)
class Librarys:
    host: str
    port: int = 80


def test_values_are_equal_and_hashed_by_their_fields() -> None:
    assert Place("a", 1) == Place("a", 1) != Place("a", 2)
    assert len({Place("a", 1), Place("a", 1), Place("a", 2)}) == 2


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (Place("a", 1, ("x",)), {"port": 2}),
        (Place("a"), {}),
        (Place("a"), {"host": "b", "names": ("y",)}),
        (Single(1), {"one": 2}),
        (Librarys("a"), {"port": 2}),
    ],
)
def test_a_copy_differs_in_what_was_changed_and_its_original_does_not(
    value: object, changes: dict[str, object]
) -> None:
    before = dataclasses.astuple(value)
    other = replace(value, **changes)
    assert other == dataclasses.replace(value, **changes)
    assert type(other) is type(value)
    assert dataclasses.astuple(value) == before


@pytest.mark.parametrize("value", [Place("a"), Librarys("a")])
def test_there_is_no_changing_what_a_value_does_not_have(value: Any) -> None:
    with pytest.raises((AttributeError, TypeError)):
        replace(value, hosts="b")


def test_a_type_checker_sees_the_standard_librarys() -> None:
    assert values.__all__ == ["dataclass", "replace"]
    assert {*values.__all__} <= {*dataclasses.__all__}
