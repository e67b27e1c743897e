"""Values across a link: kinds, bulk, and what happens when one refuses."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import logging
import math
import mmap
import pathlib
import re
import signal
import sys
import threading
import types
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from ends import Pair
from trio_isolates import CallInterrupted, UnsendableError
from trio_isolates._wire import MAX_BUFFERS, MAX_MESSAGE_SIZE


@pytest.fixture
def pair() -> Pair:
    return Pair()


class Point(msgspec.Struct):
    """An importable struct."""

    x: int


class Level(enum.IntEnum):
    HIGH = 3


class Key(enum.Enum):
    A = "a"


@pytest.mark.parametrize(
    "value",
    [
        None,
        (1, -(2**70), 1.5, 1j, True),
        "\ud800 and \U0001f600",
        b"bytes",
        bytearray(b"more"),
        {1: {2, 3}, "k": frozenset("a"), (1,): [(), [], {}]},
        [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), decimal.Decimal("1.10"), uuid.UUID(int=5)],
        [pathlib.PurePosixPath("/a"), range(3), re.compile("a+"), array.array("d", [1, 2])],
        [collections.deque([1], 3), collections.OrderedDict(b=1, a=2), collections.Counter("aab")],
        [types.SimpleNamespace(a=1), types.MappingProxyType({"a": 1}), collections.ChainMap({"a": 1})],
        [Level.HIGH, Point(1), Level, Point],
        [int, type(None), type(...), NotImplemented, ..., types.FunctionType, list[int], int | None],
        [len, math.sin, "".join, math, dict.fromkeys, str.upper],
        [logging.getLogger("a.b"), logging.getLogger(), threading.Lock, threading.Thread.join],
        [ValueError("x", 1), OSError(2, "no"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad").args],
    ],
    ids=lambda value: str(value)[:40],
)
def test_there_and_back(pair: Pair, value: object) -> None:
    """What can be imported or pickled arrives as it was."""
    for arrived in (pair.there(value), pair.back(pair.there(value))):
        assert repr(arrived) == repr(value)
        assert type(arrived) is type(value)


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"abcdef"),
        memoryview(b"abcdef")[::2],
        memoryview(bytearray(100_000)),
        memoryview(bytearray(100_000))[::3],
        memoryview(b""),
        memoryview(np.arange(60_000, dtype=np.int16).reshape(300, 200)),
        memoryview(np.arange(24.0).reshape(2, 3, 4).T),
        memoryview(np.array(1.5)),
    ],
)
def test_a_memoryview_arrives_as_one(pair: Pair, view: memoryview) -> None:
    """A view of somebody's memory arrives as a view of a copy, as readable, of the same items and shape."""
    arrived = pair.there([view])[0]
    assert type(arrived) is memoryview and arrived == view
    assert (arrived.format, arrived.shape, arrived.readonly) == (view.format, view.shape, view.readonly)


def test_a_memoryview_that_cannot_be_made(pair: Pair) -> None:
    """Views of items that Python cannot look at by itself are refused, with their format."""
    with pytest.raises(UnsendableError, match=r"value\[0\].*'>h'"):
        pair.there([memoryview(np.arange(3, dtype=">i2"))])


def test_weak_mappings(pair: Pair) -> None:
    """Weak mappings arrive with what they held, as weak ones."""
    key = Key.A
    theirs = pair.there([weakref.WeakKeyDictionary({key: 1}), weakref.WeakValueDictionary({1: key})])
    assert [dict(mapping) for mapping in theirs] == [{key: 1}, {1: key}]


# Bulk.


@pytest.mark.parametrize(
    "large", [bytes(70_000), "x" * 70_000, bytearray(70_000)], ids=["bytes", "str", "bytearray"]
)
def test_large_values_arrive(pair: Pair, large: object) -> None:
    """Large bytes and text arrive whole, at any depth."""
    assert pair.there({"a": [large, 1], "b": large}) == {"a": [large, 1], "b": large}


def test_large_bytes_are_not_copied(pair: Pair) -> None:
    """Large bytes are handed on as the very object."""
    large = bytes(1 << 20)
    chunks, _, _ = pair.parent.dumps({"a": [large]})
    assert any(chunk is large for chunk in chunks)


