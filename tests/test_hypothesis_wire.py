"""Frames that somebody has tampered with: all is frames or a ProtocolError, and memory is bounded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from trio_isolates import ProtocolError, _wire
from trio_isolates._messages import KINDS
from trio_isolates._wire import HEADER, READ_SIZE, Decoder, encode

LIMIT = 300_000
"""The largest message of these decoders: more than is read at once, less than tampering announces."""
SPARE = 64 << 10
"""Bytes for the objects around the messages."""

SIZES = st.one_of(st.integers(0, 80), st.sampled_from([4096, READ_SIZE - 16, READ_SIZE, 131_072, 200_000]))
# What a length or a size may be made to say.
NUMBERS = st.one_of(
    st.integers(0, 300),
    st.sampled_from([LIMIT - 1, LIMIT, LIMIT + 1, 2**31, 2**32, 2**63, 2**64 - 1, 2**64 - 64]),
    st.integers(0, 2**64 - 1),
)
FIELDS = {"length": (0, 8), "ident": (8, 8), "count": (16, 2), "kind": (18, 1), "mark": (19, 1)}


@st.composite
def frames(draw: st.DrawFn) -> bytearray:
    """A good frame, and then one of its fields, or the size of a buffer, says something else."""
    kind, ident = draw(st.sampled_from(sorted(KINDS))), draw(st.integers(0, 2**64 - 1))
    body = bytes(draw(SIZES))
    buffers = [memoryview(bytes(draw(SIZES))) for _ in range(draw(st.integers(0, 3)))]
    frame = bytearray(b"".join(encode(kind, ident, [body], buffers)))
    places = [*FIELDS.values(), *((HEADER.size + 8 * number, 8) for number in range(len(buffers)))]
    if draw(st.booleans()):
        place, width = draw(st.sampled_from(places))
        number = draw(NUMBERS) % 256**width
        frame[place : place + width] = number.to_bytes(width, "little")
    return frame


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames, some tampered with; cut off, doubled, glued or swapped."""
    parts = draw(st.lists(frames(), min_size=1, max_size=4))
    match draw(st.sampled_from(["whole", "cut", "doubled", "a hole", "swapped"])):
        case "cut":
            parts[-1] = parts[-1][: draw(st.integers(0, len(parts[-1])))]
        case "doubled":
            parts.insert(0, parts[-1])
        case "a hole":
            part = draw(st.sampled_from(parts))
            start = draw(st.integers(0, min(len(part), 100)))
            del part[start : start + draw(st.integers(1, 70))]
        case "swapped":
            parts.reverse()
    return b"".join(parts)


@contextmanager
def watched(limit: int) -> Iterator[list[int]]:
    """See to it that nobody asks for more memory than a message may have; give the sizes asked for."""
    asked: list[int] = []
    plain = _wire._memory

    def memory(length: int) -> memoryview:
        asked.append(length)
        assert length <= limit, f"{length} bytes asked for, the limit is {limit}"
        return plain(length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_wire, "_memory", memory)
        yield asked


def feed(decoder: Decoder, stream: bytes, cuts: list[int]) -> int:
    """Give the stream in reads of these sizes, then of any; return how many bytes came out in frames."""
    came_out, pos, sizes = 0, 0, iter(cuts)
    while pos < len(stream):
        memory = decoder.buffer()
        assert 0 < len(memory) <= max(LIMIT, READ_SIZE)
        count = min(next(sizes, len(stream)), len(memory), len(stream) - pos)
        memory[:count] = stream[pos : pos + count]
        pos += count
        for kind, ident, body, buffers in decoder.received(count):
            assert kind in KINDS and 0 <= ident < 2**64
            size = len(body) + sum(map(len, buffers))
            assert size <= LIMIT
            came_out += size
    return came_out


@settings(max_examples=400, deadline=None, derandomize=True)
@given(streams(), st.lists(st.integers(1, 70_000), max_size=12))
def test_tampered_frames(stream: bytes, cuts: list[int]) -> None:
    """It is frames of no more bytes than came, or a ProtocolError, and no memory beyond the limit."""
    decoder = Decoder(LIMIT)
    with watched(LIMIT) as asked:
        tracemalloc.start()
        try:
            assert feed(decoder, stream, cuts) <= len(stream)
            event("frames")
        except ProtocolError:
            event("refused")
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    event(f"large messages begun: {len(asked)}")
    # A read's worth at a time, a message that is being taken apart, and the frame that holds it.
    assert peak <= 2 * READ_SIZE + 2 * LIMIT + SPARE


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**8 - 1), min_size=HEADER.size, max_size=HEADER.size).map(bytes), NUMBERS)
def test_a_header_that_says_anything(header: bytes, length: int) -> None:
    """A header of noise, or of any length, is refused or takes no more than a message may."""
    announced = length.to_bytes(8, "little")
    good = encode(1, 1, [b""])[0]
    for stream in (header, announced + header[8:], announced + bytes(good)[8:]):
        decoder = Decoder(LIMIT)
        with watched(LIMIT):
            try:
                decoder.buffer()[: len(stream)] = stream
                assert decoder.received(len(stream)) == [] or length == 0
            except ProtocolError:
                continue
            assert len(decoder.buffer()) <= max(LIMIT, READ_SIZE)
