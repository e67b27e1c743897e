"""Frames to bytes and back: any frames, in any cuts, and bytes that are no frames."""

from __future__ import annotations

import mmap
import resource
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_isolates import ProtocolError, UnsendableError
from trio_isolates._messages import CALL, DEFINE, KINDS, VALUE, Chunk, Frame
from trio_isolates._wire import (
    HEADER,
    MAX_BUFFERS,
    MAX_MESSAGE_SIZE,
    READ_SIZE,
    Decoder,
    body_size,
    encode,
    encode_definitions,
)

Plain = tuple[int, int, bytes, list[bytes]]
"""A frame as it was meant: kind, ident, body, buffers."""

EDGES = [
    0,
    1,
    7,
    4096,
    READ_SIZE - HEADER.size - 1,
    READ_SIZE - HEADER.size,
    READ_SIZE,
    131_071,
    131_072,
    200_000,
]


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which a shift or a swap is seen."""
    return (bytes(range(seed, seed + 127)) * (size // 127 + 1))[:size]


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    size = draw(st.one_of(st.integers(0, 300), st.sampled_from(EDGES)))
    return pattern(size, draw(st.integers(0, 128)))


frames = st.tuples(
    st.sampled_from(sorted(KINDS)), st.integers(0, 2**64 - 1), contents(), st.lists(contents(), max_size=4)
)


def to_bytes(frame: Plain) -> bytes:
    kind, ident, body, buffers = frame
    return b"".join(encode(kind, ident, [body], [memoryview(buffer) for buffer in buffers]))


def copied(frame: Frame) -> Plain:
    kind, ident, body, buffers = frame
    return kind, ident, bytes(body), [bytes(buffer) for buffer in buffers]


def feed(decoder: Decoder, stream: bytes, cuts: Iterable[int] = ()) -> list[Plain]:
    """Give the stream to the decoder in reads of these sizes, and then in reads as large as it takes."""
    found: list[Plain] = []
    sizes = iter(cuts)
    while stream:
        memory = decoder.buffer()
        assert len(memory) > 0 and not memory.readonly
        count = min(next(sizes, len(stream)), len(memory), len(stream))
        memory[:count] = stream[:count]
        stream = stream[count:]
        found += map(copied, decoder.received(count))
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 80_000), max_size=60))
def test_any_cuts(sent: list[Plain], cuts: list[int]) -> None:
    """Whatever is sent, and however the stream is cut into reads, the same frames come out."""
    assert feed(Decoder(), b"".join(map(to_bytes, sent)), cuts) == sent


def test_one_byte_at_a_time() -> None:
    """A stream that comes in single bytes gives the same frames as one that comes at once."""
    sent: list[Plain] = [
        (CALL, 1, b"", []),
        (VALUE, 2**64 - 1, pattern(300), [pattern(5), b"", pattern(70)]),
        (CALL, 3, pattern(READ_SIZE + 5), []),
        (VALUE, 4, b"end", [pattern(READ_SIZE + 9)]),
    ]
    stream = b"".join(map(to_bytes, sent))
    assert feed(Decoder(), stream, [1] * len(stream)) == feed(Decoder(), stream) == sent


def test_many_frames_in_one_read() -> None:
    """All frames that one read completes come out of it, and the rest of the read is kept."""
    decoder = Decoder()
    stream = b"".join(to_bytes((CALL, ident, b"x" * ident, [])) for ident in range(100))
    memory = decoder.buffer()
    memory[: len(stream) - 1] = stream[:-1]
    assert [frame[1] for frame in decoder.received(len(stream) - 1)] == list(range(99))
    assert feed(decoder, stream[-1:]) == [(CALL, 99, b"x" * 99, [])]


def test_what_is_received_with_buffers_belongs_to_the_receiver() -> None:
    """Frames with buffers, and small ones, stay as they are whatever comes later."""
    decoder = Decoder()
    kept: list[tuple[Frame, Plain]] = []
    for ident in range(6):
        meant: Plain = (
            CALL,
            ident,
            pattern(100, ident),
            [pattern(size, ident) for size in (50, 70_000)][: ident % 3],
        )
        stream = to_bytes(meant)
        while stream:
            memory = decoder.buffer()
            count = min(len(memory), len(stream))
            memory[:count] = stream[:count]
            stream = stream[count:]
            kept += [(frame, meant) for frame in decoder.received(count)]
        feed(decoder, to_bytes((VALUE, ident, pattern(300_000, 100), [])))
    assert [copied(frame) for frame, _ in kept] == [meant for _, meant in kept]
    assert len(kept) == 6
    for frame, _ in kept:
        assert all(not view.readonly for view in frame[3])


def test_large_parts_are_not_copied() -> None:
    """The chunks of an encoded frame are the very objects that were given, if they are large."""
    body, view = bytes(READ_SIZE), memoryview(bytearray(5000))
    assert any(chunk is body for chunk in encode(CALL, 1, [body]))
    chunks = encode(CALL, 1, [b"small", body], [view])
    assert any(chunk is body for chunk in chunks) and any(chunk is view for chunk in chunks)


@pytest.mark.parametrize("sizes", [[5001, 8000], [4097, 4099, 80_000], [70_001, 300_001, 16]], ids=str)
def test_arrays_are_aligned(sizes: list[int]) -> None:
    """Buffers lie at addresses that numpy's widest numbers can be read from, whatever came before them."""
    decoder, found = Decoder(), []
    stream = to_bytes((CALL, 1, b"", [pattern(size) for size in sizes]))
    while stream:
        memory = decoder.buffer()
        count = min(len(memory), len(stream))
        memory[:count] = stream[:count]
        stream = stream[count:]
        found += decoder.received(count)
    addresses = [np.frombuffer(view, np.uint8).ctypes.data for view in found[0][3]]
    assert [address % 16 for address in addresses] == [0] * len(sizes)


