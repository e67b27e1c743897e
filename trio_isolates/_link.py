"""The two ends of a link: bytes that move, and frames in and out of them.

A `Pipe` moves bytes without waiting and knows how to wait; `SocketPipe` is the one over a real
socket. `Link` is an end used from Trio, `BlockingLink` an end used from plain sync code. None of
them knows what a frame means. Each end has one writer: frames queue in one place, whole, so a
cancelled sender never leaves a torn frame behind.
"""

from __future__ import annotations

import array
import mmap
import select
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, final

import trio

from ._messages import Chunk, Frame
from ._wire import Decoder, Find, nowhere

_BATCH: Final = 512  # chunks a system call; Linux takes 1,024 at most
_HIGH_WATER: Final = 4 << 20  # queued bytes above which callers should wait before they add more
_AT_ONCE: Final = 1 << 20  # bytes sent while nobody else runs; the reader may make room as fast as they go
_MAX_FDS: Final = 253  # a message; Linux's SCM_MAX_FD


class Pipe(Protocol):
    """A byte stream that moves what it can at once."""

    def send(self, chunks: Sequence[Chunk], /) -> int:
        """Send from the front of `chunks`; return the bytes sent. Raises `BlockingIOError` or `OSError`."""
        ...

    def receive(self, memory: memoryview, /) -> int:
        """Read into `memory`; return the bytes read, 0 at the end. Raises `BlockingIOError` or `OSError`."""
        ...

    @property
    def wait_readable(self) -> Callable[[], Awaitable[None]]: ...

    @property
    def wait_writable(self) -> Callable[[], Awaitable[None]]: ...

    def close(self) -> None: ...


@final
class SocketPipe:
    """A `Pipe` over a connected stream socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._fd = sock.fileno()
        self.receive: Callable[[memoryview], int] = sock.recv_into
        self.wait_readable: Callable[[], Awaitable[None]] = partial(trio.lowlevel.wait_readable, self._fd)
        self.wait_writable: Callable[[], Awaitable[None]] = partial(trio.lowlevel.wait_writable, self._fd)

    def send(self, chunks: Sequence[Chunk]) -> int:
        if len(chunks) == 1:
            return self._socket.send(chunks[0])
        return self._socket.sendmsg(chunks)

    def block(self) -> None:
        """Block this thread until something can be sent, or the other end is gone."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._socket.close()


def _first(chunks: list[Chunk], most: int) -> list[Chunk]:
    """Return no more than `most` bytes, and no more chunks than go at once, of the front."""
    first: list[Chunk] = []
    for chunk in chunks[:_BATCH]:
        if len(chunk) >= most:
            return [*first, memoryview(chunk)[:most]]
        first.append(chunk)
        most -= len(chunk)
    return first


def _drop(chunks: list[Chunk], count: int) -> None:
    """Take the first `count` bytes off `chunks`."""
    done = 0
    for chunk in chunks:
        if count < len(chunk):
            break
        count -= len(chunk)
        done += 1
    del chunks[:done]
    if count:
        chunks[0] = memoryview(chunks[0])[count:]


def _kept(chunks: list[Chunk]) -> list[Chunk]:
    """Return the chunks as they are now: views of memory that its owner may still change are copied."""
    return [bytes(c) if type(c) is memoryview and not _is_fixed(c) else c for c in chunks]


def _is_fixed(view: memoryview) -> bool:
    """True for bytes, and for what a `SharedBuffer` has handed over.

    Other views through which nothing can be written may be of memory that its owner writes to.
    """
    owner: object = view.obj
    while type(owner) is memoryview:
        owner = owner.obj
    return view.readonly and type(owner) in (bytes, mmap.mmap)


