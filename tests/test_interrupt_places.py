"""Wherever an interrupt lands, nothing is left half done: imports, locks, blocks, records, messages."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import outcome
import pytest
import trio

import interrupt_handlers as work
import interrupt_loops as loops
import interrupt_places as places
import interrupt_waits as waits
from fifo import Fifo, open_fifo, within
from interrupting import AnyWorker, cancel_at, cancel_when, opened, spin
from trio_isolates import CallInterrupted
from trio_isolates._interrupt import SIGNAL, Interrupter
from trio_isolates._memory import RING, Page
from trio_isolates._messages import CANCELLED, ERROR, VALUE


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    """What the isolate tells the test."""
    with open_fifo(tmp_path) as opened:
        yield opened


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Fifo]:
    """Where the isolate waits for the test."""
    (tmp_path / "gate").mkdir()
    with open_fifo(tmp_path / "gate") as opened:
        yield opened


async def interrupt_there(
    fifo: Fifo, gate: Fifo, call: Callable[..., Awaitable[Any]], *args: Any
) -> outcome.Outcome[Any] | None:
    """Make a call, interrupt it where it meets the test, and only then let it go on."""

    async def let_go_on() -> None:
        await trio.testing.wait_all_tasks_blocked()
        with gate.path.open("w") as file:
            file.write("go on\n")

    async with trio.open_nursery() as nursery:

        async def begun() -> None:
            await fifo.line()
            nursery.start_soon(let_go_on)

        return await cancel_when(begun, call, *args)


# Where the interrupt has to wait.


@within(20)
async def test_import(fifo: Fifo, gate: Fifo, tmp_path: Path) -> None:
    """A module that is being imported is imported to its end, and only that."""
    lines = (
        "from pathlib import Path",
        "from interrupt_places import meet",
        f"meet(Path({str(fifo.path)!r}), Path({str(gate.path)!r}))",
        "COMPLETE = True",
    )
    (tmp_path / "slow_module.py").write_text("\n".join(lines))
    async with opened() as worker:
        result = await interrupt_there(fifo, gate, worker.call, places.import_slowly, tmp_path, "slow_module")
        assert result is None
        assert await worker.call(places.look_at_module, "slow_module")
        assert await worker.call(work.remember) == []


@pytest.mark.parametrize(
    ("function", "remembered"),
    [
        (places.enter_meeting, ["entered", "exited"]),
        (places.exit_meeting, ["entered", "in the block", "exited"]),
        (places.manage_meeting, ["entered", "exited"]),
        (places.stack_meeting, ["entered", "exited"]),
        (places.acquire_meeting, ["entered", "exited"]),
        (places.log_to_meeting, ["emitted"]),
        (places.delete_meeting, ["deleted"]),
        (places.spin_over_meeting, ["exited"]),
    ],
)
@within(20)
async def test_place(
    function: Callable[[Path, Path], None], remembered: list[str], fifo: Fifo, gate: Fifo
) -> None:
    """What enters, leaves, logs or is deleted is through with it before its caller is stopped."""
    async with opened() as worker:
        assert await interrupt_there(fifo, gate, worker.call, function, fifo.path, gate.path) is None
        assert await worker.call(work.remember) == remembered


@within(20)
async def test_arguments_on_the_way(fifo: Fifo, gate: Fifo) -> None:
    """Arguments that are being unpickled are unpickled; then the call is over. The link is in order."""
    async with opened() as worker:
        slow = places.Slow("loads", fifo.path, gate.path)
        assert await interrupt_there(fifo, gate, worker.call, work.remember, slow) is None
        assert await worker.call(work.remember) == []
        await check_link(worker)


@within(20)
async def test_result_on_the_way(fifo: Fifo, gate: Fifo) -> None:
    """A result that is being pickled is delivered. The link is in order."""
    async with opened() as worker:
        result = await interrupt_there(fifo, gate, worker.call, places.make_slow, fifo.path, gate.path)
        assert result == outcome.Value("pickled")
        await check_link(worker)


async def check_link(worker: AnyWorker) -> None:
    """Have objects that are sent once and then known by number go both ways."""
    local = type("Local", (), {"value": 5})
    for _ in range(2):
        assert await worker.call(lambda cls: (cls, cls.value), local) == (local, 5)


# At any moment.


@pytest.mark.parametrize("loop", loops.LOOPS)
@within(30)
async def test_nothing_is_held_afterwards(loop: str, fifo: Fifo) -> None:
    """Stopped at whatever moment, a loop full of `with` statements holds nothing, and has undone all."""
    rng = random.Random(loop)

    async def begun() -> None:
        await fifo.line()
        spin(rng.uniform(0, 0.0003))

    async with opened() as worker:
        for _ in range(60):
            assert await cancel_when(begun, worker.call, loops.loop_for_ever, loop, fifo.path) is None
            assert await worker.call(loops.leaked) == []


@within(30)
async def test_values_at_any_moment() -> None:
    """Interrupts between the pickling of large and of new objects leave both ends of the link in order."""
    rng = random.Random(2)
    async with opened() as worker:
        for number in range(300):
            value = [bytes(rng.randrange(20_000)), lambda number=number: number]
            moment = rng.uniform(0, 0.0003)
            await cancel_at(moment, worker, worker.call, lambda value: [value, type("New", (), {})], value)
            await check_link(worker)


@within(30)
async def test_no_program_is_left_running(fifo: Fifo) -> None:
    """A program that is just being started by `subprocess.run` ends with the call, whenever that is."""
    rng = random.Random(4)

    async def begun() -> None:
        await fifo.line()
        spin(rng.uniform(0, 0.003))

    async with opened() as worker:
        for _ in range(40):
            assert await cancel_when(begun, worker.call, waits.wait, "run_program", fifo.path) is None
            assert await worker.call(waits.children) == []


@pytest.mark.slow
@within(60)
async def test_import_of_numpy() -> None:
    """Interrupted at many moments while numpy is imported, a worker can import and use it afterwards."""
    for number in range(16):
        async with opened() as worker:
            assert await cancel_at(number * 0.0075, worker, worker.call, work.use_numpy_for_ever) is None
            assert await worker.call(work.use_numpy) == 6.0


# One process, where the signal is delivered by hand.


class Alone:
    """An `Interrupter` without a parent: calls are cancelled by themselves, where they call `stop`."""

    def __init__(self) -> None:
        self.page = Page.local()
        self.interrupter = Interrupter(self.page)
        self.last = 0

    def call(self, function: Callable[[], Any]) -> tuple[int, Any]:
        self.last += 1
        assert self.interrupter.begin(self.last)
        return self.interrupter.run(self.last, function)

    def stop(self) -> None:
        assert self.page.cancel(self.last)
        self.interrupter._on_signal(SIGNAL, sys._getframe().f_back)


class StopInside:
    """A guard inside of which the call is cancelled."""

    def __init__(self, alone: Alone) -> None:
        self.alone = alone

    def __enter__(self) -> int:
        self.alone.stop()
        return 5

    def __exit__(self, *_: object) -> None:
        pass


def test_tracing_goes_on() -> None:
    """A trace function that was in force is so again after an interrupt that had to wait."""
    alone = Alone()

    def tracer(frame: FrameType, event: str, arg: object) -> None:
        pass

    def use() -> None:
        with StopInside(alone):
            raise AssertionError

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        assert alone.call(use) == (CANCELLED, None)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_waiting_for_nothing() -> None:
    """An interrupt that has to wait until its function has ended is forgotten: the value counts."""
    alone, before = Alone(), sys.gettrace()
    assert alone.call(StopInside(alone).__enter__) == (VALUE, 5)
    assert sys.gettrace() is before
    assert alone.call(lambda: 6) == (VALUE, 6)


@pytest.fixture
def alarm() -> Iterator[Alone]:
    """One that is stopped by SIGALRM, as soon as it has been cancelled."""
    alone = Alone()
    before = signal.signal(signal.SIGALRM, alone.interrupter._on_signal)
    yield alone
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_acquired_before_a_try(alarm: Alone) -> None:
    """Between a call that acquires something and the `try` that gives it back nothing is raised."""
    lock = threading.Lock()
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def use() -> None:
        alarm.page.cancel(alarm.last)
        while True:
            lock.acquire()
            try:
                abs(0)
            finally:
                lock.release()

    for _ in range(200):
        assert alarm.call(use) == (CANCELLED, None)
        assert not lock.locked()


def test_blocked_before_a_try(alarm: Alone) -> None:
    """A call that blocks is stopped nevertheless, and what the `try` behind it would do is not done."""
    log: list[str] = []
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def use() -> None:
        alarm.page.cancel(alarm.last)
        time.sleep(1000)
        try:
            abs(0)
        finally:
            log.append("given back")

    assert alarm.call(use) == (CANCELLED, None)
    assert log == []


def test_wait_that_takes_its_lock_back(alarm: Alone) -> None:
    """A wait on a condition that is over, but for its lock, gets that lock before it is stopped."""
    condition = threading.Condition()

    def stop_while_it_wants_the_lock() -> None:
        with condition:
            alarm.page.cancel(alarm.last)
            signal.raise_signal(signal.SIGALRM)  # for the main thread, where it waits until the lock is free

    def use() -> None:
        with condition:
            thread.start()
            while True:
                condition.wait(1e-6)

    for _ in range(100):
        thread = threading.Thread(target=stop_while_it_wants_the_lock)
        assert alarm.call(use) == (CANCELLED, None)
        thread.join()
        assert not condition._waiters  # type: ignore[attr-defined]


def test_group_of_interrupts() -> None:
    """A task group's exception that holds nothing but interrupts is a cancellation."""
    alone = Alone()

    def fail(*others: Exception) -> None:
        try:
            alone.stop()
        except CallInterrupted as exc:
            raise BaseExceptionGroup("", [BaseExceptionGroup("", [exc]), *others]) from None

    assert alone.call(fail) == (CANCELLED, None)
    kind, error = alone.call(lambda: fail(ValueError()))
    assert (kind, type(error)) == (ERROR, BaseExceptionGroup)


