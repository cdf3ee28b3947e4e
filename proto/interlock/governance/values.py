"""Frozen dataclasses that cost no more than others.

Python freezes a dataclass by setting each field through `object.__setattr__`, which makes a value three times as dear
to build, and a call builds some thirty: a tenth of its processor time. Where calls pass, `dataclass` comes from here.
To the type checker it is the standard library's, and `make check` finds whoever changes a field of a frozen one; at run
time nobody looks. Values stay comparable and hashable as frozen ones are.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool, slots: bool) -> Any:
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["dataclass"]
