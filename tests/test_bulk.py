"""Large messages in segments: nothing is corrupt, segments are used again and bounded, nothing is left."""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pickle import PickleBuffer
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

import bulk_handlers as work
from fifo import within
from handlers import apply, apply_async
from trio_isolates import (
    IsolateDied,
    ProtocolError,
    ReceivePort,
    SharedBuffer,
    UnsendableError,
    _bulk,
    _client,
    open_isolate,
    open_pool,
    open_worker,
)
from trio_isolates._bulk import THRESHOLD, Bulk
from trio_isolates._messages import CALL, FORGET, FREE
from trio_isolates._shared_buffer import HAS_MEMORY_FILES, open_memory_file
from trio_isolates._side import NearSide, SocketSide
from trio_isolates._wire import Decoder

pytestmark = pytest.mark.skipif(not HAS_MEMORY_FILES, reason="there are no files without a name")

loops = pytest.mark.parametrize("handler", [apply, apply_async], ids=["sync", "async"])


class Ends:
    """Both ends of a link, as far as large memory goes; what they say is kept until `settle`."""

    def __init__(self) -> None:
        self.said: list[tuple[Bulk, int, int]] = []
        self.sides = [SocketSide(sock) for sock in socket.socketpair()]
        self.here, self.there = (Bulk(side) for side in self.sides)
        for bulk, other in ((self.here, self.there), (self.there, self.here)):
            bulk.attach(
                lambda kind, number, other=other: self.said.append((other, kind, number)),  # type: ignore[misc]
                lambda function: function(),
            )

    def settle(self) -> list[int]:
        """Have each end hear what the other has said; return the kinds."""
        said, self.said = self.said, []
        for bulk, kind, number in said:
            bulk.take(kind, number)
        return [kind for _, kind, _ in said]

    def send(self, *buffers: Any, chunks: tuple[bytes, ...] = (b"body",)) -> tuple[Any, list[Any]]:
        """Send a frame from here to there; return its body and buffers."""
        data = b"".join(self.here.encode(CALL, 1, chunks, buffers))
        decoder = Decoder(find=self.there.find)
        while True:
            memory = decoder.buffer()
            count = min(len(memory), len(data))
            memory[:count] = data[:count]
            data = data[count:]
            if frames := decoder.received(count):
                ((_, _, body, found),) = frames
                return body, list(found)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.here.close()
    made.there.close()


def large(value: int, size: int = THRESHOLD) -> memoryview:
    return memoryview(bytes([value]) * size)


@pytest.mark.parametrize(
    "derive",
    [
        lambda view: view,
        lambda view: view[5:],
        lambda view: view.cast("H")[3:].toreadonly(),
        lambda view: np.frombuffer(view, np.uint16)[3:].reshape(-1, 1),
        PickleBuffer,
    ],
    ids=["view", "slice", "cast", "array", "PickleBuffer"],
)
def test_given_back_with_the_last_view(ends: Ends, derive: Callable[[memoryview], Any]) -> None:
    """A segment is lent until nothing made from its view looks at it any more; then it is used again."""
    body, (view,) = ends.send(large(1))
    assert bytes(body) == b"body"
    derived = derive(view)
    del view
    gc.collect()
    assert ends.settle() == []
    _, (second,) = ends.send(large(2))
    assert bytes(memoryview(derived).cast("B")) == bytes([1]) * memoryview(derived).nbytes
    assert ends.here.segments == 2
    del derived
    assert ends.settle() == [FREE]
    _, (third,) = ends.send(large(3))
    assert (second[0], third[-1], ends.here.segments) == (2, 3, 2)


def test_bodies_and_small_buffers(ends: Ends) -> None:
    """A large body goes by a segment in one piece; what is small goes in the frame, beside what is large."""
    body, found = ends.send(chunks=(b"a" * THRESHOLD, b"b"))
    assert (bytes(body[-2:]), found, ends.here.segments) == (b"ab", [], 1)
    body, found = ends.send(large(1), large(2, 9), large(3), chunks=(b"c" * 10, b"d" * THRESHOLD))
    assert [(len(view), view[0]) for view in found] == [(THRESHOLD, 1), (9, 2), (THRESHOLD, 3)]
    assert (bytes(body[:11]), ends.here.segments) == (b"c" * 10 + b"d", 4)


def test_a_failed_send_gives_back(ends: Ends) -> None:
    """A frame that cannot be made leaves segments free; what was handed over with it is closed there."""
    buffer = SharedBuffer.allocate(10)
    eye = PickleBuffer(buffer.view)
    with pytest.raises(UnsendableError):
        ends.here.encode(CALL, 1, [b""], [large(1), buffer])
    eye.release()
    assert ends.settle() == [FORGET]
    _, (_, arrived) = ends.send(large(1), buffer)
    assert (len(arrived), ends.here.segments) == (10, 1)


