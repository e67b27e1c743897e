"""Large results are built a piece at a time: others run meanwhile, and nothing else is different."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

import contract
import pieces_handlers as work
from contract import Kind, each_way, those_with
from fifo import Fifo, within
from handlers import apply, tell_and_sleep
from trio_isolates import (
    IsolateDied,
    ReceivePort,
    UnsendableError,
    _building,
    _isolate,
    _pieces,
    open_isolate,
    open_pool,
    open_worker,
    run,
)

kind, fifo = contract.kind, contract.fifo

Opened = list[str]


@pytest.fixture(autouse=True)
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work gives way whenever it can, not only when a millisecond is over."""
    monkeypatch.setattr(_pieces, "_PIECE", 0.0)


@pytest.fixture
def opened() -> Iterator[Opened]:
    """The names of the marks that were opened here, in order."""
    names: Opened = []
    work.on_open.append(names.append)
    yield names
    work.on_open.clear()


def when_opened(name: str, act: Callable[[], object]) -> None:
    """Have something done as soon as the mark of that name is opened here."""

    def tell(opened: str) -> None:
        if opened == name:
            act()

    work.on_open.append(tell)


class Turns:
    """Counts the turns of the loop, and at which of them each mark was opened."""

    def __init__(self) -> None:
        self.count = 0
        self.at: dict[str, int] = {}

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        work.on_open.append(lambda name: self.at.__setitem__(name, self.count))
        task_status.started()
        while True:
            self.count += 1
            await trio.lowlevel.checkpoint()


PIECES = 10
"""Fewer than any of the large results here has."""


@pytest.mark.usefixtures("kind", "opened")
@within(20)
async def test_others_run_while_a_result_is_built() -> None:
    """The loop turns many times between the first and the last of a result, or of what was raised."""
    turns = Turns()
    async with open_worker(apply) as worker, trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        assert await worker.call(work.marked) == work.marked()
        assert turns.at["last"] - turns.at["first"] > PIECES
        turns.at.clear()
        with pytest.raises(work.Large) as caught:
            await worker.call(work.fail)
        assert caught.value.args == (work.marked(),)
        assert turns.at["last"] - turns.at["first"] > PIECES
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("kind", "opened")
@within(20)
async def test_others_run_while_a_message_is_built() -> None:
    """The same for a message to a port."""
    turns, home = Turns(), ReceivePort[Any]()
    async with trio.open_nursery() as nursery:
        await nursery.start(turns.run)
        async with open_isolate(work.send_large_and_small_async, home.send_port, 0):
            assert await home.receive() == work.marked()
        assert turns.at["last"] - turns.at["first"] > PIECES
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("kind")
@within(30)
async def test_what_is_the_same_stays_the_same() -> None:
    """By each way home, what is there twice in one message is one thing, and a ring is a ring."""
    assert work.is_tangled(await run(work.tangled))
    async with open_pool(work.tangled, workers=1) as pool:
        assert work.is_tangled(await pool.call())
        assert all(map(work.is_tangled, await pool.map(range(4), chunksize=2)))
        async with pool.open_map(range(3)) as results:
            assert all([work.is_tangled(result) async for result in results])
    async with open_worker(work.stream_tangled) as worker, worker.open_stream(3) as items:
        assert [work.is_tangled(item) async for item in items] == [True] * 3


@each_way(work.send_large_and_small, work.send_large_and_small_async)
@within(20)
async def test_order(kind: Kind, entry: Callable[..., Any]) -> None:
    """Small messages that were sent behind a large one arrive behind it, before the notice of the end."""
    home = ReceivePort[Any]()
    async with open_isolate(entry, home.send_port, 3, on_exit=home.send_port) as isolate:
        assert await home.receive() == work.marked()
        assert [await home.receive() for _ in range(4)] == [0, 1, 2, None]
        assert await isolate.wait() == "sent"


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_stream_of_large_items() -> None:
    """Large items come in order, all of them before the end of their stream."""
    async with open_worker(work.stream_marks) as worker, worker.open_stream(4) as items:
        assert [item async for item in items] == [[n, work.marked(str(n))] for n in range(4)]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_cancelled_while_it_is_built(opened: Opened) -> None:
    """To cancel a caller stops the building of his result; the isolate answers the next."""
    async with open_worker(apply) as worker:
        pid = worker.pid
        with trio.CancelScope() as scope:
            when_opened("first", scope.cancel)
            await worker.call(work.marked)
        assert scope.cancelled_caught
        assert opened == ["first"]
        assert worker.statistics().cancelled == 1
        assert await worker.call(abs, -1) == 1
        assert worker.pid == pid


