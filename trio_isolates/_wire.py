"""Frames to bytes and bytes to frames.

A frame is a fixed header, the sizes of its buffers, the buffers (each begins at a multiple of 64
bytes after the header, so that arrays in it are aligned), the body. Of a buffer that lies elsewhere the
frame has only its place, a number; the body itself may lie elsewhere too. This module does not know what a
body means, nor where the places are, and owns no socket: the decoder offers memory to read into and is
told how much was read.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, final

from attrs import frozen

from ._errors import ProtocolError, UnsendableError
from ._messages import DEFINE, KINDS, Buffer, Chunk, Frame

HEADER: Final = struct.Struct("<QQHBB")  # bytes after the header, ident, number of buffers, kind, mark
MAX_MESSAGE_SIZE: Final = 2 << 30
MAX_BUFFERS: Final = 65_535  # a frame
READ_SIZE: Final = 65536  # CPython allocates a recv buffer above this by mmap, which costs 7x as much
KEPT_SCRATCH: Final = 64 << 20
_READ_MOST: Final = 1 << 20  # bytes of a large frame at once; fresh memory is slow, and others wait meanwhile

_MARK: Final = 0xD1
_MARK_ELSEWHERE: Final = 0xD2  # the body is the last of the buffers
_ELSEWHERE: Final = 1 << 63  # with a size: after the sizes comes the number of the place, for each of them
_FOR_GOOD: Final = 1 << 62
_SIZE_ONLY: Final = _FOR_GOOD - 1
_SIZE: Final = struct.Struct("<Q")
_ALIGNMENT: Final = 64
_PADDING: Final = bytes(_ALIGNMENT)
_LARGE: Final = 128 << 10
_EMPTY: Final[tuple[memoryview, ...]] = ()


@final
@frozen
class Place:
    """Where a buffer lies, instead of in the frame; for_good: it is the receiver's from now on."""

    number: int
    size: int
    for_good: bool = False


Find: TypeAlias = Callable[[int, int, bool], Buffer]
"""Gives what lies in a place, by its number, its size, and whether it is handed over for good."""


def nowhere(number: int, _size: int, _for_good: bool) -> Buffer:
    raise ProtocolError(f"a buffer in a place {number}, where there are none")


def body_size(chunks: Sequence[Chunk], buffers: Sequence[memoryview | Place]) -> int:
    """Return how many bytes come after the header of a frame."""
    size = _SIZE.size * len(buffers)
    for buffer in buffers:
        if isinstance(buffer, Place):
            size += _SIZE.size
    for buffer in buffers:
        if not isinstance(buffer, Place):
            size += -size % _ALIGNMENT + len(buffer)
    return size + sum(map(len, chunks))


def encode(
    kind: int,
    ident: int,
    chunks: Sequence[Chunk] = (b"",),
    buffers: Sequence[memoryview | Place] = (),
    *,
    body: Place | None = None,
) -> list[Chunk]:
    """Return the frame as chunks, in order; large chunks and buffers are not copied.

    chunks is the body in pieces, body its place if it lies elsewhere; buffers are flat views of bytes
    that travel beside it, or their places. Raises `UnsendableError` if the frame would be larger than
    `MAX_MESSAGE_SIZE` bytes.
    """
    if len(chunks) == 1 and not buffers and len(only := chunks[0]) < READ_SIZE and body is None:
        return [HEADER.pack(len(only), ident, 0, kind, _MARK) + only]
    mark = _MARK
    if body is not None:
        mark, chunks, buffers = _MARK_ELSEWHERE, (), [*buffers, body]
    length = body_size(chunks, buffers)
    if length > MAX_MESSAGE_SIZE:
        raise UnsendableError(f"the message has {length} bytes; the limit is {MAX_MESSAGE_SIZE} bytes")
    if len(buffers) > MAX_BUFFERS:
        raise UnsendableError(f"the message has {len(buffers)} buffers; the limit is {MAX_BUFFERS}")
    sizes = _sizes(buffers)
    frame: list[Chunk] = [HEADER.pack(length, ident, len(buffers), kind, mark) + sizes]
    pos = len(sizes)
    for buffer in buffers:
        if isinstance(buffer, Place):
            continue
        gap = -pos % _ALIGNMENT
        if gap:
            frame.append(_PADDING[:gap])
        frame.append(buffer)
        pos += gap + len(buffer)
    return frame + list(chunks)


def _sizes(buffers: Sequence[memoryview | Place]) -> bytes:
    places = [buffer for buffer in buffers if isinstance(buffer, Place)]
    sizes = [
        buffer.size | _ELSEWHERE | buffer.for_good * _FOR_GOOD if isinstance(buffer, Place) else len(buffer)
        for buffer in buffers
    ]
    return b"".join(map(_SIZE.pack, [*sizes, *(place.number for place in places)]))


def encode_definitions(definitions: Sequence[tuple[int, bytes]]) -> list[Chunk]:
    """Return the frames that tell the other end these definitions, as chunks."""
    return [chunk for number, blob in definitions for chunk in encode(DEFINE, number, [blob])]


