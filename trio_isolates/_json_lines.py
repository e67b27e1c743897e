"""A file of lines, each a JSON document, to the values of a part of it. This runs in the workers.

A part is a range of bytes; to it belong the lines that begin in it. This module finds those lines
without reading what is before them, and so knows their numbers only within the part.
"""

from __future__ import annotations

import codecs
import json
import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO, Final, TypeAlias, final

from attrs import frozen

from ._errors import JsonError, RemoteError
from ._json_decode import Decoder, DecoderName
from ._json_desk import collector_off, pack
from ._json_shape import Shape
from ._json_source import check_regular, compression, too_large
from ._unsendable import try_str, type_name

_CHUNK: Final = 1 << 16

Failure: TypeAlias = tuple[int, int, Any]
"""Of a line: how many values are before it, its number within the part from 0, the error."""


@final
@frozen(repr=False)
class LineRange:
    """A part of a file, and what is to become of its lines. reduce: makes one value of all its values."""

    path: str
    source: str
    start: int
    end: int
    index: int
    shape: Shape
    reduce: Callable[[list[Any]], Any] | None
    decoder: DecoderName
    max_bytes: int
    keep_errors: bool

    def __repr__(self) -> str:
        return f"{self.source}, bytes {self.start} to {self.end}"

    @property
    def is_plain(self) -> bool:
        return self.shape.is_plain and self.reduce is None


def look_at_lines(path: str, source: str) -> bytes:
    """Return how many bytes of lines there are. Raises `OSError` or `JsonError`."""
    if not os.path.isdir(path):  # of which `open` says best what is wrong
        check_regular(path, source)
    with open(path, "rb") as file:  # what cannot be read is said here
        size = os.fstat(file.fileno()).st_size
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # which begin those of UTF-32, too
            raise JsonError("text that is not UTF-8 cannot be split at line ends: convert it first", source)
    if (found := compression(path)) is not None:
        raise JsonError(f"{found} data cannot be split at line ends: decompress it first", source)
    return json.dumps([size]).encode()


def count_lines(path: str, start: int, end: int) -> bytes:
    """Return how many lines begin in this range of bytes."""
    count, position = (1, 0) if start == 0 else (0, start - 1)
    with open(path, "rb") as file:
        file.seek(position)
        while position < end - 1 and (chunk := file.read(min(_CHUNK, end - 1 - position))):
            count += chunk.count(b"\n")
            position += len(chunk)
    return json.dumps([count]).encode()


def parse_lines(part: LineRange) -> Any:
    """Return the part's index, the number of its lines, the failures and the values."""
    with collector_off():
        data, first = _read(part)
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        may_be_long, count = len(data) > part.max_bytes, len(lines)
        del data
        failures: list[Failure] = []
        values = None if may_be_long else _parse_all(part, lines)
        if values is None:
            values, failures = _parse_each(part, lines, first)
        del lines  # not to be in the way of what comes next
        return _answer(part, count, failures, values)


def _answer(part: LineRange, count: int, failures: list[Failure], values: list[Any]) -> Any:
    if part.reduce is not None and count and (part.keep_errors or not failures):
        values = [part.reduce(values)]
        failures = [(0, number, error) for _, number, error in failures]
    answer = [part.index, count, failures, values]
    return pack(answer, part.source) if part.is_plain else answer


def _read(part: LineRange) -> tuple[bytes, int]:
    """Return the bytes of the lines that begin in the part, and where the first of them does."""
    start = part.start
    with open(part.path, "rb") as file:
        if os.fstat(file.fileno()).st_size < part.end:
            raise JsonError("it has become shorter while it was read", part.source)
        if start:
            start = _next_line(file, start - 1, part.end)
        if start >= part.end:
            return b"", part.end
        file.seek(start)
        data = file.read(part.end - start)
        if data.endswith(b"\n"):
            return data, start
        begun = len(data) - (data.rfind(b"\n") + 1)
        # One byte more than a line may have: `_parse_each` says so, of that line.
        rest = file.readline(max(1, part.max_bytes + 2 - begun))
    return data + rest, start


def _next_line(file: BinaryIO, position: int, end: int) -> int:
    """Return where the first line begins behind a line end at or after a position."""
    file.seek(position)
    while position < end and (some := file.readline(min(_CHUNK, end - position))):
        position += len(some)
        if some.endswith(b"\n"):
            return position
    return end


def _parse_all(part: LineRange, lines: list[bytes]) -> list[Any] | None:
    """Return the values of the lines, the fast way; None if one is blank, bad, or for the slow way."""
    decoder, shape = Decoder(part.decoder), part.shape
    if shape.type is not None:
        fast = decoder.typed(shape.type) if part.decoder in ("auto", "msgspec") else None
    else:
        fast = decoder.plain() if shape.select is None and shape.transform is None else None
    try:
        return None if fast is None else list(map(fast, lines))
    except MemoryError:
        raise
    except Exception:
        return None


def _parse_each(part: LineRange, lines: list[bytes], first: int) -> tuple[list[Any], list[Failure]]:
    decoder, shape = Decoder(part.decoder), part.shape
    values: list[Any] = []
    failures: list[Failure] = []
    offset = first
    for number, line in enumerate(lines):
        if line and not line.isspace():
            try:
                if len(line) > part.max_bytes:
                    raise too_large(part.source, part.max_bytes)
                values.append(shape.apply(decoder, line, part.source))
            except Exception as exc:
                failures.append((len(values), number, _portable(part, exc, offset)))
                if not part.keep_errors:
                    break
        offset += len(line) + 1
    return values, failures


def _portable(part: LineRange, exc: Exception, offset: int) -> Any:
    """Return the error of a line as it can travel: its place in the file is the line's, or after that."""
    if type(exc) is not JsonError:
        if part.is_plain:  # an expression that does not fit
            exc = JsonError(try_str(exc), part.source)
        else:
            try:
                pickle.dumps(exc)
            except Exception:
                return RemoteError(type_name(exc), try_str(exc))
            exc.add_note("Remote traceback:\n" + "".join(traceback.format_exception(exc)).rstrip())
            return exc.with_traceback(None)
    fields = [getattr(exc, name) for name in JsonError.FIELDS]
    fields[JsonError.FIELDS.index("offset")] = offset + (exc.offset or 0)
    return fields if part.is_plain else JsonError(*fields)
