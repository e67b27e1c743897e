"""Large memory on its way: what is not written to the link, but lies where both of its ends see it.

A segment is memory that the sending end makes once and both keep mapped. It is lent with a frame, one
buffer at a time, and is free again when the receiver's last view of it is gone. A `SharedBuffer` is
handed over for good. What finds no segment, as there are too many, or no descriptors, goes by the link:
slower, but it never waits. This module does not know what is in a message.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pickle import PickleBuffer
from typing import Any, Final, final

from attrs import define

from ._errors import ProtocolError
from ._messages import FORGET, FREE, Buffer, Chunk
from ._shared_buffer import (
    HAS_MEMORY_FILES,
    SharedBuffer,
    adopt,
    check_memory_file,
    content_of,
    fd_of,
    let_go,
    open_memory_file,
    spend_all,
)
from ._side import Side
from ._wire import MAX_BUFFERS, Place, encode

THRESHOLD: Final = 256 << 10  # bytes of a buffer, or of a body, from which it takes a segment
MOST_SEGMENTS: Final = 64  # at one end of a link
MOST_BYTES: Final = 512 << 20  # in them
_IDLE: Final = 10.0  # seconds after which a segment that nobody needed is given up when another is free
_UNTRACKED: Final[dict[str, Any]] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def _nothing(_kind: int, _ident: int) -> None:
    pass


@define(eq=False)
class _Segment:
    """Memory of this end's. freed: when it was free again, if it is not lent."""

    number: int
    memory: mmap.mmap
    view: memoryview
    freed: float | None = None


@cache
def _array_type(size: int) -> Any:
    """Return the type of arrays of so many bytes. It is there for ever; but sizes are powers of two."""
    import ctypes  # what never sends so much need not load it

    return ctypes.c_ubyte * size


