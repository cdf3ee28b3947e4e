"""A million calls leave nothing behind. INTERLOCK_SOAK_CALLS sets how many (200,000 by default)."""

import os

import pytest

from tests.conftest import StartDev
from tests.interlock_dev import until
from tests.leaks import AGENTS, grown, held_while_calling, keys_beside_the_record

CALLS = int(os.environ.get("INTERLOCK_SOAK_CALLS", "200000"))
MOST_RESIDENT_BYTES = 120 << 20
NOTHING_BYTES = 1 << 20
"""Ten bytes a call of the second half: less than the smallest object."""
EXPIRED_WITHIN_S = 300
"""Two minutes is what lives the longest beside the record of calls; then Redis has to come to delete it."""
KEYS_OF_AN_AGENT = 12


@pytest.mark.soak
@pytest.mark.timeout(400 + CALLS / 50)
async def test_many_calls_leave_nothing_behind(interlock_dev: StartDev) -> None:
    dev = await interlock_dev(INTERLOCK_SIDECAR__ENGINE__TIMEOUT_MS="20000")
    samples = await held_while_calling(dev, CALLS, 100)
    first, last = samples[0], samples[-1]
    second_half = {what: round(grown(samples, what)) for what in ("resident_bytes", "files")}
    print(f"{last.calls} calls: {first} … {last}; in the second half {second_half}")  # noqa: T201 - the figures are the point
    assert second_half["resident_bytes"] < NOTHING_BYTES
    assert last.resident_bytes < MOST_RESIDENT_BYTES
    assert second_half["files"] == 0

    async def only_the_record_is_left() -> bool:
        return await keys_beside_the_record(dev, last.calls) < KEYS_OF_AN_AGENT * (AGENTS + 1)

    await until(only_the_record_is_left, EXPIRED_WITHIN_S)
