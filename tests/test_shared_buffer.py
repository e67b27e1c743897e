"""`SharedBuffer` on both engines: handed over in whatever it is sent, dead afterwards, never in two."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pickle import PickleBuffer
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

import bulk_handlers as work
import contract
from contract import those_with
from fifo import within
from handlers import apply, apply_async
from trio_isolates import (
    IsolateDied,
    ReceivePort,
    SharedBuffer,
    UnsendableError,
    _shared_buffer,
    open_isolate,
    open_pool,
    open_worker,
    run,
)

kind = contract.kind
on_both = pytest.mark.usefixtures("kind")
loops = pytest.mark.parametrize("handler", [apply, apply_async], ids=["sync", "async"])
linux = pytest.mark.skipif(not _shared_buffer.HAS_MEMORY_FILES, reason="there are no files without a name")
SIZE = 300_000


def check_dead(buffer: SharedBuffer, view: memoryview) -> None:
    with pytest.raises(ValueError, match="somebody else's"):
        _ = buffer.view
    with pytest.raises(ValueError, match="released"):
        view[0]
    assert "handed over" in repr(buffer)


def test_made_by_its_two_makers_only() -> None:
    """Zeros of a size, or a copy; sizes are checked."""
    assert bytes(SharedBuffer.allocate(3).view) == bytes(3)
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    buffer = SharedBuffer.from_buffer(array)
    array[:] = 0
    assert (len(buffer), bytes(buffer.view)) == (12, np.arange(6, dtype=np.int16).tobytes())
    assert len(SharedBuffer.allocate(0)) == len(SharedBuffer.from_buffer(b"").view) == 0
    with pytest.raises(TypeError, match="allocate"):
        SharedBuffer()
    with pytest.raises(ValueError, match="nbytes must be from 0"):
        SharedBuffer.allocate(-1)
    with pytest.raises(TypeError, match="nbytes must be an int"):
        SharedBuffer.allocate("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        SharedBuffer.from_buffer("text")
    with pytest.raises(BufferError):
        SharedBuffer.from_buffer(memoryview(b"abcd")[::2])


@on_both
@pytest.mark.parametrize("size", [0, 1, 5000, 3 << 20])
@loops
@within(20)
async def test_there_and_back(handler: Callable[..., Any], size: int) -> None:
    """As an argument and as a result it moves: changed in place there, dead here."""
    async with open_worker(handler) as worker:
        buffer = work.filled(size, 1)
        view = buffer.view
        answer = await worker.call(work.add_one, buffer)
        check_dead(buffer, view)
        assert (len(answer), work.total(answer)) == (size, 2 * size)
        answer = await worker.call(work.add_one, answer)
        assert work.total(answer) == 3 * size


@linux
@on_both
@within(20)
async def test_it_is_the_same_memory() -> None:
    """Nothing is copied on the way, there or back."""
    async with open_worker(work.add_one) as worker:
        buffer = work.filled(SIZE, 1)
        before = work.inode(buffer)
        assert work.inode(await worker.call(buffer)) == before


@on_both
@within(20)
async def test_at_any_depth() -> None:
    """It is found in dicts and lists; twice in a message, it is one and the same at the other end."""
    one, two = work.filled(SIZE, 1), work.filled(10, 5)
    async with open_worker(work.add_one_inside) as worker:
        answer = await worker.call({"a": [one], "b": [two]})
        assert [work.total(answer[name][0]) for name in "ab"] == [2 * SIZE, 60]
        first, second = await worker.run(list, [answer["a"][0]] * 2)
        assert first is second


@on_both
@pytest.mark.parametrize(
    "look",
    [
        lambda view: np.frombuffer(view, np.uint8),
        lambda view: view[1:],
        memoryview,
        PickleBuffer,
    ],
    ids=["array", "slice", "view", "PickleBuffer"],
)
@within(20)
async def test_looked_at(look: Callable[[memoryview], Any]) -> None:
    """While an array or another view looks at it, sending fails and changes nothing."""
    buffer = work.filled(SIZE, 1)
    view = buffer.view
    eye = look(view)
    async with open_worker(work.total) as worker:
        with pytest.raises(UnsendableError, match=r"looks at|exported"):
            await worker.call(buffer)
        port: ReceivePort[Any] = ReceivePort(1)
        with pytest.raises(UnsendableError):
            await port.send_port.send([buffer])
        port.send_port.send_nowait("its place is free again")
        assert port.statistics().buffered == 1
        assert buffer.view is view
        assert view[0] == 1
        assert bytes(memoryview(eye)[:1]) == b"\x01"
        del eye
        assert await worker.call(buffer) == SIZE
        check_dead(buffer, view)


@on_both
@within(20)
async def test_a_view_that_was_released_does_not_look() -> None:
    """Only what may still be used counts."""
    buffer = work.filled(SIZE, 1)
    with buffer.view[1:] as released:
        assert released[0] == 1
    async with open_worker(work.total) as worker:
        assert await worker.call(buffer) == SIZE


@on_both
@within(20)
async def test_the_path_to_one_that_is_looked_at() -> None:
    """The error names the place, in arguments and in results."""
    buffer = work.filled(10, 1)
    array = np.frombuffer(buffer.view, np.uint8)
    async with open_worker(work.look_and_return) as worker:
        with pytest.raises(UnsendableError) as caught:
            await worker.run(list, [0, buffer])
        assert caught.value.path == "args[0][1]"
        with pytest.raises(UnsendableError) as caught:
            await worker.call(10)
        assert caught.value.path == "result[0]"
        await worker.run(work.drop_all)
    assert array[0] == 1


@on_both
@within(20)
async def test_survives_a_failed_send() -> None:
    """What could not be sent with it, or after it, leaves it where it was."""
    one, two = work.filled(SIZE, 1), work.filled(SIZE, 2)
    view = one.view
    async with open_worker(apply) as worker:
        with pytest.raises(UnsendableError):
            await worker.call(work.total, one, threading.Lock())
        assert one.view is view
        eye = PickleBuffer(two.view)  # seen only when it is too late for the first one
        with pytest.raises(UnsendableError):
            await worker.call(work.total, [one, two])
        eye.release()
        assert (work.total(one), work.total(two)) == (SIZE, 2 * SIZE)
        assert await worker.call(work.total, one) == SIZE
    with pytest.raises(trio.ClosedResourceError):
        await worker.call(work.total, two)
    assert work.total(two) == 2 * SIZE


@on_both
@within(20)
async def test_sent_twice() -> None:
    """The second time fails, with the path, and harms nobody."""
    buffer = work.filled(SIZE, 1)
    async with open_worker(work.total) as worker:
        assert await worker.call(buffer) == SIZE
        with pytest.raises(UnsendableError, match="somebody else's") as caught:
            await worker.call(buffer)
        assert caught.value.path == "args[0]"
        with pytest.raises(ValueError, match="somebody else's"):
            buffer.share()


@on_both
@within(20)
async def test_shared_with_many() -> None:
    """A shared one is read-only everywhere, may be sent as often as one likes, and stays here as well."""
    buffer = work.filled(SIZE, 1)
    view = buffer.view
    shared = buffer.share()
    check_dead(buffer, view)
    assert shared.share() is shared
    array = np.frombuffer(shared.view, np.uint8)  # whoever looks at it, it may be sent
    async with open_pool(work.total, workers=2) as pool:
        assert await pool.map([shared] * 6) == [SIZE] * 6
        assert "read" in await pool.run(work.try_to_write, shared)
        back = await pool.run(list, [shared])
    assert "read" in work.try_to_write(shared)
    assert "read" in work.try_to_write(back[0])
    assert array.sum() == SIZE
    looked_at = work.filled(10, 1)
    eye = looked_at.view[1:]
    with pytest.raises(BufferError, match="looks"):
        looked_at.share()
    assert eye[0] == 1


@linux
def test_nobody_can_write_to_a_shared_one() -> None:
    """Its memory is sealed: not even its descriptor gives a way to write."""
    import mmap

    shared = work.filled(5000, 1).share()
    with pytest.raises(PermissionError):
        mmap.mmap(shared._fd, 5000)
    with pytest.raises(PermissionError):
        os.pwrite(shared._fd, b"x", 0)


def test_pickled_by_others() -> None:
    """For all but a message, as for `copy`, it is its content."""
    buffer = work.filled(10, 3)
    for other in (copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
        other.view[0] = 0
        assert work.total(other) == 27
    assert work.total(buffer) == 30
    assert "read" in work.try_to_write(copy.copy(buffer.share()))


@on_both
@within(20)
async def test_by_ports_and_streams() -> None:
    """It moves in messages of ports, of this isolate's own too, and as the item of a stream."""
    port: ReceivePort[SharedBuffer] = ReceivePort()
    buffer = work.filled(SIZE, 1)
    view = buffer.view
    await port.send_port.send(buffer)
    check_dead(buffer, view)
    assert work.total(await port.receive()) == SIZE
    async with open_worker(work.stream_filled) as worker, worker.open_stream([10, SIZE]) as items:
        assert [work.total(item) async for item in items] == [70, 7 * SIZE]
    async with open_isolate(work.answer_with_one_more, port.send_port):
        there: Any = await port.receive()
        for value in range(1, 4):
            await there.send(work.filled(SIZE, value))
            assert work.total(await port.receive()) == SIZE * (value + 1)
        await there.send(None)