@pytest.mark.parametrize("size", [100, 5_000, 70_000])
def test_a_bytearray_may_be_changed_at_once(pair: Pair, size: int) -> None:
    """A message holds a bytearray as it was: it can be changed, and resized, before the message is sent."""
    value = bytearray(b"a" * size)
    pickled = pair.parent.dumps([value])
    value[0] = 0
    value.clear()
    assert pair.worker.receive(pickled) == [b"a" * size]


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    base = np.arange(60_000, dtype=np.float64).reshape(200, 300)
    readonly = base.copy()
    readonly.flags.writeable = False
    return {
        "small": np.arange(3),
        "plain": base,
        "Fortran": np.asfortranarray(base),
        "every second": base[::2, ::3],
        "backwards": base[::-1],
        "transposed": base.T,
        "read-only": readonly,
        "empty": np.empty((0, 5)),
        "a number": np.array(3.5),
        "structured": np.zeros(1000, dtype=[("a", "i4"), ("b", "f8", (2,))]),
        "objects": np.array([{"a": 1}, None, "x"], dtype=object),
        "dates": np.array(["2020-01-01"] * 1000, dtype="M8[D]"),
        "text": np.array(["ab"] * 1000),
    }


@pytest.mark.parametrize("name", arrays())
def test_arrays(pair: Pair, name: str) -> None:
    """Arrays of any layout arrive equal, with their type and shape, and can be written if they could."""
    sent = arrays()[name]
    theirs = pair.there({"k": [sent]})["k"][0]
    np.testing.assert_array_equal(theirs, sent)
    assert (theirs.dtype, theirs.shape, theirs.flags.aligned) == (sent.dtype, sent.shape, True)
    assert theirs.flags.writeable == sent.flags.writeable


def test_large_arrays_travel_beside_the_message(pair: Pair) -> None:
    """The memory of a large contiguous array is not copied; that of a small one is in the message."""
    large, small = np.zeros(100_000), np.zeros(100)
    chunks, buffers, _ = pair.parent.dumps([large, small, large])
    assert sum(map(len, chunks)) < 2000
    assert [view.nbytes for view in buffers] == [800_000]
    assert np.shares_memory(np.frombuffer(buffers[0]), large)
    first, _, last = pair.there([large, small, large])
    assert first is last


def test_more_arrays_than_a_frame_has_buffers(pair: Pair) -> None:
    """Arrays for which there is no more room beside the message go inside it."""
    memory = np.arange(4096, dtype=np.uint8)
    value = [np.frombuffer(memory, np.uint8) for _ in range(MAX_BUFFERS + 3)] + [np.arange(20_000)]
    chunks, buffers, _ = pair.parent.dumps(value)
    assert len(buffers) == MAX_BUFFERS
    theirs = pair.worker.codec.loads(b"".join(chunks), buffers)
    assert len(theirs) == len(value) and theirs[-1][-1] == 19_999
    assert all(np.array_equal(array, memory) for array in theirs[-4:-1])


