"""`JsonPool`: JSON documents through isolates, and what is asked for of them home.

Plain trees come from isolates of which nothing is ever unpickled here; what functions and types of the
caller make comes, as any result, from others, which are started when they are first needed. This
module knows which question goes to which of the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NoReturn, TypeVar, final, overload

import attrs
import trio
from attrs import frozen

from ._data import Data
from ._errors import UnsendableError, rename_path
from ._json_decode import Decoder, DecoderName
from ._json_document import JsonDocument, Residents
from ._json_home import build
from ._json_lines import LineRange
from ._json_place import Text
from ._json_question import how as make_how
from ._json_question import paths, renamed, sendable
from ._json_reader import Job, JsonLines, open_lines
from ._json_shape import Shape, make_shape
from ._messages import CALL
from ._options import GcPolicy, check_positive
from ._statistics import PoolStatistics, pool_statistics
from ._supervisor import Crew

T = TypeVar("T")
R = TypeVar("R")

_MIB: Final = 1 << 20


@frozen
class JsonPoolStatistics(PoolStatistics):
    """What became of a JSON pool's questions. As `PoolStatistics`, of the isolates that are data-only, and:

    Attributes:
        decoder: what decodes: "msgspec, else stdlib" for "auto"; else the name that was given.
        documents: how many documents came home, whole or in part, the loaded ones included.
        bytes: of how many bytes of text they were made, after decompression. Files of lines count neither.
        resident: documents that are loaded now.
        typed: the isolates that serve calls with transform=, type= or reduce=.
    """

    decoder: str
    documents: int
    bytes: int
    resident: int
    typed: PoolStatistics


@final
class JsonPool:
    """Isolates that parse JSON. Get one from `open_json_pool`; they live as long as that block."""

    def __init__(self, plain: Crew, typed: Crew, decoder: DecoderName, max_bytes: int) -> None:
        self._plain = plain
        self._typed = typed
        self._decoder = Decoder(decoder)
        self._max_bytes = max_bytes
        self._gc: GcPolicy = plain.options.gc
        self._residents = Residents(self._ask_plain, plain.dispatch.forget, self._gc)
        self._documents = 0
        self._bytes = 0

    def __reduce__(self) -> NoReturn:
        raise TypeError("a JsonPool cannot be sent: it stays with the block that opened it")

    def __repr__(self) -> str:
        return f"<trio_isolates.JsonPool {self.name!r} workers={len(self._plain.clients)}>"

    @property
    def name(self) -> str:
        """The pool's name, as given to `open_json_pool` or made up by it."""
        return self._plain.options.spec.name

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the isolates that can serve now, the data-only ones first."""
        clients = [*self._plain.clients, *self._typed.clients]
        return tuple(client.isolate.pid for client in clients if client.isolate.pid is not None)

    # One document.

    @overload
    async def parse(
        self,
        text: Text,
        *,
        type: type[T],
        source: str = ...,
        retries: int = ...,
        priority: float = ...,
    ) -> T: ...
    @overload
    async def parse(
        self,
        text: Text,
        *,
        transform: Callable[[Any], R],
        source: str = ...,
        retries: int = ...,
        priority: float = ...,
    ) -> R: ...
    @overload
    async def parse(
        self,
        text: Text,
        *,
        select: str | None = ...,
        transform: Callable[[Any], Any] | None = ...,
        type: Any = ...,
        source: str = ...,
        retries: int = ...,
        priority: float = ...,
    ) -> Any: ...
    async def parse(
        self,
        text: Text,
        *,
        select: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        type: Any = None,
        source: str = "<json>",
        retries: int = 0,
        priority: float = 0,
    ) -> Any:
        """Parse a text in the isolate with the least to do; return the tree, or what is asked for of it.

        Args:
            text: JSON as str, bytes, bytearray or memoryview. Bytes may be UTF-8, -16 or -32, as for
                `json.loads`. It must not change until the call has returned.
            select: a JMESPath expression: what it selects is returned. Needs jmespath.
            transform: a function that is called with the tree, there: what it returns is returned.
            type: an attrs class, dataclass, msgspec.Struct, TypedDict, or `list[...]` and so on of them: a
                value of that type is returned, validated by msgspec. Of attrs classes the validators
                and `__attrs_post_init__` are called, the converters are not.
            source: what errors call the text.
            retries, priority: as for `Pool.call`.

        Raises `JsonError` for a text that is no JSON, is larger than `max_bytes`, nested too deeply or
        not of the type; `ValueError` for an expression that does not fit the document; what transform
        and the code of the type raise; `IsolateDied`. Cancelled: as `Pool.call`.
        """
        shape = make_shape(select, transform, type)
        return await self._answer(
            "parse", (sendable(text), source), shape, source, make_how(retries, priority)
        )

    @overload
    async def parse_file(
        self,
        path: str | os.PathLike[str],
        *,
        type: type[T],
        retries: int = ...,
        priority: float = ...,
    ) -> T: ...
    @overload
    async def parse_file(
        self,
        path: str | os.PathLike[str],
        *,
        transform: Callable[[Any], R],
        retries: int = ...,
        priority: float = ...,
    ) -> R: ...
    @overload
    async def parse_file(
        self,
        path: str | os.PathLike[str],
        *,
        select: str | None = ...,
        transform: Callable[[Any], Any] | None = ...,
        type: Any = ...,
        retries: int = ...,
        priority: float = ...,
    ) -> Any: ...
    async def parse_file(
        self,
        path: str | os.PathLike[str],
        *,
        select: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        type: Any = None,
        retries: int = 0,
        priority: float = 0,
    ) -> Any:
        """Parse a file, which the isolate reads. As `parse`, and:

        What is compressed by gzip or Zstandard, by its first bytes, is decompressed, up to `max_bytes`
        (Zstandard needs Python 3.14, or one of the packages backports.zstd and zstandard; else
        `ImportError`). Large files are mapped, so they must not be cut short meanwhile. Raises the
        `OSError` that opening the file raises.
        """
        shape = make_shape(select, transform, type)
        shown, absolute = paths(path)
        try:
            return await self._answer(
                "parse_file", (absolute, shown), shape, shown, make_how(retries, priority)
            )
        except OSError as exc:
            raise renamed(exc, absolute, shown) from None

    async def _answer(
        self, question: str, about: tuple[Any, ...], shape: Shape, source: str, how: dict[str, Any]
    ) -> Any:
        if shape.is_plain:
            data = await self._plain.call(CALL, (question, *about, shape), **how)
            value, size = await build(data, source, self._gc)
        else:
            try:
                size, value = await self._typed.call(CALL, (question, *about, shape), **how)
            except UnsendableError as exc:
                for name in ("transform", "type"):
                    rename_path(exc, f"args[{len(about)}].{name}", name)
                raise
        self._documents += 1
        self._bytes += size
        return value

    async def _ask_plain(self, question: str, *args: Any, key: Hashable) -> Data:
        data: Data = await self._plain.call(CALL, (question, *args), key=key)
        return data

    async def dumps(self, obj: Any, *, retries: int = 0, priority: float = 0) -> bytes:
        """Return an object as JSON in UTF-8, without spaces, encoded in the isolate with the least to do.

        "auto" and "stdlib" encode as `json.dumps(obj, ensure_ascii=False, separators=(",", ":"))` does
        (half surrogate pairs, which UTF-8 cannot hold, are escaped), "msgspec" and "orjson" as these do.
        The object is pickled here first, which takes this loop about as long as orjson would need for
        the whole. Raises what the encoder raises.
        """
        data: Data = await self._plain.call(CALL, ("dumps", obj), **make_how(retries, priority))
        return data.head

    # Many lines.

    @overload
    def open_lines(
        self,
        path: str | os.PathLike[str],
        *,
        select: str | None = ...,
        transform: Callable[[Any], Any] | None = ...,
        type: Any = ...,
        reduce: Callable[[list[Any]], R],
        ordered: bool = ...,
        part_bytes: int = ...,
    ) -> AbstractAsyncContextManager[JsonLines[R]]: ...
    @overload
    def open_lines(
        self, path: str | os.PathLike[str], *, type: type[T], ordered: bool = ..., part_bytes: int = ...
    ) -> AbstractAsyncContextManager[JsonLines[T]]: ...
    @overload
    def open_lines(
        self,
        path: str | os.PathLike[str],
        *,
        transform: Callable[[Any], R],
        ordered: bool = ...,
        part_bytes: int = ...,
    ) -> AbstractAsyncContextManager[JsonLines[R]]: ...
    @overload
    def open_lines(
        self,
        path: str | os.PathLike[str],
        *,
        select: str | None = ...,
        transform: Callable[[Any], Any] | None = ...,
        type: Any = ...,
        reduce: Callable[[list[Any]], Any] | None = ...,
        ordered: bool = ...,
        return_errors: bool = ...,
        part_bytes: int = ...,
    ) -> AbstractAsyncContextManager[JsonLines[Any]]: ...
    def open_lines(
        self,
        path: str | os.PathLike[str],
        *,
        select: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        type: Any = None,
        reduce: Callable[[list[Any]], Any] | None = None,
        ordered: bool = True,
        return_errors: bool = False,
        part_bytes: int = _MIB,
    ) -> AbstractAsyncContextManager[JsonLines[Any]]:
        """Parse a file with a JSON document on each line, with all isolates at once.

            async with pool.open_lines("log.ndjson", select="user") as lines:
                async for value in lines: ...

        The file is split at line ends; two parts for each isolate are on their way at a time, so the memory
        that it takes is bounded, whatever the size of the file. Blank lines are skipped.

        Args:
            path: the file, as large as it is now. It must not be compressed.
            select, transform, type: as for `parse`, of each line.
            reduce: a function that is called, there, with the list of all values of a part, in their
                order: what it returns is given instead of them. For sums, filters, tables.
            ordered: give the values in the order of the lines; else part by part as they are ready.
            return_errors: give `outcome.Value(value)` or `outcome.Error(exception)` for each line,
                instead of raising the first error. With reduce: the errors of a part, then its value.
            part_bytes: how large a part is.

        Entering raises `OSError` and `JsonError` for what is no file of lines. Iteration raises what
        `parse` raises; the line and the offset of a `JsonError` are those in the whole file, and other
        errors have a note that names the line. max_bytes is the limit for a line. Leaving the block
        early stops what is in flight, before the block is left.
        """
        shape = make_shape(select, transform, type)
        if reduce is not None and not callable(reduce):
            raise TypeError(f"reduce= must be callable, not {reduce!r}")
        check_positive("part_bytes", part_bytes)
        shown, absolute = paths(path)
        part = LineRange(
            absolute, shown, 0, 0, 0, shape, reduce, self._decoder.name, self._max_bytes, return_errors
        )
        crew = self._plain if part.is_plain else self._typed
        return open_lines(Job(crew, self._plain, part, part_bytes, ordered, return_errors, self._gc))

    # Documents that stay.

    async def load(self, source: str | os.PathLike[str] | bytes | bytearray | memoryview) -> JsonDocument:
        """Have a document parsed and kept by one isolate, which then answers questions about it.

        It is kept until it is closed (`aclose`, or as an `async with` block), or the pool is.

        source: the path of a file, or the text itself, as bytes. Raises as `parse` and `parse_file`.
        Cancelled: nothing is kept that could be asked for.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            document = await self._residents.load(sendable(source), "", "<json>")
        else:
            shown, absolute = paths(source)
            try:
                document = await self._residents.load(None, absolute, shown)
            except OSError as exc:
                raise renamed(exc, absolute, shown) from None
        self._documents += 1
        self._bytes += document.size
        return document

    # The end.

    async def drain(self) -> None:
        """Wait until no question is in line or in flight. The pool stays open."""
        self._plain.check_run()
        await trio.lowlevel.checkpoint()
        await self._plain.dispatch.wait_idle()
        await self._typed.dispatch.wait_idle()

    def close(self) -> None:
        """Take no new questions: they raise `trio.ClosedResourceError`. Those in flight go on."""
        self._plain.close()
        self._typed.close()

    async def aclose(self) -> None:
        """Close, wait for what is in flight, end the isolates. Cancelled: they are killed."""
        self.close()
        try:
            await self._plain.aclose()
            await self._typed.aclose()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End every isolate at once. Questions in flight raise `IsolateDied`, later ones as if closed."""
        self._plain.kill()
        self._typed.kill()

    def statistics(self) -> JsonPoolStatistics:
        """Return a record of what became of the questions so far."""
        return JsonPoolStatistics(
            **attrs.asdict(pool_statistics(self._plain), recurse=False),
            decoder=self._decoder.title,
            documents=self._documents,
            bytes=self._bytes,
            resident=len(self._residents.documents),
            typed=pool_statistics(self._typed),
        )
