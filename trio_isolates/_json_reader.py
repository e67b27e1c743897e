"""Many workers on one file of lines: its parts go out as there is room, and its values come home.

This module knows the order of the parts, and so the numbers of the lines in the whole file. What is
done with a line is the worker's business.
"""

from __future__ import annotations

# Trees are of any type:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar, cast, final

import outcome
import trio
from attrs import evolve, frozen

from ._data import Data
from ._errors import JsonError
from ._json_home import build, open_record
from ._json_lines import LineRange, count_lines, look_at_lines, parse_lines
from ._json_question import renamed
from ._map import open_map
from ._messages import RUN
from ._options import GcPolicy
from ._supervisor import Crew

T_co = TypeVar("T_co", covariant=True)

_BETWEEN_CHECKPOINTS: Final = 100  # values


@final
@frozen
class Job:
    """What `JsonPool.open_lines` was asked for. part: the whole file, as far as it is known."""

    crew: Crew
    counter: Crew
    part: LineRange
    part_bytes: int
    ordered: bool
    return_errors: bool
    gc: GcPolicy

    async def look(self) -> int:
        """Return the size of the file. Raises `OSError` or `JsonError`."""
        part = self.part
        try:
            data = await self.counter.call(RUN, (look_at_lines, (part.path, part.source)))
        except OSError as exc:
            raise renamed(exc, part.path, part.source) from None
        return int(open_record(data, int)[0])

    def parts(self, size: int) -> Iterator[LineRange]:
        for index, start in enumerate(range(0, size, self.part_bytes)):
            yield evolve(self.part, start=start, end=min(start + self.part_bytes, size), index=index)


@final
class JsonLines(Generic[T_co]):
    """The values of a file of lines, an async iterator. Get one from `JsonPool.open_lines`."""

    def __init__(self, job: Job, size: int, results: AsyncIterator[Any]) -> None:
        self._job = job
        self._size = size
        self._results = results
        self._answer: Any = None  # of a part, as far as it is built
        self._waiting: deque[outcome.Outcome[Any]] = deque()
        self._counts: dict[int, int] = {}  # lines, by the index of the part
        self._before: tuple[int, int] = (0, 0)  # an index, and the lines of all parts before it
        self._given = 0
        self._is_reading = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<trio_isolates.JsonLines {self._job.part.source!r} given={self._given}>"

    def __aiter__(self) -> JsonLines[T_co]:
        return self

    async def __anext__(self) -> T_co:
        """Return the next value. Cancelled: nothing is lost.

        Raises `trio.BusyResourceError` if another task is waiting for one, `trio.ClosedResourceError`
        after the block.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_closed:
            raise trio.ClosedResourceError("the block of these lines was left")
        if self._is_reading:
            raise trio.BusyResourceError("another task is reading these lines")
        self._is_reading = True
        try:
            await self._read()
        finally:
            self._is_reading = False
        result = self._waiting.popleft()
        self._given += 1
        if self._given % _BETWEEN_CHECKPOINTS == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return cast(T_co, result if self._job.return_errors else result.unwrap())

    async def _read(self) -> None:
        """Wait until there is a value to give."""
        while not self._waiting:
            if self._answer is None:
                self._answer = await anext(self._results)
            try:
                self._waiting = await self._take()
            except Exception:
                self._answer = None
                raise

    async def _take(self) -> deque[outcome.Outcome[Any]]:
        """Return the outcomes that a part came to, in the order of its lines.

        Cancelled: it is there to be taken again.
        """
        answer = self._answer
        if isinstance(answer, Data):
            with trio.CancelScope(shield=True):  # begun anew each time, it might never be done
                self._answer, _ = await build(answer, self._job.part.source, self._job.gc)
        record: Any = self._answer
        index, lines, failures, values = record
        if not failures or self._job.return_errors:
            self._counts[index] = lines
        before = await self._lines_before(index) if failures else 0
        self._answer = None
        found: deque[outcome.Outcome[Any]] = deque()
        done = 0
        for place, number, error in failures:
            found.extend(map(outcome.Value, values[done:place]))
            done = place
            found.append(outcome.Error(self._located(error, before + number + 1)))
        found.extend(map(outcome.Value, values[done:]))
        return found

    def _located(self, error: Any, line: int) -> Exception:
        if isinstance(error, JsonError):
            error = list(error.args)
        if isinstance(error, list):
            fields: list[Any] = error
            fields[JsonError.FIELDS.index("line")] = line
            return JsonError(*fields)
        error.add_note(f"for line {line} of {self._job.part.source}")
        found: Exception = error
        return found

    async def _lines_before(self, index: int) -> int:
        """Return how many lines are before a part, and have those counted of which nothing is known yet."""
        at, lines = self._before
        if at > index:
            at, lines = 0, 0
        job, size = self._job, self._job.part_bytes
        while at < index:
            if at not in self._counts:
                part = at * size, min((at + 1) * size, self._size)
                data = await job.counter.call(RUN, (count_lines, (job.part.path, *part)))
                (self._counts[at],) = open_record(data, int)
            lines += self._counts[at]
            at += 1
        self._before = at, lines
        return lines


@asynccontextmanager
async def open_lines(job: Job) -> AsyncGenerator[JsonLines[Any], None]:
    """Read a file of lines for the length of a block."""
    size = await job.look()
    async with open_map(
        job.crew,
        job.parts(size),
        parse_lines,
        ordered=job.ordered,
        max_pending=2 * max(1, job.crew.posts.size),
        return_errors=False,
        progress=None,
    ) as results:
        lines: JsonLines[Any] = JsonLines(job, size, results)
        try:
            yield lines
        finally:
            lines._is_closed = True  # pyright: ignore[reportPrivateUsage]