@final
class Link:
    """An end of a link for Trio. Somebody must run `run_writer()` and call `read()`. find: see `Decoder`."""

    def __init__(
        self, pipe: Pipe, on_room: Callable[[], None] = lambda: None, *, find: Find = nowhere
    ) -> None:
        self._pipe = pipe
        self._decoder = Decoder(find=find)
        self._out: list[Chunk] = []
        self._queued = 0  # bytes
        self._on_room = on_room
        self._writer: trio.lowlevel.Task | None = None
        self._drained = trio.Event()
        self.broken = False
        self.reads = 0

    @property
    def is_near(self) -> bool:
        """True if the other end is in this process: a frame there costs next to nothing."""
        return not isinstance(self._pipe, SocketPipe)

    @property
    def is_full(self) -> bool:
        """True while so much is queued that more should wait until `on_room` is called."""
        return self._queued > _HIGH_WATER

    @trio.lowlevel.enable_ki_protection
    def write(self, chunks: list[Chunk], *, now: bool) -> None:
        """Queue a frame as it is now; what its owner changes afterwards is not seen at the other end.

        now: try to send it at once, else leave it to gather company for one tick.
        """
        if self.broken:
            return
        if now and not self._out:
            self._out = chunks
            if self.flush():
                return  # the common case by far
            self._out = _kept(self._out)
            self._queued = sum(map(len, self._out))
        else:
            self._out += _kept(chunks) if len(chunks) > 1 else chunks  # a frame's first chunk is its own
            self._queued += sum(map(len, chunks))
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    def flush(self) -> bool:
        """Send what goes without waiting, up to a MiB; return True if nothing is left."""
        out = self._out
        left = _AT_ONCE
        try:
            while out:
                if left <= 0:
                    return False
                sent = self._pipe.send(out if len(out) == 1 and len(out[0]) <= left else _first(out, left))
                if len(out) == 1 and sent == len(out[0]):
                    out.clear()
                    break
                self._queued -= sent
                left -= sent
                _drop(out, sent)
        except BlockingIOError:
            return False
        except OSError:  # the other end is gone; whoever reads will say so
            self.broken = True
            out.clear()
        self._queued = 0
        return True

    def flush_whole(self) -> None:
        """Send all that is queued, before this thread is blocked anyway; in one process, what goes."""
        while not self.flush() and isinstance(self._pipe, SocketPipe):
            self._pipe.block()

    @trio.lowlevel.enable_ki_protection
    async def run_writer(self) -> None:
        """Send what is queued, for ever."""

        def forget(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            was_full = self.is_full
            done = self.flush()
            if was_full and not self.is_full:
                self._on_room()  # which may write
            elif done:
                self._drained.set()
                self._writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(forget)
            else:
                await self._pipe.wait_writable()

    async def drained(self) -> None:
        """Wait until nothing is queued any more."""
        await trio.lowlevel.checkpoint()
        while self._out:
            if self._drained.is_set():
                self._drained = trio.Event()
            await self._drained.wait()

    async def read(self) -> list[Frame]:
        """Wait for bytes; return the frames they completed, or an empty list at the end of the stream.

        Raises `ProtocolError` if the bytes are not frames.
        """
        while True:
            await self._pipe.wait_readable()
            try:
                count = self._pipe.receive(self._decoder.buffer())
            except BlockingIOError:
                continue
            except OSError:
                return []
            if count == 0:
                return []
            self.reads += 1
            if frames := self._decoder.received(count):
                return frames

    def finish(self) -> None:
        """Take no more frames; those that are queued still go."""
        self.broken = True

    def read_nowait(self) -> list[Frame]:
        """Return the frames that are there, or an empty list if none is whole yet."""
        while True:
            try:
                count = self._pipe.receive(self._decoder.buffer())
            except OSError:
                return []
            if count == 0:
                return []
            if frames := self._decoder.received(count):
                return frames

    def close(self) -> None:
        self.broken = True
        self._out.clear()
        self._drained.set()
        self._pipe.close()
        self._decoder = Decoder(room=0)


@final
class BlockingLink:
    """An end of a link for sync code: reads and writes block the calling thread."""

    def __init__(self, sock: socket.socket, *, find: Find = nowhere) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._decoder = Decoder(find=find)
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def is_readable(self) -> bool:
        """True if there are bytes, or the other end is gone."""
        return bool(self._poll.poll(0))

    @property
    def wait_readable(self) -> Callable[[], object]:
        """Blocks until there are bytes, or the other end is gone. A function of C: never half done."""
        return self._poll.poll

    def read(self) -> list[Frame]:
        """Block for bytes; return the frames they completed, or an empty list at the end of the stream."""
        decoder, receive = self._decoder, self._socket.recv_into
        while True:
            try:
                count = receive(decoder.buffer())
            except OSError:
                return []
            if count == 0:
                return []
            if frames := decoder.received(count):
                return frames

    def write(self, chunks: list[Chunk]) -> None:
        """Send a frame whole. Raises `OSError` if the other end is gone."""
        with self._lock:
            if len(chunks) == 1:
                self._socket.sendall(chunks[0])
                return
            rest = list(chunks)
            while rest:
                _drop(rest, self._socket.sendmsg(rest[:_BATCH]))


def send_fds(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """Send `data`, at least one byte, and up to 253 descriptors in one message."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], ancillary)


def receive_fds(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive one message of up to `size` bytes and the descriptors with it, closed on exec.

    `socket.recv_fds` would hand them out inheritable: it ignores its flags.
    """
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(_MAX_FDS * 4), flags)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)