def test_nothing_is_kept() -> None:
    """When a call is answered, its value or error and its locals go without the collector's help."""

    class Big:
        pass

    refs: list[weakref.ref[Big]] = []

    def make(error: type[BaseException] | None) -> Big:
        big = Big()
        refs.append(weakref.ref(big))
        if error is not None:
            raise error
        return big

    alone = Alone()
    gc.disable()
    try:
        for error in (None, KeyError, CallInterrupted):
            alone.call(partial(make, error))
    finally:
        gc.enable()
    assert [ref() for ref in refs] == [None] * 3


def test_stopped_while_others_begin() -> None:
    """A call on Trio that has begun, and waits for its turn, is stopped though others begin after it."""
    page = Page.local()
    interrupter = Interrupter(page)
    assert interrupter.begin(1)
    for ident in range(2, 500):  # enough for those that are over to be swept out
        assert interrupter.begin(ident, {1})
        assert page.cancel(ident if ident > 2 else 1)
    assert interrupter.run(1, lambda: 1 / 0) == (CANCELLED, None)


def test_asked_back() -> None:
    """A call that is asked back does not begin; one that has begun goes on; none is remembered for long."""
    page = Page.local()
    interrupter = Interrupter(page)
    for ident in range(1, 1000, 2):
        assert not page.ask_back(ident)
        assert not interrupter.begin(ident)
        assert interrupter.begin(ident + 1)
        assert page.ask_back(ident + 1)
        interrupter._drain()  # as the signal does, which may be meant for another call
        assert interrupter.run(ident + 1, lambda: 0) == (VALUE, 0)
    assert len(interrupter.cancelled) < 100


def test_many_cancellations() -> None:
    """Very many cancelled calls are dropped in time that grows with their number only; none is kept."""
    page = Page.local()
    interrupter = Interrupter(page)
    for ident in range(1, RING + 1):
        assert not page.cancel(ident)
    assert page.cancel(RING + 1)  # there is no room: it may have begun, for all that is known
    started = time.process_time()
    assert not any(interrupter.begin(ident) for ident in range(1, RING + 1))
    assert time.process_time() - started < 5
    assert not page.cancel(RING + 1)
    assert not interrupter.begin(RING + 1)
    for ident in range(RING + 2, RING + 1000):
        assert interrupter.begin(ident)
        assert interrupter.run(ident, lambda: 0) == (VALUE, 0)
        assert page.cancel(ident)  # too late
    assert len(interrupter.cancelled) < 100