def test_definitions() -> None:
    """Each definition travels in a frame of its own, in order."""
    stream = b"".join(encode_definitions([(3, b"one"), (4, pattern(100_000))]))
    assert feed(Decoder(), stream) == [(DEFINE, 3, b"one", []), (DEFINE, 4, pattern(100_000), [])]


def lazily(size: int) -> memoryview:
    """Memory of which nothing is taken as long as nothing is written."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


@pytest.mark.parametrize("is_buffer", [False, True])
def test_the_limit(is_buffer: bool) -> None:
    """A frame of exactly the limit is made, one of a byte more is refused."""
    memory = lazily(MAX_MESSAGE_SIZE + 1)
    largest = MAX_MESSAGE_SIZE - 64 if is_buffer else MAX_MESSAGE_SIZE  # its size, and the gap to its place

    def parts(size: int) -> tuple[Sequence[Chunk], Sequence[memoryview]]:
        return ([b""], [memory[:size]]) if is_buffer else ([memory[:size]], [])

    assert body_size(*parts(largest)) == MAX_MESSAGE_SIZE
    encode(CALL, 1, *parts(largest))
    with pytest.raises(UnsendableError, match=str(MAX_MESSAGE_SIZE + 1)):
        encode(CALL, 1, *parts(largest + 1))


def test_too_many_buffers() -> None:
    """A frame with more buffers than its header can count is refused."""
    view = memoryview(b"")
    assert (
        feed(Decoder(), b"".join(encode(CALL, 1, [b""], [view] * MAX_BUFFERS)))[0][3] == [b""] * MAX_BUFFERS
    )
    with pytest.raises(UnsendableError, match="65536 buffers"):
        encode(CALL, 1, [b""], [view] * (MAX_BUFFERS + 1))


def header(length: int = 0, ident: int = 1, count: int = 0, kind: int = CALL, mark: int = 0xD1) -> bytes:
    return HEADER.pack(length, ident, count, kind, mark)


def with_sizes(*sizes: int, length: int) -> bytes:
    """A frame whose buffers claim these sizes."""
    content = b"".join(size.to_bytes(8, "little") for size in sizes)
    return header(length, count=len(sizes)) + content + bytes(length - len(content))


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(header(mark=0xD0), id="wrong mark"),
        pytest.param(header(kind=0), id="kind 0"),
        pytest.param(header(kind=max(KINDS) + 1), id="unknown kind"),
        pytest.param(header(MAX_MESSAGE_SIZE + 1), id="a byte too long"),
        pytest.param(header(2**64 - 1), id="longest length"),
        pytest.param(header(15, count=2), id="no room for the sizes"),
        pytest.param(header(count=65_535), id="sizes of nothing"),
        pytest.param(bytes(HEADER.size), id="zeros"),
        pytest.param(b"Traceback (most recent call last):", id="text"),
        pytest.param(with_sizes(1000, length=1000), id="a buffer that is too long"),
        pytest.param(with_sizes(64, 1, length=128), id="the second buffer begins at the end"),
        pytest.param(with_sizes(2**64 - 1, length=200), id="the longest buffer"),
        pytest.param(with_sizes(100_000, 100_000, length=150_000), id="too long together, in a large frame"),
    ],
)
@pytest.mark.parametrize("before", [b"", to_bytes((CALL, 1, b"good", []))], ids=["first", "after a good one"])
def test_garbage(stream: bytes, before: bytes) -> None:
    """What no isolate would write is a ProtocolError."""
    with pytest.raises(ProtocolError):
        feed(Decoder(), before + stream)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(frames, min_size=1, max_size=3),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.sampled_from("=+-")), min_size=1
    ),
    st.lists(st.integers(1, 80_000), max_size=20),
)
@example([(CALL, 1, b"", [])], [(0.9, 0, "=")], [])
def test_mutations(sent: list[Plain], mutations: list[tuple[float, int, str]], cuts: list[int]) -> None:
    """However a good stream is changed, it gives frames or raises ProtocolError, and nothing else."""
    stream = bytearray(b"".join(map(to_bytes, sent)))
    for where, value, how in mutations:
        pos = int(where * min(len(stream), 400))  # mostly where headers and sizes are
        if how == "+":
            stream.insert(pos, value)
        elif stream:
            stream[pos : pos + 1] = b"" if how == "-" else bytes([value])
    try:
        feed(Decoder(), bytes(stream), cuts)
    except ProtocolError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_noise(stream: bytes) -> None:
    """Random bytes give frames or ProtocolError, and nothing else."""
    for noise in (stream, header(len(stream), count=3) + stream):
        try:
            feed(Decoder(), noise)
        except ProtocolError:
            pass


@pytest.mark.parametrize("count", [0, 5])
def test_memory_is_taken_as_bytes_arrive(count: int) -> None:
    """A frame that claims 2 GiB takes as much memory as has arrived of it."""
    process = psutil.Process()
    before = process.memory_info().rss
    decoder = Decoder()
    feed(decoder, header(MAX_MESSAGE_SIZE, count=count))
    feed(decoder, bytes(1 << 20))
    assert process.memory_info().rss - before < 32 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is only enforced there")
def test_no_memory_for_a_frame() -> None:
    """A frame for which the system has no memory is a ProtocolError, not an error that nobody expects."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (512 << 20), limits[1]))
    try:
        with pytest.raises(ProtocolError, match="no memory for a frame of 2147483648 bytes"):
            feed(Decoder(), header(MAX_MESSAGE_SIZE))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_smaller_limit() -> None:
    """The limit can be set lower: a frame of it passes, one of a byte more does not."""
    body = pattern(1000)
    assert feed(Decoder(1000), to_bytes((CALL, 1, body, []))) == [(CALL, 1, body, [])]
    with pytest.raises(ProtocolError):
        feed(Decoder(999), to_bytes((CALL, 1, body, [])))
