"""A million calls leave nothing behind. INTERLOCK_SOAK_CALLS sets how many (200,000 by default)."""

import os

import pytest

from tests.conftest import StartDev
from tests.leaks import grown, held_while_calling

CALLS = int(os.environ.get("INTERLOCK_SOAK_CALLS", "200000"))
MOST_RESIDENT_BYTES = 120 << 20
NOTHING_BYTES = 1 << 20
"""Ten bytes a call of the second half: less than the smallest object."""
NOTHING_IN_REDIS_BYTES = 4 << 20
"""What expires is deleted by and by, and what is waiting for that goes up and down."""


@pytest.mark.soak
@pytest.mark.timeout(60 + CALLS / 50)
async def test_many_calls_leave_nothing_behind(interlock_dev: StartDev) -> None:
    samples = await held_while_calling(await interlock_dev(), CALLS, 100)
    first, last = samples[0], samples[-1]
    second_half = {what: round(grown(samples, what)) for what in ("resident_bytes", "files", "redis_bytes")}
    print(f"{last.calls} calls: {first} … {last}; in the second half {second_half}")  # noqa: T201 - the figures are the point
    assert second_half["resident_bytes"] < NOTHING_BYTES
    assert last.resident_bytes < MOST_RESIDENT_BYTES
    assert second_half["files"] == 0
    assert second_half["redis_bytes"] < NOTHING_IN_REDIS_BYTES