@linux
@on_both
@within(20)
async def test_by_relays() -> None:
    """What goes to a grandchild, and comes from it, stays the same memory at each hop."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.with_a_child, port.send_port):
        there = await port.receive()
        buffer = work.filled(SIZE, 1)
        before = work.inode(buffer)
        await there.send(buffer)
        answer = await port.receive()
        assert (work.inode(answer), work.total(answer)) == (before, 2 * SIZE)
        await there.send(None)


@linux
@on_both
@within(20)
async def test_between_siblings() -> None:
    """By their parent first, later over their own link: it is the same memory all the time, and in order."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.answer_with_one_more, home.send_port):
        second = await home.receive()
        async with open_isolate(work.give_on, second, home.send_port):
            first = await home.receive()
            for number in range(50):
                buffer = work.filled(200 + number, 1)
                before = work.inode(buffer)
                await first.send(buffer)
                answer = await home.receive()
                assert (len(answer), work.inode(answer), answer.view[0]) == (200 + number, before, 2)
            await first.send(None)
        await second.send(None)


@on_both
@within(20)
async def test_dropped_unread() -> None:
    """What is in a port that is closed, or comes to it later, is gone, and nothing of it is left."""
    home: ReceivePort[Any] = ReceivePort()
    port: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.give_on, port.send_port, home.send_port):
        there = await home.receive()
        await there.send(work.filled(SIZE, 1))
        await there.send(work.filled(SIZE, 1))
        await there.send(None)
        assert work.total(await port.receive()) == SIZE
        await port.send_port.send(work.filled(SIZE, 1))
        port.close()