@final
class Bulk:
    """One end of a link, as far as large memory goes.

    side: by which descriptors travel; None: there is none, and everything goes by the link.
    say: sends a frame without a body. soon: has a function called soon; called at any time, by any thread.
    """

    def __init__(self, side: Side | None = None, *, has_segments: bool = True) -> None:
        self.side = side
        self.say: Callable[[int, int], object] = _nothing
        self._early: list[Callable[[], None]] = []  # what is to be done as soon as there is a `soon`
        self._soon: Callable[[Callable[[], None]], object] = self._early.append
        self._has_segments = has_segments and side is not None and HAS_MEMORY_FILES
        self._segments: dict[int, _Segment] = {}
        self._free: list[_Segment] = []  # the one that was freed last is the last
        self._known: dict[int, mmap.mmap] = {}  # the other end's
        self._leases: dict[int, weakref.ref[Any]] = {}  # those of them at which somebody looks

    def attach(self, say: Callable[[int, int], object], soon: Callable[[Callable[[], None]], object]) -> None:
        """Begin to tell the other end what is free."""
        self.say, self._soon = say, soon
        for function in self._early:
            soon(function)
        self._early.clear()

    @property
    def segments(self) -> int:
        return len(self._segments)

    @property
    def segment_bytes(self) -> int:
        return sum(len(segment.memory) for segment in self._segments.values())

    @property
    def mapped_bytes(self) -> int:
        """Of segments of both ends."""
        return self.segment_bytes + sum(map(len, self._known.values()))

    def close(self) -> None:
        """The link is gone. What is still looked at stays until it is not any more."""
        self.say, self._soon = _nothing, _ignore
        self._leases.clear()
        known, self._known = self._known, {}
        while known:
            memory = known.popitem()[1]
            let_go(memory, -1, len(memory))
        self._free.clear()
        while self._segments:
            self._unmap(self._segments.popitem()[1])
        if self.side is not None:
            self.side.close()
            self.side = None
        self._has_segments = False

    # Sending.

    def encode(
        self, kind: int, ident: int, chunks: Sequence[Chunk], buffers: Sequence[Buffer] = ()
    ) -> list[Chunk]:
        """Return the frame, and put what is large where the other end finds it.

        Each `SharedBuffer` is spent then. Raises `UnsendableError`; all is then as it was.
        """
        used: list[_Segment] = []
        passed: list[int] = []
        try:
            placed = [self._place(buffer, used, passed) for buffer in buffers]
            body = None
            if len(buffers) < MAX_BUFFERS and (size := sum(map(len, chunks))) >= THRESHOLD:
                body = self._lend(chunks, size, used)
            frame = encode(kind, ident, chunks, placed, body=body)
            spend_all(buffers)
        except BaseException:
            for segment in used:
                self._take_back(segment)
            for number in passed:
                self.say(FORGET, number)
            raise
        return frame

    def _place(self, buffer: Buffer, used: list[_Segment], passed: list[int]) -> memoryview | Place:
        if not isinstance(buffer, SharedBuffer):
            return (self._lend([buffer], len(buffer), used) or buffer) if len(buffer) >= THRESHOLD else buffer
        if self.side is not None and fd_of(buffer) >= 0:
            try:
                number = self.side.send([fd_of(buffer)])
            except OSError:  # too many are on their way
                pass
            else:
                passed.append(number)
                return Place(number, len(buffer), for_good=True)
        return content_of(buffer)

    def _lend(self, parts: Iterable[Chunk], size: int, used: list[_Segment]) -> Place | None:
        segment = self._find_free(size) or self._make(size)
        if segment is None:
            return None
        segment.freed = None
        used.append(segment)
        pos = 0
        for part in parts:
            segment.view[pos : pos + len(part)] = part
            pos += len(part)
        return Place(segment.number, size)

    def _find_free(self, size: int) -> _Segment | None:
        best: _Segment | None = None
        for segment in self._free:
            if len(segment.memory) >= size and (best is None or len(segment.memory) <= len(best.memory)):
                best = segment
        if best is not None:
            self._free.remove(best)
        return best

    def _make(self, size: int) -> _Segment | None:
        """Make a segment, if there may be one more."""
        size = 1 << (size - 1).bit_length()
        if not self._has_segments or size > MOST_BYTES or self.side is None:
            return None
        room = MOST_BYTES - size
        while self._free and (len(self._segments) >= MOST_SEGMENTS or self.segment_bytes > room):
            self._give_up(self._free[0])
        if len(self._segments) >= MOST_SEGMENTS or self.segment_bytes > room:
            return None
        fd = -1
        try:
            fd = open_memory_file(size, is_final=True)
            memory = mmap.mmap(fd, size, **_UNTRACKED)
            number = self.side.send([fd])
        except OSError:  # no descriptors, no memory, or too many on their way
            return None
        finally:
            if fd >= 0:
                os.close(fd)
        segment = self._segments[number] = _Segment(number, memory, memoryview(memory))
        return segment

    def _take_back(self, segment: _Segment) -> None:
        segment.freed = now = time.monotonic()
        self._free.append(segment)
        while (freed := self._free[0].freed) is not None and freed < now - _IDLE:
            self._give_up(self._free[0])

    def _give_up(self, segment: _Segment) -> None:
        self._free.remove(segment)
        del self._segments[segment.number]
        self.say(FORGET, segment.number)
        self._unmap(segment)

    def _unmap(self, segment: _Segment) -> None:
        segment.view.release()
        let_go(segment.memory, -1, len(segment.memory))

    # Receiving.

    def find(self, number: int, size: int, for_good: bool) -> Buffer:
        """Return what a frame says lies in a place. Raises `ProtocolError` if it cannot."""
        if for_good:
            fd = self._take_fd(number)
            try:
                return adopt(fd, size)
            except BaseException:
                os.close(fd)
                raise
        memory = self._known.get(number)
        if memory is None:
            memory = self._known[number] = self._open(number)
        if number in self._leases or size > len(memory):
            raise ProtocolError(f"{size} bytes in segment {number}, which has {len(memory)}, or is lent")
        # Not the finalizer of a memoryview, which is called while others made from it still look.
        array = _array_type(len(memory)).from_buffer(memory)
        self._leases[number] = weakref.ref(array, partial(self._ended, number))
        return PickleBuffer(array).raw()[:size]

    def _take_fd(self, number: int) -> int:
        if self.side is None:
            raise ProtocolError("a descriptor where none can be handed over")
        try:
            fd, *more = self.side.take(number)
        except OSError as exc:
            raise ProtocolError(f"what was handed over got lost: {exc}") from exc
        for other in more:
            os.close(other)
        return fd

    def _open(self, number: int) -> mmap.mmap:
        fd = self._take_fd(number)
        try:
            size = os.fstat(fd).st_size
            check_memory_file(fd, size)
            return mmap.mmap(fd, size, **_UNTRACKED)
        except (OSError, ValueError) as exc:
            raise ProtocolError(f"segment {number} cannot be mapped: {exc}") from exc
        finally:
            os.close(fd)

    def _ended(self, number: int, _ref: object) -> None:
        """Nobody looks at it any more. Called at any time, by any thread, in the middle of anything."""
        self._soon(partial(self._give_back, number))

    def _give_back(self, number: int) -> None:
        if self._leases.pop(number, None) is not None:
            self.say(FREE, number)

    # Frames about it.

    def take(self, kind: int, number: int) -> None:
        """The other end says FREE or FORGET. Raises `ProtocolError`."""
        if kind == FREE:
            segment = self._segments.get(number)
            if segment is None or segment.freed is not None:
                raise ProtocolError(f"segment {number} is not lent")
            self._take_back(segment)
        elif (memory := self._known.pop(number, None)) is not None:
            let_go(memory, -1, len(memory))
        else:
            os.close(self._take_fd(number))


def _ignore(_function: Callable[[], None]) -> None:
    pass
