"""Supervisors under a clock that jumps: when what has ended is started again, and what does not wait."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import supervised
from contract import plugin, takes
from fifo import within
from supervised import work
from trio_isolates import (
    ChildSpec,
    IsolateError,
    IsolateSpawnError,
    Restart,
    RestartLimitExceeded,
    Supervisor,
    SupervisorSpec,
    open_supervisor,
)
from trio_isolates._engine import current_engine
from trio_isolates.testing import InlineEngine

inline_isolates = plugin.inline_isolates

LONG = 100_000  # seconds; they pass at once

POLICY = Restart(max_restarts=5, within=1000, min_backoff=1, max_backoff=8, jitter=0)


@pytest.fixture(autouse=True)
def log() -> Iterator[list[tuple[str, float]]]:
    yield supervised.log
    supervised.log.clear()


def spec(
    name: str, seconds: float = math.inf, end: str = "fails", clean_up: float = 0, **options: Any
) -> Any:
    return ChildSpec(work, (name, seconds, end, clean_up), name=name, **options)


# When.


@pytest.mark.parametrize("end", ["fails", "returns"])
@within(LONG)
async def test_back_off(
    end: str, autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """The first start again is at once, the next ones wait longer each time; then the supervisor gives up."""
    start = trio.current_time()
    with (
        takes(10 + 0 + 10 + 1 + 10 + 2 + 10 + 4 + 10 + 8 + 10),
        pytest.raises(RestartLimitExceeded) as caught,
    ):
        async with open_supervisor(restart=POLICY) as supervisor:
            await supervisor.start(spec("a", 10, end))
            await trio.sleep_forever()
    assert [time - start for _, time in log] == [0, 10, 21, 33, 47, 65]
    kind = ZeroDivisionError if end == "fails" else IsolateError
    assert [type(cause) for cause in caught.value.causes] == [kind] * 6


@within(LONG)
async def test_a_window_that_slides(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """Ends that are longer apart than the window are answered for ever, and at once."""
    async with open_supervisor(restart=Restart(max_restarts=1, within=9)) as supervisor:
        await supervisor.start(spec("a", 10))
        await trio.sleep(1005)
        assert supervisor.statistics().restarts == 100
        assert supervisor.children()[0].restarts == 100
    assert len(log) == 102


@within(LONG)
async def test_starts_that_fail_count(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """A start again that fails waits for its turn like an end, and too many of them give up."""
    policy = Restart(max_restarts=3, within=100, min_backoff=1, max_backoff=8, jitter=0)
    with takes(5 + 0 + 1 + 2), pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(restart=policy) as supervisor:
            await supervisor.start(spec("a", 5))
            for number in range(3):
                inline_isolates.fail_next("spawn", OSError(errno.EAGAIN, f"start {number}"))
            await trio.sleep_forever()
    assert [type(c) for c in caught.value.causes] == [ZeroDivisionError, *3 * [IsolateSpawnError]]
    assert "start 2" in str(caught.value)
    assert len(log) == 1


@within(LONG)
async def test_a_sweep(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """Siblings are stopped before the wait, one after another, last first; then all start again."""
    start = trio.current_time()
    async with open_supervisor("one_for_all", POLICY) as supervisor:
        await supervisor.start(spec("a", clean_up=2))
        await supervisor.start(spec("b", 10))
        await supervisor.start(spec("c", clean_up=3))
        await trio.sleep(26)
        assert [child.state for child in supervisor.children()] == ["stopping", "waiting", "stopping"]
        await trio.sleep(5)
        assert [child.state for child in supervisor.children()] == ["running"] * 3
        assert [child.restarts for child in supervisor.children()] == [2, 2, 2]
        assert supervisor.statistics().restarts == 2
    assert [(name, time - start) for name, time in log] == [
        *[("a", 0), ("b", 0), ("c", 0)],
        *[("c stopped", 13), ("a stopped", 15), ("a", 15), ("b", 15), ("c", 15)],
        *[("c stopped", 28), ("a stopped", 30)],  # the wait of a second was over before
        *[("a", 30), ("b", 30), ("c", 30)],
        *[("c stopped", 34), ("b stopped", 34), ("a stopped", 36)],
    ]


@within(LONG)
async def test_a_sweep_is_overtaken(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """When one before them ends, those that wait to be started again wait with it."""
    start = trio.current_time()
    policy = Restart(max_restarts=9, within=1000, min_backoff=20, max_backoff=20, jitter=0)
    async with open_supervisor("rest_for_one", policy) as supervisor:
        await supervisor.start(spec("a"))
        await supervisor.start(spec("b", 17))
        await supervisor.start(spec("c", 5))
        await supervisor.start(spec("d"))
        await trio.sleep(36)  # c ends at 5 and 10, b at 17
        assert [child.state for child in supervisor.children()] == ["running", *["waiting"] * 3]
        await trio.sleep(2)
    assert [(name, time - start) for name, time in log] == [
        *[("a", 0), ("b", 0), ("c", 0), ("d", 0)],
        *[("d stopped", 5), ("c", 5), ("d", 5), ("d stopped", 10)],
        *[("b", 37), ("c", 37), ("d", 37)],
        *[("d stopped", 38), ("c stopped", 38), ("b stopped", 38), ("a stopped", 38)],
    ]


@within(LONG)
async def test_each_where_it_was_started(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """A child is started again in the context in which it was started, whoever's end is the cause."""
    async with open_supervisor("one_for_all", POLICY) as supervisor:
        await supervisor.start(spec("a"))
        other = InlineEngine()
        token = current_engine.set(other)
        await supervisor.start(spec("b", 10))
        current_engine.reset(token)
        await trio.sleep(11)
        assert [child.restarts for child in supervisor.children()] == [1, 1]
        inline_isolates.kill("a")
        other.kill("b")