def test_a_message_that_is_too_large(pair: Pair) -> None:
    """A message above the limit is refused before anything is sent, and defines nothing."""
    pair.parent.run("class C:\n    pass")
    largest = mmap.mmap(-1, MAX_MESSAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with pytest.raises(UnsendableError, match=r"value: it has 2147\d+ bytes; the limit is 2147483648 bytes"):
        pair.parent.dumps([pair.parent["C"], np.frombuffer(largest, np.uint8)])
    assert pair.there(pair.parent["C"]) is pair.worker["C"]


# What refuses.


class Raises:
    """Raises while it is pickled."""

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    def __reduce__(self) -> tuple[Any, ...]:
        raise self.exc


class RaisesThere:
    """Raises while it is unpickled."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return raise_it, (self.kind,)


def raise_it(kind: type[BaseException]) -> None:
    raise kind("while it is opened")


class Mute(Exception):
    """An exception that cannot even be printed."""

    def __str__(self) -> str:
        raise SystemExit("no")


ANY = [
    ValueError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    trio.EndOfChannel,
    Mute,
    MemoryError,
]


@pytest.mark.parametrize("kind", ANY)
def test_what_raises_here(pair: Pair, kind: type[BaseException]) -> None:
    """Whatever is raised while a value is pickled is the cause of an UnsendableError, and harms nothing."""
    pair.parent.run("class C:\n    pass")
    exc = kind("while it is made")
    for dumps in (pair.parent.codec.dumps, pair.parent.codec.dumps_whole):
        with pair.parent.at_work(), pytest.raises(UnsendableError) as caught:
            dumps([pair.parent["C"], {"k": Raises(exc)}])
        assert caught.value.path == "value[1]['k']"
        assert caught.value.type_name == f"{__name__}.Raises"
        assert caught.value.__cause__ is exc
        assert kind.__name__ in str(caught.value)
    assert pair.there([pair.parent["C"], 1])[0] is pair.worker["C"]


@pytest.mark.parametrize("kind", ANY)
def test_what_raises_there(pair: Pair, kind: type[BaseException]) -> None:
    """Whatever is raised while a message is opened is the cause of an UnsendableError, and harms nothing."""
    with pytest.raises(UnsendableError, match="cannot unpickle the message") as caught:
        pair.there([1, RaisesThere(kind)])
    assert (caught.value.path, type(caught.value.__cause__)) == ("", kind)
    assert pair.there([1, 2]) == [1, 2]


class RaisesOnce(Raises):
    """Raises the first time only."""

    def __reduce__(self) -> tuple[Any, ...]:
        exc, self.exc = self.exc, ValueError("not the first time")
        raise exc


def test_a_file(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open file is refused, not read; standard output and error are each other's own."""
    with open(__file__, encoding="utf-8") as file:
        with pytest.raises(UnsendableError, match=r"value\[0\]: cannot pickle '_io.TextIOWrapper'"):
            pair.parent.dumps([file])
        monkeypatch.setattr(sys, "stdout", file)
        assert pair.there([file])[0] is file


@pytest.mark.parametrize("interrupted", [Raises, RaisesOnce])
def test_an_interrupt_passes(pair: Pair, interrupted: Callable[[BaseException], object]) -> None:
    """`CallInterrupted` passes through both directions as it is, and both ends work afterwards."""
    pair.parent.run("class C:\n    pass")
    for dumps in (pair.parent.codec.dumps, pair.parent.codec.dumps_whole):
        with pair.parent.at_work(), pytest.raises(CallInterrupted):
            dumps([pair.parent["C"], interrupted(CallInterrupted())])
    with pytest.raises(CallInterrupted):
        pair.there(RaisesThere(CallInterrupted))
    assert pair.there(pair.parent["C"]) is pair.worker["C"]


class Presses:
    """Presses Ctrl-C while it is pickled, or unpickled."""

    def __init__(self, *, there: bool) -> None:
        self.there = there

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.there:
            press()
        return press if self.there else int, ()


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("there", [False, True])
def test_ctrl_c_waits_for_the_message(pair: Pair, there: bool) -> None:
    """A Ctrl-C that comes while a message is made or opened is raised after that, as what it is."""
    done: list[Any] = []

    async def main() -> None:
        with trio.fail_after(20):
            done.append(pair.there([1, Presses(there=there)]))
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert done == [[1, None if there else 0]]


class Holder:
    """Holds a value."""

    def __init__(self, value: object) -> None:
        self.value = value


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"k": x}, lambda x: (1, x), Holder])
def test_what_is_nested_too_deeply(pair: Pair, wrap: Callable[[Any], Any]) -> None:
    """Values nested too deeply are refused with the path of the argument, and harm nothing."""
    value: Any = None
    for _ in range(30_000):
        value = wrap(value)
    with pytest.raises(UnsendableError) as caught:
        pair.parent.dumps(["good", value])
    kind = f"{__name__}.Holder" if isinstance(value, Holder) else type(value).__name__
    assert str(caught.value) == f"value[1]: cannot pickle '{kind}': it is nested too deeply"
    assert isinstance(caught.value.__cause__, RecursionError)
    assert pair.there([1, 2]) == [1, 2]


def test_a_struct_of_the_main_program(pair: Pair) -> None:
    """A msgspec.Struct of the main program is refused in words that say what to do."""
    pair.parent.run("import msgspec\nclass S(msgspec.Struct):\n    x: int\nvalue = S(1)")
    with pytest.raises(UnsendableError, match=r"msgspec.Struct 'S' must be defined in an importable module"):
        pair.parent.dumps([pair.parent["value"]])
    assert pair.there(Point(3)) == Point(3)