@final
class Decoder:
    """Turns a stream of bytes into frames.

    Read into the memory that `buffer()` gives, then say with `received(n)` how many bytes came.
    The body of a frame of 64 KiB or more that has no buffers is a view of memory that is used
    again: it is valid until the next call of `buffer()`. Everything else is the receiver's own.

    find: gives what lies elsewhere.
    """

    def __init__(
        self,
        max_message_size: int = MAX_MESSAGE_SIZE,
        *,
        room: int = READ_SIZE,
        find: Find = nowhere,
    ) -> None:
        self._limit = max_message_size
        self._find = find
        self._small = bytearray(room)
        self._view = memoryview(self._small)
        self._filled = 0
        self._scratch: memoryview = memoryview(b"")
        self._large: memoryview | None = None
        self._large_filled = 0
        self._large_header: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)

    def buffer(self) -> memoryview:
        """Return writable memory, never empty, for the next bytes of the stream."""
        if self._large is not None:
            return self._large[self._large_filled : self._large_filled + _READ_MOST]
        return self._view[self._filled :] if self._filled else self._view

    def received(self, count: int) -> list[Frame]:
        """Take note that `count` bytes were read into `buffer()`; return the frames now complete.

        Raises `ProtocolError` if the bytes are not a frame's or announce one that is too large.
        """
        if self._large is not None:
            self._large_filled += count
            if self._large_filled < len(self._large):
                return []
            memory, self._large = self._large, None
            return [_frame(self._large_header, memory, self._find)]
        return self._split(self._filled + count)

    def _split(self, end: int) -> list[Frame]:
        frames: list[Frame] = []
        small = self._small
        pos = 0
        while end - pos >= HEADER.size:
            header = HEADER.unpack_from(small, pos)
            length, ident, count, kind, mark = header
            if (
                (mark != _MARK and not (mark == _MARK_ELSEWHERE and count))
                or kind not in KINDS
                or length > self._limit
                or 8 * count > length
            ):
                raise ProtocolError(f"not a frame: {bytes(small[pos : pos + HEADER.size]).hex(' ')}")
            start = pos + HEADER.size
            if end - start < length:
                if length > READ_SIZE - HEADER.size:
                    self._begin_large(header, self._view[start:end])
                    pos = end
                break
            pos = start + length
            if count:
                frames.append(_frame(header, memoryview(small[start:pos]), self._find))
            else:
                frames.append((kind, ident, small[start:pos], _EMPTY))
        self._filled = end - pos
        if pos and self._filled:
            small[: self._filled] = small[pos:end]
        return frames

    def _begin_large(self, header: tuple[int, int, int, int, int], start: memoryview) -> None:
        length = header[0]
        if header[2]:
            self._large = _memory(length)
        else:
            if len(self._scratch) < length:
                self._scratch = memoryview(b"")
                self._scratch = _memory(length)
            self._large = self._scratch[:length]
            if length > KEPT_SCRATCH:
                self._scratch = memoryview(b"")
        self._large[: len(start)] = start
        self._large_filled = len(start)
        self._large_header = header


def _memory(length: int) -> memoryview:
    """Return writable memory whose pages are taken from the system only as they are written."""
    if length < _LARGE:
        return memoryview(bytearray(length))
    try:
        # Private: shared memory would have no huge pages, and what forks would write into it.
        pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, MemoryError) as exc:
        raise ProtocolError(f"no memory for a frame of {length} bytes") from exc
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel built without transparent huge pages
            pass
    return memoryview(pages)


def let_go(body: memoryview, start: int, end: int) -> int:
    """Give the memory of a part of a body back to the system, if nobody else has a use for it.

    Nothing of it may be read any more. Return where the next part begins. All at once, at the end, would
    take long.
    """
    memory = body.obj
    if not isinstance(memory, mmap.mmap) or len(memory) <= KEPT_SCRATCH or not hasattr(mmap, "MADV_DONTNEED"):
        return end
    offset = len(memory) - len(body)  # the body is the last in its frame, and a frame of that size is alone
    first = -(-(offset + start) // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (offset + end) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        memory.madvise(mmap.MADV_DONTNEED, first, last - first)
    return last - offset


def _frame(
    header: tuple[int, int, int, int, int],
    memory: memoryview,
    find: Find,
) -> Frame:
    _, ident, count, kind, mark = header
    pos = _SIZE.size * count
    sizes = [size for (size,) in _SIZE.iter_unpack(memory[:pos])]
    end = pos + _SIZE.size * sum(size >= _ELSEWHERE for size in sizes)
    if end > len(memory):
        raise ProtocolError(f"a frame of {len(memory)} bytes with {count} buffers, some elsewhere")
    numbers = _SIZE.iter_unpack(memory[pos:end])
    pos = end
    buffers: list[Buffer] = []
    for size in sizes:
        if size >= _ELSEWHERE:
            buffers.append(find(next(numbers)[0], size & _SIZE_ONLY, bool(size & _FOR_GOOD)))
            continue
        pos += -pos % _ALIGNMENT
        if size > len(memory) - pos:
            raise ProtocolError(f"a buffer of {size} bytes in a frame of {len(memory)}")
        buffers.append(memory[pos : pos + size])
        pos += size
    if mark == _MARK:
        return kind, ident, memory[pos:], buffers
    if not sizes[-1] & _ELSEWHERE or sizes[-1] & _FOR_GOOD:
        raise ProtocolError("a body that is neither in its frame nor in a place")
    body = buffers.pop()
    return kind, ident, body, buffers
