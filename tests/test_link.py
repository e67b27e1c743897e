"""The ends of a link over real sockets: whole frames, whatever stops in between; descriptors; the end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pickle import PickleBuffer

import numpy as np
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_isolates import ProtocolError
from trio_isolates._link import BlockingLink, Link, SocketPipe, receive_fds, send_fds
from trio_isolates._messages import CALL, VALUE, Chunk, Frame
from trio_isolates._wire import Decoder, encode

MIB = 1 << 20


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected pair with small buffers, so that nearly every write is a partial one."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    yield pair
    for sock in pair:
        sock.close()


Sockets = tuple[socket.socket, socket.socket]


def links(sockets: Sockets) -> tuple[Link, Link]:
    return Link(SocketPipe(sockets[0])), Link(SocketPipe(sockets[1]))


def large(ident: int, size: int = 8 * MIB) -> list[Chunk]:
    """A frame with a large body and two buffers, in which a shift is seen."""
    body = ident.to_bytes(4, "little") * (size // 4)
    return encode(
        CALL, ident, [body[:100], body[100:]], [memoryview(body)[:5000], memoryview(body)[5000:9999]]
    )


def whole(frame: Frame, size: int = 8 * MIB) -> bool:
    _, ident, body, buffers = frame
    expected = ident.to_bytes(4, "little") * (size // 4)
    return body == expected and [bytes(b) for b in buffers] == [expected[:5000], expected[5000:9999]]


async def read_until(link: Link, count: int, found: list[int], size: int = 8 * MIB) -> None:
    while len(found) < count:
        for frame in await link.read():
            assert whole(frame, size)
            found.append(frame[1])


@pytest.mark.parametrize("now", [True, False])
async def test_both_ways_at_once(sockets: Sockets, now: bool) -> None:
    """Large frames both ways at once arrive whole and in order, and nobody waits for the other for ever."""
    found: tuple[list[int], list[int]] = ([], [])
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for link, mine in zip(links(sockets), found, strict=True):
                nursery.start_soon(link.run_writer)
                for ident in range(3):
                    link.write(large(ident), now=now)
                nursery.start_soon(read_until, link, 3, mine)
                nursery.start_soon(link.drained)
            while found != ([0, 1, 2], [0, 1, 2]):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_many_senders(sockets: Sockets) -> None:
    """Frames of many tasks arrive whole, in the order of the writes, many for each read."""
    ours, theirs = links(sockets)
    expected: list[int] = []
    found: list[Frame] = []
    reads = 0

    async def send(first: int) -> None:
        for ident in range(first, first + 50):
            expected.append(ident)
            ours.write(encode(CALL, ident, [b"%d" % ident * 7]), now=ident % 3 == 0)
            if ident % 5 == 0:
                await trio.lowlevel.checkpoint()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run_writer)
            for first in range(0, 2000, 50):
                nursery.start_soon(send, first)
            while len(found) < 2000:
                found += await theirs.read()
                reads += 1
            nursery.cancel_scope.cancel()
    assert [frame[1] for frame in found] == expected
    assert all(frame[2] == b"%d" % frame[1] * 7 for frame in found)
    assert reads < 1000


async def test_more_chunks_than_one_call_takes(sockets: Sockets) -> None:
    """A frame in thousands of pieces arrives whole."""
    ours, theirs = links(sockets)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run_writer)
            ours.write(encode(CALL, 1, [b"x", b""] * 5000, [memoryview(b"y" * 10)] * 3000), now=True)
            (frame,) = await theirs.read()
            nursery.cancel_scope.cancel()
    assert frame[2] == b"x" * 5000
    assert [bytes(view) for view in frame[3]] == [b"y" * 10] * 3000


def read_only(memory: bytearray) -> memoryview:
    return PickleBuffer(memoryview(memory).toreadonly()).raw()


def read_only_array(memory: bytearray) -> memoryview:
    array = np.frombuffer(memory, np.uint8)
    array.flags.writeable = False
    return PickleBuffer(array).raw()


@pytest.mark.parametrize("now", [True, False])
@pytest.mark.parametrize("view_of", [memoryview, read_only, read_only_array])
async def test_what_is_queued_does_not_change(
    sockets: Sockets, now: bool, view_of: Callable[[bytearray], memoryview]
) -> None:
    """A frame arrives as it was when it was written, whatever is then done with the memory it was made of."""
    ours, theirs = links(sockets)
    memory = bytearray(b"a" * MIB)
    found: list[Frame] = []
    with trio.fail_after(20):
        for ident in range(2):
            ours.write(encode(CALL, ident, [b"body"], [view_of(memory)]), now=now)
            memory[:] = b"b" * MIB
        memory.append(0)  # nor is it held
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run_writer)
            while len(found) < 2:
                found += await theirs.read()
            nursery.cancel_scope.cancel()
    assert [bytes(frame[3][0]) for frame in found] == [b"a" * MIB, b"b" * MIB]


class Through:
    """A pipe that is another one, but for how it sends."""

    def __init__(self, pipe: SocketPipe) -> None:
        self._pipe = pipe
        self.receive, self.close = pipe.receive, pipe.close
        self.wait_readable, self.wait_writable = pipe.wait_readable, pipe.wait_writable


class Full(Through):
    """It takes nothing the first time it is asked, and notes what it is given."""

    def __init__(self, pipe: SocketPipe) -> None:
        super().__init__(pipe)
        self.given: list[Chunk] = []

    def send(self, chunks: Sequence[Chunk]) -> int:
        if not self.given:
            self.given += chunks
            raise BlockingIOError
        self.given += chunks
        return self._pipe.send(chunks)


@pytest.mark.parametrize("now", [True, False])
async def test_what_cannot_change_is_not_copied(sockets: Sockets, now: bool) -> None:
    """Read-only memory is sent from where it is, however long it is queued."""
    pipe = Full(SocketPipe(sockets[0]))
    ours, theirs = Link(pipe), Link(SocketPipe(sockets[1]))
    memory = bytes(MIB)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            ours.write(encode(CALL, 1, [b"body"], [memoryview(memory)]), now=now)
            nursery.start_soon(ours.run_writer)
            assert bytes((await theirs.read())[0][3][0]) == memory
            nursery.cancel_scope.cancel()
    views = [chunk for chunk in pipe.given if isinstance(chunk, memoryview)]
    assert len(views) > 1 and {id(view.obj) for view in views} == {id(memory)}


async def test_a_cancelled_writer_tears_nothing(sockets: Sockets) -> None:
    """The writer can be cancelled in the middle of a frame, and another one goes on where it was."""
    ours, theirs = links(sockets)
    found: list[int] = []
    with trio.fail_after(20):
        for ident in range(4):
            ours.write(large(ident), now=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.run_writer)
                await wait_all_tasks_blocked()
                if ident % 2:
                    nursery.start_soon(read_until, theirs, ident, found)
                    while len(found) < ident:
                        await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run_writer)
            await read_until(theirs, 4, found)
            nursery.cancel_scope.cancel()
    assert found == [0, 1, 2, 3]


async def test_a_full_link_says_when_there_is_room(sockets: Sockets) -> None:
    """Above 4 MiB queued a link is full, and says so once there is room."""
    room: list[bool] = []
    ours: Link = Link(SocketPipe(sockets[0]), on_room=lambda: room.append(ours.is_full))
    theirs = Link(SocketPipe(sockets[1]))
    found: list[int] = []
    full: list[bool] = []
    with trio.fail_after(20):
        for ident in range(3):
            full.append(ours.is_full)
            ours.write(large(ident, 2 * MIB), now=ident < 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run_writer)
            await wait_all_tasks_blocked()
            full.append(ours.is_full)
            assert room == []
            await read_until(theirs, 3, found, 2 * MIB)
            await ours.drained()
            full.append(ours.is_full)
            nursery.cancel_scope.cancel()
    assert (full, room) == ([False, False, False, True, False], [False])


async def test_all_is_sent_before_the_thread_is_blocked(sockets: Sockets) -> None:
    """However slowly it is read, and whether or not the other end is there to the end."""
    near, far = Link(SocketPipe(sockets[0])), BlockingLink(sockets[1])
    found: list[bool] = []

    def read_one() -> None:
        while not (frames := far.read()):
            pass
        found.extend(map(whole, frames))

    with ThreadPoolExecutor() as threads:
        near.write(large(1), now=True)
        reading = threads.submit(read_one)
        near.flush_whole()
        assert near.flush()
        near.write(large(2), now=True)
        reading.result()
        threads.submit(sockets[1].close)
        near.flush_whole()
    assert found == [True]
    assert near.broken


async def test_drained(sockets: Sockets) -> None:
    """All who wait for the queue to be empty are let go when it is, or when the link is closed."""
    ours, theirs = links(sockets)
    done: list[int] = []

    async def wait(number: int) -> None:
        await ours.drained()
        done.append(number)

    with trio.fail_after(20):
        await ours.drained()
        for turn in range(2):
            ours.write(large(turn), now=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, 1)
                await wait_all_tasks_blocked()
                nursery.start_soon(wait, 2)
                await wait_all_tasks_blocked()
                assert done == []
                nursery.start_soon(ours.run_writer)
                await read_until(theirs, 1, [])
                while len(done) < 2:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            done.clear()
        ours.write(large(9), now=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, 3)
            await wait_all_tasks_blocked()
            ours.close()
    assert done == [3]


class Presses(Through):
    """Ctrl-C is pressed on it when something was first sent."""

    _was_pressed = False

    def send(self, chunks: Sequence[Chunk]) -> int:
        sent = self._pipe.send(chunks)
        if not self._was_pressed:
            self._was_pressed = True
            signal.raise_signal(signal.SIGINT)
        return sent


@pytest.mark.parametrize("now", [True, False])
def test_ctrl_c_tears_nothing(sockets: Sockets, now: bool) -> None:
    """A Ctrl-C between the sending of bytes and the note of it changes nothing in the stream."""
    ours, theirs = Link(Presses(SocketPipe(sockets[0]))), Link(SocketPipe(sockets[1]))
    found: list[int] = []

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.run_writer)
                ours.write(large(1), now=now)
                with pytest.raises(KeyboardInterrupt):
                    await trio.sleep_forever()
                await read_until(theirs, 1, found)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert found == [1]


# The end.


async def test_the_end_of_the_stream(sockets: Sockets) -> None:
    """What was sent before the end is read, then nothing, again and again."""
    ours, theirs = links(sockets)
    with trio.fail_after(20):
        ours.write(encode(VALUE, 1, [b"last"]), now=True)
        ours.close()
        assert [frame[1] for frame in await theirs.read()] == [1]
        assert await theirs.read() == [] == await theirs.read()


async def test_the_end_in_the_middle_of_a_frame(sockets: Sockets) -> None:
    """A frame of which the end never comes is no frame."""
    sockets[0].sendall(b"".join(encode(VALUE, 1, [bytes(200)]))[:-1])
    sockets[0].close()
    with trio.fail_after(20):
        assert await Link(SocketPipe(sockets[1])).read() == []


async def test_a_peer_that_has_not_read(sockets: Sockets) -> None:
    """A peer that goes with unread bytes is an end like any other, for the reader and the writer."""
    ours, theirs = links(sockets)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.run_writer)
            ours.write(large(1), now=True)
            await wait_all_tasks_blocked()
            theirs.close()
            await ours.drained()
            assert ours.broken and not ours.is_full
            assert await ours.read() == []
            ours.write(large(2), now=True)
            await ours.drained()
            nursery.cancel_scope.cancel()


async def test_garbage(sockets: Sockets) -> None:
    """Bytes that are no frame are a ProtocolError for who reads them."""
    sockets[0].sendall(b"Traceback (most recent call last):\n")
    with trio.fail_after(20), pytest.raises(ProtocolError):
        await Link(SocketPipe(sockets[1])).read()
    with pytest.raises(ProtocolError):
        sockets[0].sendall(b"Traceback (most recent call last):\n")
        BlockingLink(sockets[1]).read()


# Plain sync code.


def test_blocking_ends(sockets: Sockets) -> None:
    """Two blocking ends carry large frames both ways at once, written by many threads, each whole."""
    ends = BlockingLink(sockets[0]), BlockingLink(sockets[1])

    def read(link: BlockingLink) -> list[int]:
        found: list[int] = []
        while len(found) < 6:
            for frame in link.read():
                assert whole(frame)
                found.append(frame[1])
        return sorted(found)

    with ThreadPoolExecutor(14) as pool:
        readers = [pool.submit(read, link) for link in ends]
        writers = [pool.submit(link.write, large(ident)) for ident in range(6) for link in ends]
        assert [reader.result(20) for reader in readers] == [[0, 1, 2, 3, 4, 5]] * 2
        for writer in writers:
            writer.result(20)


def test_the_end_of_a_blocking_stream(sockets: Sockets) -> None:
    """A blocking reader is told of the end by an empty list, a writer by an OSError."""
    ours, theirs = BlockingLink(sockets[0]), BlockingLink(sockets[1])
    ours.write(encode(VALUE, 1, [b"last"]))
    theirs.write(encode(VALUE, 2, [b"unread"]))
    sockets[0].close()
    assert [frame[1] for frame in theirs.read()] == [1]
    assert theirs.read() == [] == theirs.read()
    for frame in (large(3), encode(VALUE, 3)):
        with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
            theirs.write(frame)


async def test_a_blocking_end_and_one_for_trio(sockets: Sockets) -> None:
    """The two kinds of ends speak with each other."""
    blocking, link = BlockingLink(sockets[0]), Link(SocketPipe(sockets[1]))
    done = threading.Event()

    def echo() -> None:
        for _ in range(2):
            for frame in blocking.read():
                blocking.write(encode(VALUE, frame[1], [frame[2]], frame[3]))
        done.set()

    found: list[int] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run_writer)
            nursery.start_soon(trio.to_thread.run_sync, echo)
            for ident in (1, 2):
                link.write(large(ident), now=False)
                await read_until(link, ident, found)
            nursery.cancel_scope.cancel()
    assert found == [1, 2] and done.is_set()


# Descriptors.


def test_descriptors(sockets: Sockets) -> None:
    """Up to 253 descriptors arrive with the bytes, are the same files, and are closed on exec."""
    reader, writer = os.pipe()
    try:
        send_fds(sockets[0], b"hello", [writer] * 253)
        data, fds = receive_fds(sockets[1], 64)
        try:
            assert (data, len(set(fds))) == (b"hello", 253)
            assert {os.fstat(fd).st_ino for fd in fds} == {os.fstat(writer).st_ino}
            assert not any(os.get_inheritable(fd) for fd in fds)
        finally:
            for fd in fds:
                os.close(fd)
        with pytest.raises(OSError, match=r"Invalid argument|too"):
            send_fds(sockets[0], b"hello", [writer] * 254)
    finally:
        os.close(reader)
        os.close(writer)


def test_no_descriptors(sockets: Sockets) -> None:
    """Bytes come without descriptors, too, and the end is empty."""
    send_fds(sockets[0], b"hello", [])
    sockets[0].close()
    assert receive_fds(sockets[1], 64) == (b"hello", [])
    assert receive_fds(sockets[1], 64) == (b"", [])


class _Endless:
    """A pipe whose other end takes all that it is given, at once."""

    def __init__(self) -> None:
        self.sent = [0]  # bytes between two waits

    def send(self, chunks: Sequence[Chunk]) -> int:
        size = sum(map(len, chunks))
        self.sent[-1] += size
        return size

    def receive(self, memory: memoryview) -> int:
        raise BlockingIOError

    async def wait_readable(self) -> None:
        await trio.sleep_forever()

    async def wait_writable(self) -> None:
        self.sent.append(0)
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        pass


async def test_much_is_sent_little_by_little() -> None:
    """While a large frame is sent others run, also if the other end takes it as fast as it comes."""
    pipe = _Endless()
    link = Link(pipe)
    chunks: list[Chunk] = [b"1234", bytes(3 * MIB), b"56", bytes(2 * MIB), b"7"]
    size = sum(map(len, chunks))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run_writer)
        link.write(chunks, now=True)
        assert pipe.sent == [MIB]
        await link.drained()
        nursery.cancel_scope.cancel()
    assert sum(pipe.sent) == size
    assert max(pipe.sent[1:]) <= MIB


def test_a_large_frame_is_read_little_by_little() -> None:
    """The memory for the next bytes is never more than can be read without holding others up."""
    decoder = Decoder()
    start = encode(VALUE, 1, [bytes(8 * MIB)])[0]
    memory = decoder.buffer()
    memory[: len(start)] = start
    assert not decoder.received(len(start))
    reads = 0
    while not decoder.received(len(decoder.buffer())):
        reads += 1
    assert reads == 7