def test_bounded_in_number_and_bytes(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past either bound, buffers go by the link; free segments give way to those of another size."""
    monkeypatch.setattr(_bulk, "MOST_SEGMENTS", 3)
    monkeypatch.setattr(_bulk, "MOST_BYTES", 4 * THRESHOLD)
    views = [ends.send(large(value))[1][0] for value in range(5)]
    assert (ends.here.segments, [view[-1] for view in views]) == (3, [0, 1, 2, 3, 4])
    del views
    assert ends.settle() == [FREE] * 3
    _, (view,) = ends.send(large(7, 3 * THRESHOLD))
    assert (view[-1], ends.here.segment_bytes) == (7, 4 * THRESHOLD)
    assert ends.settle() == [FORGET] * 3
    _, (other,) = ends.send(large(8, 5 * THRESHOLD))
    assert (other[-1], ends.here.segments) == (8, 1)


def test_given_up_when_idle(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that nobody has needed for long are given up at both ends when another one is free."""
    monkeypatch.setattr(_bulk, "_IDLE", 0)
    views = [ends.send(large(value))[1][0] for value in range(3)]
    del views[:2]
    ends.settle()
    assert (ends.here.segments, len(ends.there._known)) == (2, 3)  # the last one freed is kept
    assert ends.settle() == [FORGET]
    assert len(ends.there._known) == 2
    assert views[0][0] == 2


def test_forged_places(ends: Ends) -> None:
    """A number, a size or a descriptor that cannot be is a `ProtocolError`; nothing is left open."""
    _, (view,) = ends.send(large(1))
    (number,) = ends.there._known
    for forged, size in ((number, 1), (number + 1, 1), (0, 1)):
        with pytest.raises(ProtocolError):
            ends.there.find(forged, size, for_good=False)
    del view
    for size in (THRESHOLD + 1, 1 << 61):
        with pytest.raises(ProtocolError):
            ends.there.find(number, size, for_good=False)
    with pytest.raises(ProtocolError):
        ends.there.find(99, 1, for_good=True)
    assert ends.settle() == [FREE]
    for kind in (FREE, FORGET):
        with pytest.raises(ProtocolError):
            ends.here.take(kind, number)
    for is_memory in (True, False):
        for for_good in (True, False):
            fd = os.memfd_create("x") if is_memory else os.open(os.devnull, os.O_RDWR)
            if is_memory:
                os.ftruncate(fd, THRESHOLD)  # but it could be made shorter, under who looks at it
            forged = ends.sides[0].send([fd])
            os.close(fd)
            with pytest.raises(ProtocolError):
                ends.there.find(forged, 1, for_good)
    fd = open_memory_file(100)
    forged = ends.sides[0].send([fd])
    os.close(fd)
    with pytest.raises(ProtocolError):
        ends.there.find(forged, 101, for_good=True)


@pytest.mark.parametrize("near", [False, True])
def test_descriptors_that_nobody_asks_for(near: bool) -> None:
    """Descriptors are found by their numbers, in any order; those that are not asked for are closed."""
    pair = NearSide.open_pair() if near else tuple(SocketSide(sock) for sock in socket.socketpair())
    here, there = pair
    fd = open_memory_file(10)
    numbers = [here.send([fd] * count) for count in (1, 2, 3)]
    os.close(fd)
    taken = there.take(numbers[1])
    assert [os.fstat(fd).st_size for fd in taken] == [10, 10]
    for fd in taken:
        os.close(fd)
    for number in (numbers[1], 99):
        with pytest.raises(ProtocolError):
            there.take(number)
    there.close()
    with pytest.raises(BrokenPipeError):
        here.send([0])
    here.close()


def test_without_memory_files(ends: Ends) -> None:
    """Where there are no segments all goes by the link."""
    ends.here = Bulk(ends.sides[0], has_segments=False)
    body, (view,) = ends.send(large(1), chunks=(b"b" * THRESHOLD,))
    assert (len(body), view[-1], ends.here.segments) == (THRESHOLD, 1, 0)


# With real processes.


@loops
@within(60)
async def test_many_messages_each_way(handler: Callable[..., Any]) -> None:
    """A thousand arrays there and a thousand back, held at random at both ends: none is ever overwritten."""
    chance = random.Random(5)
    held: list[tuple[Any, int]] = []
    async with open_worker(handler) as worker:
        for number in range(1000):
            size = chance.randrange(THRESHOLD // 2, 3 * THRESHOLD)
            hold, drop = chance.random() < 0.1, chance.choice([None, *range(20)])
            sent = work.pattern(number, size)
            answer = await worker.call(work.check_and_answer, sent, number, hold, drop, size)
            if chance.random() < 0.1:
                held.append((answer, number + 1))
            elif held and chance.random() < 0.1:
                del held[chance.randrange(len(held))]
            for array, value in [*held, (answer, number + 1)]:
                assert array[0] == array[-1] == array[len(array) // 2] == value % 251
        here = work.count_maps()
        assert 2 < here <= 2 * _bulk.MOST_SEGMENTS
        await worker.call(work.drop_all)
    assert all((array == value % 251).all() for array, value in held)


@loops
@within(30)
async def test_more_held_than_there_are_segments(handler: Callable[..., Any]) -> None:
    """Who holds on to everything gets what comes afterwards by the link."""
    async with open_worker(handler) as worker:
        results = [await worker.call(work.pattern, number, THRESHOLD) for number in range(70)]
        assert await worker.call(work.count_maps) == _bulk.MOST_SEGMENTS
        assert all((array == number).all() for number, array in enumerate(results))
        for number in range(70):
            assert await worker.call(work.hold, results[number]) == number + 1
        results.clear()
        await worker.call(work.drop_all)
        await worker.call(work.pattern, 1, THRESHOLD)
        assert await worker.call(work.count_maps) <= 2 * _bulk.MOST_SEGMENTS


@within(20)
async def test_arrays_arrive_writable_and_bytes_do_not() -> None:
    """What lies in a segment is as writable as what came by the socket."""
    async with open_worker(work.echo) as worker:
        values = [np.zeros(THRESHOLD, np.uint8), bytearray(THRESHOLD), memoryview(bytearray(THRESHOLD))]
        for value in await worker.call(values):
            memoryview(value)[0] = 1
        frozen = np.frombuffer(bytes(THRESHOLD), np.uint8)
        fixed = await worker.call([frozen, memoryview(bytes(THRESHOLD)), bytes(THRESHOLD)])
        assert all(memoryview(value).readonly for value in fixed)
        text = "é" * THRESHOLD
        assert await worker.call(text) == text


@within(20)
async def test_segments_do_not_count_as_an_isolates_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An isolate is not relieved, by `max_memory`, for the messages that it has had."""
    monkeypatch.setattr(_client, "_BETWEEN_WEIGHINGS", 0)
    async with open_pool(work.echo, workers=1, max_memory=150 << 20) as pool:
        pids = pool.pids
        array = np.ones(64 << 20, np.uint8)
        for _ in range(4):
            await pool.call(array)
        assert pool.pids == pids
        assert pool.statistics().recycled == 0


@loops
@within(20)
async def test_given_back_at_once(handler: Callable[..., Any]) -> None:
    """Nothing holds on to the last message that has come: its memory is free when it is dropped."""
    async with open_worker(handler) as worker:
        for _ in range(3):
            answer = await worker.call(work.echo, np.ones(THRESHOLD))
            (client,) = worker._crew.clients
            leases = client.isolate._neighbour.bulk._leases
            assert len(leases) == 1
            del answer
            await trio.testing.wait_all_tasks_blocked()
            assert not leases


@within(20)
async def test_killed_while_it_is_looked_at() -> None:
    """What a worker has sent stays readable after its death, and the next one has segments of its own."""
    async with open_pool(apply, workers=1) as pool:
        (pid,) = pool.pids
        array = await pool.call(work.pattern, 5, THRESHOLD)
        with pytest.raises(IsolateDied):
            await pool.call(os.kill, pid, signal.SIGKILL)
        again = await pool.call(work.pattern, 6, THRESHOLD)
        assert (array == 5).all()
        assert (again == 6).all()


@pytest.mark.parametrize("begun", [False, True])
@within(20)
async def test_killed_with_messages_on_their_way(begun: bool) -> None:
    """A receiver that is killed before it reads, or while it uses it, leaves nothing behind."""
    with suppress(IsolateDied):
        async with open_worker(apply) as worker:
            assert worker.pid is not None
            await worker.call(work.hold, np.ones(THRESHOLD))
            if not begun:
                os.kill(worker.pid, signal.SIGSTOP)
            with suppress(IsolateDied):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_expect_death, worker, begun)
                    await trio.testing.wait_all_tasks_blocked()
                    if not begun:
                        os.kill(worker.pid, signal.SIGKILL)


async def _expect_death(worker: Any, begun: bool) -> None:
    kill = os.kill if begun else work.hold
    args = (worker.pid, signal.SIGKILL, np.ones(THRESHOLD)) if begun else (np.ones(THRESHOLD),)
    with pytest.raises(IsolateDied):
        await worker.call(work.call_first if begun else kill, *args)


@within(30)
async def test_across_two_generations() -> None:
    """Each hop puts a relayed message into segments of its own: it arrives as it was, both ways."""
    home: ReceivePort[Any] = ReceivePort()
    async with open_isolate(work.with_a_child, home.send_port):
        there = await home.receive()
        for number in range(1, 20):
            buffer, array = work.filled(100, number), work.pattern(number, THRESHOLD + number)
            await there.send([buffer, array])
            answer, same = await home.receive()
            assert (answer.view[0], len(same)) == (number + 1, THRESHOLD + number)
            assert (same == number).all()
        await there.send(None)
