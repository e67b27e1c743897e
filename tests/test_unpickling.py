"""Pickles without frames, and how they are opened a piece at a time."""

from __future__ import annotations

import mmap
import pickle
from typing import Any

import pytest

from trio_isolates import _pieces, _unpickling, _wire
from trio_isolates._messages import Chunk
from trio_isolates._pickling import Codec
from trio_isolates._pieces import Work

LARGE = 100_000
FRAME = b"\x95"
SMALL_THINGS: list[Any] = [[number, str(number), {"key": number / 7}] for number in range(20_000)]
LIKE_A_FRAME = FRAME + (LARGE).to_bytes(8, "little") + bytes(LARGE)

VALUES: dict[str, Any] = {
    "small things": SMALL_THINGS,
    "bytes": bytes(LARGE),
    "bytearray": bytearray(LARGE),
    "str": "é" * LARGE,
    "one after the other": [bytes(LARGE), b"", bytes(LARGE), "x" * LARGE, 0x95, bytes(LARGE)],
    "among others": [SMALL_THINGS[:3000], bytes(LARGE), SMALL_THINGS[:10], "é" * LARGE, SMALL_THINGS[:3000]],
    "like a frame": [LIKE_A_FRAME, 1, LIKE_A_FRAME, SMALL_THINGS[:3000]],
    "twice": [SMALL_THINGS] * 2,
}


def pickled(value: object) -> bytes:
    return b"".join(Codec(side=0).dumps(value)[0])


def in_pieces(body: Chunk) -> tuple[Any, int]:
    """Return what is unpickled, and in how many pieces."""
    codec = Codec(side=1)
    work = Work(lambda: codec.loads(body), "test")
    pieces = 1
    while not work.step():
        pieces += 1
    return work.result().unwrap(), pieces


@pytest.fixture(autouse=True)
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pieces, "_PIECE", 0.0)


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_there_and_back(value: Any) -> None:
    """What is large arrives as it was, whole or in pieces."""
    body = pickled(value)
    assert pickle.loads(body) == value
    assert in_pieces(body)[0] == value


@pytest.mark.parametrize("value", [SMALL_THINGS, "x" * LARGE, [bytes(LARGE), SMALL_THINGS]])
def test_no_frames(value: Any) -> None:
    """Nothing of what is sent has to be opened in one go because it is a frame."""
    body = pickled(value)
    assert not [opcode for opcode, _, _ in pickle_opcodes(body) if opcode == "FRAME"]


def pickle_opcodes(body: bytes) -> list[tuple[str, Any, Any]]:
    import pickletools

    return [(opcode.name, argument, place) for opcode, argument, place in pickletools.genops(body)]


def test_small_pieces() -> None:
    """A piece is a small part of a large message, be it many things or one bytes object."""
    for value, size in ((SMALL_THINGS, 0), (bytes(1 << 20), 1 << 20)):
        body = pickled(value)
        pieces = in_pieces(body)[1]
        assert pieces > ((len(body) - size) // (16 << 10)) + size // (512 << 10)


def test_with_frames() -> None:
    """A pickle that has frames, as others make it, is opened all the same."""
    body = pickle.dumps(SMALL_THINGS, 5)
    assert FRAME in body[:3]
    assert in_pieces(body)[0] == SMALL_THINGS


def test_what_it_remembers_is_dropped_in_pieces() -> None:
    """Of a message of very many objects, too, all arrives, and nothing is held that was dropped."""
    value = [[number] for number in range(150_000)]
    body = pickled(value)
    opened, pieces = in_pieces(body)
    assert opened == value
    without = len(body) // _unpickling._PIECE  # pyright: ignore[reportPrivateUsage]
    assert pieces > without + 20


def test_stopped() -> None:
    """Work that is stopped ends where it had given way, whatever it makes of that."""
    reached: list[str] = []

    def stubborn() -> None:
        for _ in range(3):
            try:
                Codec(side=1).loads(body)
                reached.append("the end")
            except BaseException as exc:
                reached.append(type(exc.__cause__).__name__)

    body = pickled(SMALL_THINGS)
    work = Work(stubborn, "test")
    assert not work.step()
    work.stop()
    assert reached == ["Stopped"] * 3


def test_stopped_before_it_began() -> None:
    """Work that is stopped before its first piece never runs."""
    ran: list[int] = []
    work = Work(lambda: ran.append(1), "test")
    work.stop()
    assert not ran


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system has no MADV_DONTNEED")
def test_memory_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the memory of a body that was read, whole pages are given back; what is not read yet stays."""
    monkeypatch.setattr(_wire, "KEPT_SCRATCH", 0)
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 8 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * len(memory)
    body = memoryview(memory)[100:]
    end = _wire.let_go(body, 0, 3 * page)
    assert end == 3 * page - 100
    assert bytes(memoryview(memory)[:page]) == b"x" * page  # it is not all the body's
    assert bytes(memoryview(memory)[page : 3 * page]) == bytes(2 * page)
    assert bytes(memoryview(memory)[3 * page :]) == b"x" * 5 * page


def test_memory_that_is_used_again_stays() -> None:
    """The memory that the next frame is read into is not given back."""
    body = memoryview(bytearray(b"x" * (1 << 16)))
    assert _wire.let_go(body, 0, 1 << 16) == 1 << 16
    assert bytes(body) == b"x" * (1 << 16)
