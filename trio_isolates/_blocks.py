"""From the bytes that isolates have written down to their notes: what makes no sense is left out.

An isolate may be corrupt, or killed in the middle of a word. This module does not know what the notes
mean.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from typing import Any, NoReturn, cast

from attrs import frozen

from ._notes import HEAD, MARK, NUMBERS, TEXT, WIDTH, Note


@frozen
class Block:
    """What one isolate has written at one time: notes, or one with more words."""

    path: bytes
    notes: list[Note]
    text: dict[str, Any] | None


def blocks(data: bytes) -> Iterator[Block]:
    """Give what was written, in that order. What makes no sense is left out: an isolate may be corrupt."""
    start = data.find(MARK)
    while 0 <= start <= len(data) - HEAD.size:
        _, kind, path_length, length = HEAD.unpack_from(data, start)
        middle = start + HEAD.size + path_length
        end = middle + length
        if end > len(data) or (end < len(data) and data[end : end + len(MARK)] != MARK):
            start = data.find(MARK, start + 1)  # its writer was killed in the middle of it
            continue
        path, body = data[middle - path_length : middle], data[middle:end]
        with suppress(ValueError, OverflowError, RecursionError):
            if kind == TEXT:
                text = json.loads(body, parse_constant=_refuse)
                if isinstance(text, dict):
                    yield Block(path, [], cast("dict[str, Any]", text))
            elif kind == NUMBERS:
                yield Block(path, list(_notes(array("d", body))), None)
        start = end


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _notes(numbers: array[float]) -> Iterator[Note]:
    for place in range(0, len(numbers) - WIDTH + 1, WIDTH):
        now, what, ident, about = numbers[place : place + WIDTH]
        if all(map(isfinite, (now, what, ident, about))):
            yield now, int(what), int(ident), about
