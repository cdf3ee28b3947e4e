import asyncio
import time

from interlock.governance.timers import TICK_S, Timers


async def test_a_timer_goes_off_once_and_not_before_its_time() -> None:
    gone_off: list[float] = []
    over, began = asyncio.Event(), time.monotonic()
    timers = Timers()
    timers.call_later(3 * TICK_S, lambda: gone_off.append(time.monotonic() - began))
    timers.call_later(6 * TICK_S, over.set)
    await over.wait()
    assert len(gone_off) == 1
    assert gone_off[0] >= 3 * TICK_S


async def test_a_timer_that_was_stopped_does_not_go_off_while_others_of_its_tick_do() -> None:
    gone_off: list[str] = []
    over = asyncio.Event()
    timers = Timers()
    stopped = timers.call_later(0.0, lambda: gone_off.append("stopped"))
    timers.call_later(0.0, lambda: gone_off.append("other"))
    timers.call_later(2 * TICK_S, over.set)
    stopped.cancel()
    await over.wait()
    assert gone_off == ["other"]


async def test_one_timer_may_stop_another_of_its_tick_or_begin_one_anew() -> None:
    gone_off: list[str] = []
    over = asyncio.Event()
    timers = Timers()

    def first() -> None:
        second.cancel()
        timers.call_later(0.0, over.set)

    timers.call_later(0.0, first)
    second = timers.call_later(0.0, lambda: gone_off.append("second"))
    await over.wait()
    assert gone_off == []


async def test_nothing_is_kept_of_timers_whose_time_is_over() -> None:
    over = asyncio.Event()
    timers = Timers()
    for _ in range(1000):
        timers.call_later(0.0, list).cancel()
    timers.call_later(2 * TICK_S, over.set)
    await over.wait()
    assert timers._ticks == {}


async def test_a_timer_that_fails_takes_no_other_of_its_tick_along() -> None:
    over = asyncio.Event()
    timers = Timers()
    failed: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["exception"]))
    timers.call_later(0.0, [].pop)
    timers.call_later(0.0, over.set)
    async with asyncio.timeout(5):
        await over.wait()
    assert [type(error) for error in failed] == [IndexError]
