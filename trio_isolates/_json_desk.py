"""What a worker of a JSON pool does: documents in, answers out, and those that it keeps.

A `Desk` is the state of one worker; what it answers is a plain tree in pieces, or any value where the
pool has asked for one. It knows files and texts, and does not know who asks.
"""

from __future__ import annotations

# Trees are of any type:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
import gc
import json
import struct
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, final

from ._data import Parcel
from ._errors import JsonError
from ._json_decode import Decoder, DecoderName, import_msgspec, import_orjson
from ._json_pieces import PIECE, cut
from ._json_place import Text
from ._json_shape import Shape, search
from ._json_source import reading, too_large
from ._selection import to_json

SIZE: Final = struct.Struct("<Q")
"""Bytes of the document, before an answer that is a tree."""

GONE: Final = b"gone"
"""The answer about a document that is not kept here."""


@contextmanager
def collector_off() -> Generator[None, None, None]:
    """Hold the cyclic collector off: trees have no cycles, and to look for them takes as long again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def pack(tree: Any, source: str, size: int = 0) -> Parcel:
    """Return a tree ready to travel. Raises `JsonError`, or `ValueError` if it is no plain tree."""
    try:
        head, pieces = cut(tree)
    except RecursionError:
        raise JsonError("nested too deeply to be sent", source) from None
    except TypeError as exc:
        raise ValueError(f"{source}: {exc}") from None
    return Parcel(SIZE.pack(size) + head, pieces)


@final
class Desk:
    """The worker's side. Each method answers one question."""

    def __init__(self, decoder: DecoderName, max_bytes: int) -> None:
        self._decoder = Decoder(decoder)
        self._limit = max_bytes
        self._kept: dict[int, Any] = {}

    # Documents that go through.

    def parse(self, text: Text, source: str, shape: Shape) -> Any:
        """Parse a text."""
        with collector_off():
            size = self._size(text, source)
            return self._answer(shape.apply(self._decoder, text, source), size, source, shape)

    def parse_file(self, path: str, source: str, shape: Shape) -> Any:
        """Parse a file."""
        with collector_off():
            with reading(path, source, self._limit) as text:
                size = len(text)
                value = shape.apply(self._decoder, text, source)
            return self._answer(value, size, source, shape)

    def _size(self, text: Text, source: str) -> int:
        size = len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else len(text)
        if size > self._limit:
            raise too_large(source, self._limit)
        return size

    def _answer(self, value: Any, size: int, source: str, shape: Shape) -> Any:
        return pack(value, source, size) if shape.is_plain else (size, value)

    def dumps(self, obj: Any) -> bytes:
        """Return an object as JSON."""
        if self._decoder.name == "orjson":
            text: bytes = import_orjson().dumps(obj)
        elif self._decoder.name == "msgspec":
            text = import_msgspec().json.encode(obj)
        else:
            text = to_json(obj)
        return text

    # Documents that stay.

    def load(self, number: int, text: Text | None, path: str, source: str) -> bytes:
        """Keep a document under a number; text: None, if it is a file's."""
        with collector_off():
            if text is None:
                with reading(path, source, self._limit) as content:
                    size, tree = len(content), self._decoder.decode(content, source)
            else:
                size = self._size(text, source)
                tree = self._decoder.decode(text, source)
            self._kept[number] = tree
        kind = type(tree).__name__
        return json.dumps([size, kind, len(tree) if kind in ("dict", "list", "str") else None]).encode()

    def select(self, number: int, expression: str) -> Any:
        """Return what an expression selects from a document that is kept here."""
        if number not in self._kept:
            return GONE
        with collector_off():
            return pack(search(expression, self._kept[number]), "the selected value")

    def page(self, number: int, first: int) -> Any:
        """Return items of a list, or keys of an object, from one on: about a piece, and at least one."""
        if number not in self._kept:
            return GONE
        with collector_off():
            return pack(_page(self._kept[number], first), "the items")

    def forget(self, number: int) -> bytes:
        """Let go of a document."""
        self._kept.pop(number, None)
        return b""


def _page(tree: Any, first: int) -> list[Any]:
    if isinstance(tree, list):
        items: list[Any] = tree
        page: list[Any] = []
        size, count = 0, 1
        while size < PIECE and (some := items[first : first + count]):
            page += some
            first += len(some)
            size += sum(map(len, _encoded(some)))
            count *= 2
        return page
    if isinstance(tree, dict):
        keys: dict[str, Any] = tree
        return list(islice(keys, first, first + PIECE // 32))
    raise TypeError(f"it is a {type(tree).__name__}, and has no items")


def _encoded(part: list[Any]) -> list[bytes]:
    head, pieces = cut(part)
    return [head, *pieces]