@those_with("own process")
@pytest.mark.usefixtures("kind")
@within(20)
async def test_cancelled_before_it_begins() -> None:
    """A call that is cancelled before its isolate has begun it gives the buffer back."""
    buffer = work.filled(SIZE, 4)
    async with open_worker(work.total) as worker:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def call() -> None:
                with scope:
                    await worker.call(buffer)

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ValueError, match="somebody else's"):
                _ = buffer.view
            scope.cancel()
        os.kill(worker.pid, signal.SIGCONT)
        assert work.total(buffer) == 4 * SIZE
        assert await worker.call(buffer) == 4 * SIZE


@those_with("own process")
@pytest.mark.usefixtures("kind")
@within(20)
async def test_the_worker_dies_first() -> None:
    """A call that had not begun when its only isolate died has not taken the buffer away."""
    buffer = work.filled(SIZE, 4)
    with suppress(IsolateDied):
        async with open_worker(work.total) as worker:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGSTOP)
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    with pytest.raises(IsolateDied) as caught:
                        await worker.call(buffer)
                    assert not caught.value.maybe_executed

                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(worker.pid, signal.SIGKILL)
    assert work.total(buffer) == 4 * SIZE


@those_with("own process")
@pytest.mark.usefixtures("kind")
@within(20)
async def test_moves_on_with_its_call() -> None:
    """A call that moves to another isolate, as it had not begun, takes its buffer along."""
    buffer = work.filled(SIZE, 4)
    async with open_pool(work.total, workers=1) as pool:
        os.kill(pool.pids[0], signal.SIGSTOP)
        totals: list[int] = []

        async def call() -> None:
            totals.append(await pool.call(buffer))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(pool.pids[0], signal.SIGKILL)
    assert totals == [4 * SIZE]
    with pytest.raises(ValueError, match="somebody else's"):
        _ = buffer.view


@those_with("own process")
@pytest.mark.usefixtures("kind")
@within(30)
async def test_more_than_there_is_room_for_on_the_way() -> None:
    """Where too many descriptors are on their way, content goes by the link; nothing waits or is lost."""
    async with open_worker(work.total) as worker:
        assert worker.pid is not None
        totals: list[int] = []

        async def call(size: int) -> None:
            assert await worker.call(work.filled(size, 1)) == size
            totals.append(size)

        os.kill(worker.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for size in range(1, 701):
                nursery.start_soon(call, size)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(worker.pid, signal.SIGCONT)
    assert sorted(totals) == list(range(1, 701))


@those_with("own process")
@pytest.mark.usefixtures("kind")
@within(20)
async def test_the_receiver_is_killed() -> None:
    """Memory on its way to one that dies, and in it, is gone with it; what came from it stays readable."""
    with suppress(IsolateDied):
        async with open_worker(work.add_one) as worker:
            answer = await worker.call(work.filled(SIZE, 1))
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGSTOP)
            with trio.move_on_after(0):
                await worker.call(work.filled(SIZE, 1))
            os.kill(worker.pid, signal.SIGKILL)
    assert work.total(answer) == 2 * SIZE


@within(20)
async def test_from_a_fresh_isolate() -> None:
    """`run` gives back what the isolate has allocated, after its end."""
    assert work.total(await run(work.filled, SIZE, 9)) == 9 * SIZE


@within(20)
async def test_without_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has none, it is copied, by the same rules."""
    monkeypatch.setattr(_shared_buffer, "HAS_MEMORY_FILES", False)
    kind = contract.inline()
    async with open_worker(work.add_one, engine=kind.engine) as worker:
        buffer = work.filled(SIZE, 1)
        view = buffer.view
        assert (buffer._fd, len(buffer)) == (-1, SIZE)
        eye = np.frombuffer(view, np.uint8)
        with pytest.raises(UnsendableError):
            await worker.call(buffer)
        del eye
        assert work.total(await worker.call(buffer)) == 2 * SIZE
        check_dead(buffer, view)
        other = work.filled(SIZE, 1)
        with pytest.raises(UnsendableError):
            await worker.run(list, [other, threading.Lock()])
        shared = other.share()
        totals = partial(worker.run, work.total)
        assert [await totals(shared), await totals(shared)] == [SIZE, SIZE]
        assert "read" in await worker.run(work.try_to_write, shared)
        assert work.total(shared) == SIZE