# What does not wait.


async def bring_to_wait(supervisor: Supervisor, log: list[tuple[str, float]]) -> None:
    """Start "a", and return when it has ended for the second time and waits for long."""
    await supervisor.start(spec("a", 10))
    await trio.sleep(25)
    assert [child.state for child in supervisor.children()] == ["waiting"]
    assert log.pop()[0] == log.pop()[0] == "a"


SLOWLY = Restart(max_restarts=5, within=1000, min_backoff=500, max_backoff=500, jitter=0)


@within(LONG)
async def test_start_and_stop_meanwhile(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """While one waits to be started again, others are started and stopped at once, and so is it."""
    async with open_supervisor(restart=SLOWLY) as supervisor:
        child = await supervisor.start(spec("a", 10))
        await trio.sleep(25)
        assert child.statistics().state == "waiting"
        assert child.isolate is None
        with takes(0):
            other = await supervisor.start(spec("b"))
        assert other.statistics().state == "running"
        await trio.sleep(1)
        with takes(0):
            await supervisor.stop(other)
            await supervisor.stop(child)
        assert supervisor.children() == ()
        assert child.statistics().state == other.statistics().state == "ended"
        await trio.sleep(1000)
    assert [name for name, _ in log] == ["a", "a", "b", "b stopped"]


@within(LONG)
async def test_another_ends_meanwhile(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """While one is stopped and takes its time, another that ends is started again at once."""
    async with open_supervisor(restart=SLOWLY) as supervisor, trio.open_nursery() as nursery:
        slow = await supervisor.start(spec("slow", clean_up=100, shutdown=math.inf))
        await supervisor.start(spec("b", 10))
        nursery.start_soon(supervisor.stop, slow)
        await trio.sleep(11)
        assert slow.statistics().state == "stopping"
        assert [(child.name, child.state) for child in supervisor.children()] == [("b", "running")]


@within(LONG)
async def test_leave_meanwhile(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """The block is left at once while a child waits to be started again, which it never is."""
    with takes(25):
        async with open_supervisor(restart=SLOWLY) as supervisor:
            await bring_to_wait(supervisor, log)
    with takes(25), pytest.raises(KeyError, match="body"):
        async with open_supervisor(restart=SLOWLY) as supervisor:
            await bring_to_wait(supervisor, log)
            raise KeyError("body")
    await trio.sleep(1000)
    assert log == []
    with pytest.raises(trio.ClosedResourceError):
        await supervisor.start(spec("b"))


@pytest.mark.parametrize("seconds", [5, 10, 15, 25])
@within(LONG)
async def test_cancel_meanwhile(
    seconds: int, autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """A cancellation comes before every restart and every wait, also at the very instant of an end."""
    with takes(seconds), trio.move_on_after(seconds) as scope:
        async with open_supervisor(restart=SLOWLY) as supervisor:
            await supervisor.start(spec("a", 10))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await trio.sleep(1000)
    assert len([name for name, _ in log if name == "a"]) <= 1 + (seconds > 10)


@within(LONG)
async def test_cancel_a_body_that_does_not_notice(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """In a block that is cancelled nothing is started again, even while its body still cleans up."""
    with trio.move_on_after(5):
        async with open_supervisor(restart=SLOWLY) as supervisor:
            await supervisor.start(spec("a", 10))
            await supervisor.start(spec("b"))
            with trio.CancelScope(shield=True):
                await trio.sleep(1000)
                assert [child.state for child in supervisor.children()] == ["ended", "running"]
    assert [name for name, _ in log] == ["a", "b", "b stopped"]


@within(LONG)
async def test_cancel_a_start(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """A `start` that is cancelled leaves nothing behind, also of a supervisor that is half started."""
    children = [spec("a"), SupervisorSpec([spec("b"), ChildSpec(work, ("c", 1))])]
    async with open_supervisor() as supervisor:
        for turns in range(60):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(supervisor.start, SupervisorSpec(children))
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert [child.state for child in supervisor.children()] in ([], ["running"])
            if supervisor.children():
                break
        else:
            raise AssertionError("it never started")
        begun = [name for name, _ in log]
    assert begun.count("a") == begun.count("a stopped") + 1 > 1


# How long a stop may take.


@within(LONG)
async def test_shutdown(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """Each child has its own `shutdown` to end, then it is killed; without end it is waited for."""
    async with open_supervisor() as supervisor:
        for seconds, shutdown, expected in [(3, 5, 3), (50, 5, 5), (50, math.inf, 50), (50, 0, 0)]:
            child = await supervisor.start(spec("a", clean_up=seconds, shutdown=shutdown))
            await trio.sleep(1)
            with takes(expected):
                await supervisor.stop(child)
    with takes(1 + 7 + 50 + 5):
        async with open_supervisor() as supervisor:
            await supervisor.start(spec("a", clean_up=500, shutdown=5))
            await supervisor.start(spec("b", clean_up=50, shutdown=math.inf))
            await supervisor.start(spec("c", clean_up=7, shutdown=10))
            await trio.sleep(1)


@within(LONG)
async def test_cancel_a_stop(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """A `stop` that is cancelled kills at once."""
    async with open_supervisor() as supervisor:
        child = await supervisor.start(spec("a", clean_up=1000, shutdown=math.inf))
        tree = await supervisor.start(SupervisorSpec([spec("b", clean_up=1000, shutdown=math.inf)]))
        await trio.sleep(1)
        for each in (child, tree):
            with takes(5), trio.move_on_after(5) as scope:
                await supervisor.stop(each)
            assert scope.cancelled_caught
            assert each.statistics().state == "ended"


# Supervisors below supervisors.


@within(LONG)
async def test_a_tree_gives_up(
    autojump_clock: MockClock, inline_isolates: InlineEngine, log: list[tuple[str, float]]
) -> None:
    """A supervisor that gives up is one failure for the one above, which starts it and its children again."""
    once = Restart(max_restarts=1, within=1000)
    start = trio.current_time()
    below = SupervisorSpec([spec("a"), spec("b", 10)], policy=once, name="below")
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(restart=once, name="above") as supervisor:
            child = await supervisor.start(below)
            assert child.supervisor is not None
            await child.supervisor.start(spec("late"))
            await trio.sleep_forever()
    assert [(name, time - start) for name, time in log] == [
        *[("a", 0), ("b", 0), ("late", 0), ("b", 10), ("late stopped", 20), ("a stopped", 20)],
        *[("a", 20), ("b", 20), ("b", 30), ("a stopped", 40)],
    ]
    assert "'above'" in str(caught.value)
    for cause in caught.value.causes:
        assert isinstance(cause, RestartLimitExceeded)
        assert "'below'" in str(cause)
        assert [str(end) for end in cause.causes] == ["b", "b"]
