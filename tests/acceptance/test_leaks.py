"""The short form of tests/soak/test_leaks.py: so few calls show a leak that is not a small one."""

import pytest

from tests.conftest import StartDev
from tests.leaks import Held, grown, held_while_calling

CALLS = 3_200


@pytest.mark.parametrize(("each", "found"), [(0, 0), (10, 500)])
def test_growth_is_that_of_the_second_half(each: int, found: int) -> None:
    warming_up = [Held(calls, 1_000 * calls, 10) for calls in range(50)]
    after = [Held(calls, 49_000 + each * (calls - 49), 10) for calls in range(50, 101)]
    assert grown([*warming_up, *after], "resident_bytes") == pytest.approx(found, abs=0.1)


async def test_calls_leave_nothing_behind(interlock_dev: StartDev) -> None:
    samples = await held_while_calling(await interlock_dev(INTERLOCK_SIDECAR__ENGINE__TIMEOUT_MS="20000"), CALLS, 10)
    assert samples[-1].calls == CALLS
    assert grown(samples, "resident_bytes") < 3 << 20
    assert round(grown(samples, "files")) == 0