@within(20)
async def test_dead_while_its_answer_is_built(
    kind: Kind, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that has come whole is delivered, also if its isolate dies before it is built."""
    monkeypatch.setattr(_isolate, "_DRAIN_WAIT", 1e-6)  # the building takes longer
    async with open_worker(apply) as worker:
        when_opened("first", lambda: kind.kill(worker))
        assert await worker.call(work.marked) == work.marked()
        assert opened[:2] == ["first", "last"]
        with pytest.raises(IsolateDied):
            await worker.call(abs, -1)


@pytest.mark.usefixtures("kind")
@within(20)
async def test_killed_while_its_answer_is_built(opened: Opened) -> None:
    """`kill` ends the building as well: the call was in flight."""
    async with open_worker(apply) as worker:
        when_opened("first", worker.kill)
        with pytest.raises(IsolateDied):
            await worker.call(work.marked)
    assert opened == ["first"]


@those_with("interrupts sync code")
@pytest.mark.usefixtures("kind")
@within(20)
async def test_killed_for_another_call_while_it_is_built(opened: Opened, fifo: Fifo) -> None:
    """A cancellation that kills takes nothing away from a call whose answer has come whole."""
    scope = trio.CancelScope()

    def cancel() -> None:
        select.select([fifo], [], [], 10)  # the other call has begun
        scope.cancel()

    async with open_worker(apply, on_cancel="kill") as worker, trio.open_nursery() as nursery:

        async def call_another() -> None:
            with scope:
                await worker.call(tell_and_sleep, fifo.path)

        when_opened("first", cancel)
        nursery.start_soon(call_another)
        assert await worker.call(work.marked) == work.marked()  # sent first, as it is at once
    assert scope.cancelled_caught


@pytest.mark.usefixtures("kind")
@within(20)
async def test_block_left_while_a_result_is_built(opened: Opened) -> None:
    """A block that is left by an exception ends the building, and its caller sees the worker closed."""
    began = trio.Event()
    when_opened("first", began.set)

    async def call() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await worker.call(work.marked)

    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with open_worker(apply) as worker:
                nursery.start_soon(call)
                await began.wait()
                raise KeyError
    assert opened == ["first"]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_block_left_normally_while_a_result_is_built(opened: Opened) -> None:
    """A block that is left normally waits for the building."""
    began = trio.Event()
    when_opened("first", began.set)
    results: list[Any] = []

    async def call() -> None:
        results.append(await worker.call(work.marked))

    async with trio.open_nursery() as nursery, open_worker(apply) as worker:
        nursery.start_soon(call)
        await began.wait()
    assert results == [work.marked()]
    assert opened[:2] == ["first", "last"]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_port_closed_while_its_message_is_built(opened: Opened) -> None:
    """To close a port ends the building of the message for it; its isolate goes on."""
    home = ReceivePort[Any]()
    when_opened("first", home.close)
    async with open_isolate(work.send_large_and_small_async, home.send_port, 0) as isolate:
        with pytest.raises(trio.ClosedResourceError):
            await home.receive()
        assert await isolate.wait() == "sent"
    assert opened == ["first"]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_refused_in_the_middle() -> None:
    """What cannot be unpickled fails its call alone, as it would in a small message."""
    async with open_worker(apply) as worker:
        with pytest.raises(UnsendableError, match="cannot unpickle the message: ValueError: not here"):
            await worker.call(work.refused)
        assert await worker.call(abs, -1) == 1


@pytest.mark.usefixtures("kind")
@within(20)
async def test_two_take_turns(opened: Opened) -> None:
    """Of two large results that come together neither waits until the other is complete."""
    turn = _building.current_turn()
    async with open_worker(apply) as one, open_worker(apply) as other, trio.open_nursery() as nursery, turn:
        nursery.start_soon(one.call, work.many_marks, "a")
        nursery.start_soon(other.call, work.many_marks, "b")
        while turn.statistics().tasks_waiting < 2:
            await trio.lowlevel.checkpoint()
    assert sorted(opened) == ["a"] * 20 + ["b"] * 20
    assert len(set(opened[:10])) == 2


@those_with("own process")
@within(20)
async def test_no_thread_to_build_with(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there can be no more threads, a result is built in one go."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async with open_worker(apply) as worker:
        monkeypatch.setattr(_building, "Work", refuse)
        assert work.is_tangled(await worker.call(work.tangled))
