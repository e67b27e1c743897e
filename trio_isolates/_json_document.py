"""A document that stays in its worker and answers questions.

It knows how to have it loaded again when its worker is gone. It does not know how it is parsed.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import Any, NoReturn, Protocol, final

import trio
from attrs import define, field

from ._data import Data
from ._errors import IsolateError
from ._json_desk import GONE
from ._json_home import build, open_record
from ._json_place import Text
from ._json_shape import check_select
from ._options import GcPolicy


class Asks(Protocol):
    """How a question gets to the worker that has the document."""

    async def __call__(self, question: str, *args: Any, key: Hashable) -> Data: ...


@define(eq=False)
class Residents:
    """The documents of a pool that are loaded now.

    ask: asks a worker. forget: is told of a key with which nobody will ask again. gc: the pool's policy.
    """

    ask: Asks
    forget: Callable[[Hashable], None]
    gc: GcPolicy
    documents: dict[int, JsonDocument] = field(factory=dict[int, "JsonDocument"])
    last: int = 0

    async def load(self, text: Text | None, path: str, source: str) -> JsonDocument:
        """Load one. Raises as `JsonPool.load`."""
        self.last += 1
        document = JsonDocument(self, self.last, text is None, path, source)
        try:
            await document._load(text)  # pyright: ignore[reportPrivateUsage]
        except BaseException:
            self.forget(document._key)  # pyright: ignore[reportPrivateUsage]
            raise
        self.documents[document.number] = document
        return document


@final
class JsonDocument:
    """A document that a worker of a JSON pool keeps. Get one from `JsonPool.load`.

    `len(document)` is the number of its items, keys or characters. `async for` gives the items of an
    array, or the keys of an object, which are fetched a page at a time. It is also an `async with`
    block, which closes it.

    When its worker is gone (dead, relieved, or ended as there was nothing to do), the next question has
    a document that came from a file loaded again, by any worker, if the file has still the same size
    and time of modification. Else that question, and each after it, raises `trio.BrokenResourceError`.

    Attributes:
        source: the path, or "<json>" for a text.
        size: bytes of its text, after decompression.
        kind: what it is in Python: "dict", "list", "str", "int", "float", "bool" or "NoneType".
    """

    def __init__(self, residents: Residents, number: int, is_file: bool, path: str, source: str) -> None:
        self.number = number
        self.source = source
        self.size = 0
        self.kind = ""
        self._residents = residents
        self._is_file = is_file
        self._path = path
        self._key = ("json document", number)
        self._stamp: tuple[int, int] | None = None
        self._length: int | None = None
        self._loads = 0
        self._loading = trio.Lock()
        self._is_closed = False

    def __reduce__(self) -> NoReturn:
        raise TypeError("a JsonDocument cannot be sent: it stays with its pool")

    def __repr__(self) -> str:
        return f"<trio_isolates.JsonDocument {self.source!r} {self.kind}, {self.size} bytes>"

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError(f"{self.source!r} is a {self.kind}, and has no length")
        return self._length

    def __bool__(self) -> bool:
        return True

    async def _load(self, text: Text | None) -> None:
        if self._is_file:
            self._stamp = await _stamp(self._path)
        data = await self._residents.ask("load", self.number, text, self._path, self.source, key=self._key)
        self.size, self.kind, self._length = open_record(data, int, str, (int, type(None)))
        self._loads += 1

    async def _reload(self, loads: int) -> None:
        """Have it loaded again, unless that was done since."""
        async with self._loading:
            if self._loads != loads:
                return
            if not self._is_file:
                raise self._broken("it was not loaded from a file")
            try:
                stamp = await _stamp(self._path)
            except OSError as exc:
                raise self._broken(f"its file cannot be read any more: {exc}") from exc
            if stamp != self._stamp:
                raise self._broken("its file has changed since")
            await self._load(None)

    def _broken(self, why: str) -> trio.BrokenResourceError:
        return trio.BrokenResourceError(f"the worker that kept {self.source!r} is gone, and {why}")

    async def _ask(self, question: str, *args: Any) -> Any:
        """Have a question answered, after having loaded it again if need be."""
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError(f"the document {self.source!r} is closed")
            loads = self._loads
            data = await self._residents.ask(question, self.number, *args, key=self._key)
            if data.head != GONE:
                return (await build(data, self.source, self._residents.gc))[0]
            await self._reload(loads)

    async def get(self, expression: str) -> Any:
        """Return what a JMESPath expression selects from it; `get("@")` is the whole tree.

        Raises `ValueError` for what is no expression, or does not fit this document; `IsolateDied` if
        the worker died of this question, and otherwise as said of the class.
        `trio.ClosedResourceError`: it is closed, or its pool is. Cancelled: the document stays.
        """
        check_select(expression)
        return await self._ask("select", expression)

    async def keys(self) -> list[str]:
        """Return the keys of the object, in their order. `TypeError` if it is none. Else as `get`."""
        if self.kind != "dict":
            raise TypeError(f"{self.source!r} is a {self.kind}, and has no keys")
        return [key async for key in self._pages()]

    async def length(self) -> int:
        """Return `len(document)`, for those who expect to await it."""
        await trio.lowlevel.checkpoint()
        return len(self)

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        if self.kind not in ("dict", "list"):
            raise TypeError(f"{self.source!r} is a {self.kind}, and has no items")
        return self._pages()

    async def _pages(self) -> AsyncGenerator[Any, None]:
        first = 0
        while first < len(self):
            page = await self._ask("page", first)
            if not page:
                return
            first += len(page)
            for item in page:
                yield item

    async def __aenter__(self) -> JsonDocument:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Have its worker let go of it; later questions raise `trio.ClosedResourceError`.

        Returns when that is done. Cancelled: it is closed, and its memory is given back with its worker.
        """
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            return
        self._is_closed = True
        self._residents.documents.pop(self.number, None)
        try:
            await self._residents.ask("forget", self.number, key=self._key)
        except (trio.ClosedResourceError, IsolateError):
            pass  # it is gone already
        finally:
            self._residents.forget(self._key)


async def _stamp(path: str) -> tuple[int, int]:
    status = await trio.to_thread.run_sync(os.stat, path)
    return status.st_mtime_ns, status.st_size
