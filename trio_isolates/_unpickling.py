"""A large pickle to its object, a piece at a time; and pickles to such as can be taken in pieces.

The C unpickler asks its file for bytes, and here is where others get their turn. It would ask for a
frame of 64 KiB at a time, which may hold some thousands of objects: so what is sent has no frames.
This module does not know who waits, nor what a message means.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, Final, final

import outcome

from ._messages import Buffer, Chunk
from ._pieces import Work
from ._wire import let_go

LARGE: Final = 64 << 10
"""Bytes of a pickle from which it is worth its while: about a millisecond's."""

_FRAME: Final = 0x95  # the opcode, which the eight bytes of a length follow
_FRAME_START: Final = 9
_PROTOCOL: Final = b"\x80\x05"
_PIECE: Final = 8 << 10  # bytes: some tenths of a millisecond at most, if they are small objects
_COPIED: Final = 256 << 10  # bytes of a large bytes object, copied between two looks at the clock
_DROPPED: Final = 8 << 20  # bytes that are opened before their memory is given back
_BLOCK: Final = 1 << 16
_FEW: Final = 1 << 17


@final
class Built:
    """A message that has been opened before its turn, in the place of its pickle."""

    def __init__(self, result: outcome.Outcome[Any]) -> None:
        self._result = result

    def __len__(self) -> int:
        return LARGE

    def open(self) -> Any:
        return self._result.unwrap()


def built_in(body: object) -> Built | None:
    return body if isinstance(body, Built) else None


def without_frames(chunks: list[Chunk]) -> list[Chunk]:
    """Return the chunks that the C pickler has written, without the headers of frames.

    It writes a frame at a time, and of each large bytes or str object first, at the end of what may
    be a frame before it, the opcode and the size, then the content by itself.
    """
    kept: list[Chunk] = []
    is_content = False
    for place, chunk in enumerate(chunks):
        view = memoryview(chunk)
        if is_content:
            kept.append(chunk)
            is_content = False
            continue
        if place == 0:
            kept.append(view[: len(_PROTOCOL)])
            view = view[len(_PROTOCOL) :]
        if len(view) >= _FRAME_START and view[0] == _FRAME:
            end = _FRAME_START + int.from_bytes(view[1:_FRAME_START], "little")
            if end > len(view):
                return chunks  # not that pickler's
            kept.append(view[_FRAME_START:])
            is_content = len(view) > end
        else:
            kept.append(view)
            is_content = place < len(chunks) - 1
    return kept


def load_in_pieces(work: Work, body: Chunk, buffers: Sequence[Buffer]) -> Any:
    """Unpickle a large message, in the middle of work that is done in pieces."""
    source = _Source(work, body)
    unpickler = _open(source, buffers)
    value = unpickler.load()
    if source.is_used_up:
        _forget(unpickler, source)
    return value


@final
class _Source:
    """The file that the unpickler reads from. To look ahead as little as it likes is its right."""

    def __init__(self, work: Work, body: Chunk) -> None:
        self._give_way = work.give_way
        self._body = memoryview(body)
        self._at = 0
        self._dropped = 0

    @property
    def is_used_up(self) -> bool:
        return self._at == len(self._body)

    def replace(self, body: bytes) -> None:
        self._body = memoryview(body)
        self._at = self._dropped = 0

    def peek(self, _: int, /) -> memoryview:
        self._give_way()
        if self._at - self._dropped > _DROPPED:
            self._dropped = let_go(self._body, self._dropped, self._at)
        return self._body[self._at : self._at + _PIECE]

    def read(self, count: int, /) -> memoryview:
        start = self._at
        self._at = start + count
        return self._body[start : start + count]

    def readinto(self, memory: memoryview, /) -> int:
        count = min(len(memory), len(self._body) - self._at)
        for start in range(0, count, _COPIED):
            self._give_way()
            end = min(start + _COPIED, count)
            memory[start:end] = self._body[self._at + start : self._at + end]
        self._at += count
        return count

    def readline(self) -> bytes:
        raise pickle.UnpicklingError("a pickle of protocol 5 has no lines")


def _open(source: Any, buffers: Sequence[Buffer] = ()) -> pickle.Unpickler:
    return pickle.Unpickler(source, buffers=buffers)  # whose read may give any buffer, whatever its types say


def _forget(unpickler: pickle.Unpickler, source: _Source) -> None:
    """Have it drop what it remembers little by little: all at once, of millions, would take long.

    There is no other way than to have it open pickles that put None in each place.
    """
    slots = (unpickler.__sizeof__() - _open(source).__sizeof__()) // 8
    if slots < _FEW:
        return
    puts = bytearray(5 * _BLOCK)
    puts[0::5] = pickle.LONG_BINPUT * _BLOCK
    puts[1::5] = bytes(range(256)) * (_BLOCK >> 8)
    puts[2::5] = b"".join(bytes([high]) * 256 for high in range(_BLOCK >> 8))
    # It doubles its room when that is full, from 32 places.
    for block in range((1 << (slots.bit_length() - 1)) // _BLOCK):
        puts[3::5] = bytes([block & 255]) * _BLOCK
        puts[4::5] = bytes([block >> 8]) * _BLOCK
        source.replace(pickle.NONE + puts + pickle.STOP)
        unpickler.load()
