"""Files with a document on each line, through many workers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import outcome
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import contract
import json_handlers as work
from contract import those_with
from fifo import within
from test_cancelled_anywhere import CancelAt
from trio_isolates import IsolateDied, JsonError, JsonPool, Restart, _json_lines, open_json_pool
from trio_isolates._json_lines import LineRange, count_lines, parse_lines
from trio_isolates._json_shape import Shape

kind = contract.kind
pytestmark = pytest.mark.usefixtures("kind")

COUNT = 300


def write(path: Path, lines: list[str], *, last: str = "\n") -> Path:
    path.write_text("\n".join(lines) + last)
    return path


def rows(path: Path) -> Path:
    return write(path, [json.dumps({"i": i, "text": "x" * (i % 50)}) for i in range(COUNT)])


async def read(pool: JsonPool, path: Path, **options: Any) -> list[Any]:
    async with pool.open_lines(path, **options) as lines:
        return [value async for value in lines]


@pytest.mark.parametrize("part_bytes", [1, 7, 100, 1000, 1 << 20])
@within(30)
async def test_every_line_once(part_bytes: int, tmp_path: Path) -> None:
    """In order, or not; however the parts lie."""
    path = write(tmp_path / "a", ["1", "", '"two"', "  ", "[3,\t3]\r", '{"four": 4}'], last="")
    expected = [1, "two", [3, 3], {"four": 4}]
    async with open_json_pool(2) as pool:
        assert await read(pool, path, part_bytes=part_bytes) == expected
        found = await read(pool, path, part_bytes=part_bytes, ordered=False)
        assert sorted(map(repr, found)) == sorted(map(repr, expected))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["", " ", "1", '"abc"', "[1,2,3,4,5,6]"]), max_size=12),
    st.booleans(),
    st.integers(1, 20),
)
def test_the_parts_of_a_file_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], ends: bool, size: int
) -> None:
    """Each line belongs to one part, which counts it; wherever the ends of the parts fall."""
    path = tmp_path_factory.mktemp("parts") / "a"
    path.write_text("\n".join(lines) + ("\n" if ends else ""))
    length = path.stat().st_size
    values: list[Any] = []
    count = counted = 0
    for start in range(0, length, size):
        end = min(start + size, length)
        part = LineRange(str(path), "a", start, end, 0, Shape(transform=_same), None, "auto", 1 << 20, False)
        _, found, failures, some = parse_lines(part)
        values += some
        count += found
        counted += json.loads(count_lines(str(path), start, end))[0]
        assert not failures
    text = path.read_text()
    assert values == [json.loads(line) for line in text.split("\n") if line.strip()]
    assert count == counted == len(text.splitlines())


@pytest.mark.parametrize(
    "lines",
    [
        ['{"a": 1} {"b": 2}', '{"c": [', '{"d": 3}]}'],
        ['{"a": 1} {"b": 2}', '{"c": {"d": {}', "}}"],
        ['{"a": 1} {"b": 2}', "{", '"c": 3}'],
        ['{"a": 1}{"b": 2}', '{"a": [1,{}', "{}]}"],
        ['{"a": 1}', '{"a": NaN}'],
    ],
)
def test_a_line_is_a_line(lines: list[str], tmp_path: Path) -> None:
    """Two documents on one line, and one on two, are as wrong as they are by themselves."""
    path = write(tmp_path / "a", [*lines, '{"last": 1}'])
    part = LineRange(str(path), "a", 0, path.stat().st_size, 0, Shape(), None, "auto", 1 << 20, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json_lines, "pack", lambda answer, _: answer)
        _, count, failures, values = parse_lines(part)
    good = []
    bad = []
    for number, line in enumerate([*lines, '{"last": 1}']):
        try:
            good.append(json.loads(line))
        except ValueError:
            bad.append(number)
    assert (count, repr(values)) == (len(lines) + 1, repr(good))
    assert [number for _, number, _ in failures] == bad


def _same(tree: Any) -> Any:
    return tree


@within(20)
async def test_what_is_made_of_each_line(tmp_path: Path) -> None:
    """Select, transform, type; and one value for many lines."""
    path = rows(tmp_path / "a")
    everything = list(range(COUNT))
    async with open_json_pool(2) as pool:
        assert await read(pool, path, select="i", part_bytes=500) == everything
        assert pool.statistics().typed.workers == 0
        assert await read(pool, path, transform=len, part_bytes=5000) == [2] * COUNT
        assert await read(pool, path, type=work.Row) == [work.Row(i) for i in everything]
        totals = await read(pool, path, type=work.Row, reduce=work.total, part_bytes=1000)
        assert len(totals) > 5
        assert sum(totals) == sum(everything)


BAD = [*(str(i) for i in range(50)), "oops", *(str(i) for i in range(50, 100)), "[1,", "", '"end"']
AT = len("\n".join(BAD[:50])) + 1


@pytest.mark.parametrize("part_bytes", [10, 64, 1 << 20])
@within(20)
async def test_a_bad_line_is_named_by_its_place_in_the_file(part_bytes: int, tmp_path: Path) -> None:
    """What comes before it is given before it is raised."""
    path = write(tmp_path / "a", BAD)
    async with open_json_pool(2) as pool:
        got: list[Any] = []
        with pytest.raises(JsonError) as caught:
            async with pool.open_lines(path, part_bytes=part_bytes) as lines:
                async for value in lines:
                    got.append(value)  # noqa: PERF401
        assert got == list(range(50))
        error = caught.value
        assert (error.source, error.line, error.column, error.offset) == (str(path), 51, 1, AT)
        with pytest.raises(JsonError) as caught:
            await read(pool, path, part_bytes=part_bytes, ordered=False)
        assert caught.value.line in (51, 102)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("options", [{}, {"transform": _same}], ids=["plain", "typed"])
@within(20)
async def test_errors_among_the_values(options: dict[str, Any], ordered: bool, tmp_path: Path) -> None:
    """With `return_errors` each line has its outcome, a bad one its error, with its number in the file."""
    path = write(tmp_path / "a", BAD)
    async with open_json_pool(2) as pool:
        found = await read(pool, path, return_errors=True, ordered=ordered, part_bytes=30, **options)
    errors = [result.error for result in found if isinstance(result, outcome.Error)]
    values = [result.unwrap() for result in found if isinstance(result, outcome.Value)]
    if ordered:
        assert values == [*range(100), "end"]
        assert isinstance(found[50], outcome.Error)
    assert sorted(map(str, values)) == sorted(map(str, [*range(100), "end"]))
    places = [(error.line, error.offset) for error in errors if isinstance(error, JsonError)]
    assert sorted(line for line, _ in places if line is not None) == [51, 102]
    assert {offset for _, offset in places} == {AT, len("\n".join(BAD[:101])) + 1 + 3}


@within(20)
async def test_errors_of_other_kinds(tmp_path: Path) -> None:
    """What a function raises has a note that names the line; what does not fit names its place."""
    path = write(tmp_path / "a", ["1", '{"i": "x"}', "[]"])
    async with open_json_pool(1) as pool:
        with pytest.raises(LookupError) as caught:
            await read(pool, path, transform=work.fail)
        assert f"for line 1 of {path}" in caught.value.__notes__
        (_, wrong, _) = await read(pool, path, type=work.Row | int | list[int], return_errors=True)
        assert (wrong.error.path, wrong.error.line) == ("$.i", 2)
        with pytest.raises(JsonError, match=r"line 1 \(byte 0\): select='sum\(@\)'"):
            await read(pool, path, select="sum(@)")
        with pytest.raises(ZeroDivisionError):
            await read(pool, path, reduce=lambda _: 1 / 0)


@within(20)
async def test_a_line_that_is_too_long(tmp_path: Path) -> None:
    """It alone is refused, and is not read to its end."""
    path = write(tmp_path / "a", ["1", '"' + "x" * 3000 + '"', "3"])
    async with open_json_pool(2, max_bytes=1000) as pool:
        first, long, last = await read(pool, path, return_errors=True, part_bytes=100)
    assert (first.unwrap(), last.unwrap()) == (1, 3)
    assert (long.error.reason, long.error.line) == ("larger than max_bytes=1,000", 2)


@within(20)
async def test_what_is_no_file_of_lines(tmp_path: Path) -> None:
    """It is said when the block is entered."""
    (tmp_path / "a").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "empty").touch()
    async with open_json_pool(1) as pool:
        with pytest.raises(FileNotFoundError):
            await read(pool, tmp_path / "none")
        with pytest.raises(IsADirectoryError):
            await read(pool, tmp_path)
        with pytest.raises(JsonError, match="gzip data cannot be split at line ends"):
            await read(pool, tmp_path / "a")
        assert await read(pool, tmp_path / "empty") == []
        with pytest.raises(ValueError, match="part_bytes="):
            pool.open_lines(tmp_path / "empty", part_bytes=0)


@within(20)
async def test_it_is_lazy_and_can_be_left(tmp_path: Path) -> None:
    """Only so many parts are asked for as there is room; a block that is left stops what is in flight."""
    path = rows(tmp_path / "a")
    async with open_json_pool(2) as pool:
        async with pool.open_lines(path, part_bytes=100) as lines:
            first = await anext(lines)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
        assert first == {"i": 0, "text": ""}
        counts = pool.statistics()
        assert counts.done + counts.cancelled <= 1 + 2 * 2 + 1  # the look at the file, and what was pulled
        with pytest.raises(trio.ClosedResourceError):
            while True:
                await anext(lines)


@those_with("own process")
@within(20)
async def test_a_worker_that_dies_in_a_part(tmp_path: Path) -> None:
    """It is told, with the part that it had."""
    path = rows(tmp_path / "a")
    async with open_json_pool(1, restart=Restart(max_restarts=100)) as pool:
        with pytest.raises(IsolateDied) as caught:
            await read(pool, path, transform=work.die)
        assert caught.value.__notes__[0].endswith(f" 0 to {path.stat().st_size}")
        assert len(await read(pool, path)) == COUNT


@pytest.mark.parametrize("select", [None, "i"], ids=["built", "selected"])
@within(30)
async def test_cancelled_at_each_step(select: str | None, tmp_path: Path) -> None:
    """Who asks again, having been cancelled at whichever step, misses no value and no error."""
    path = write(tmp_path / "a", [json.dumps({"i": i}) if i % 9 else "?" for i in range(40)])
    found: list[Any] = []
    async with (
        open_json_pool(1) as pool,
        pool.open_lines(path, select=select, part_bytes=100, return_errors=True) as lines,
    ):
        for step in itertools.cycle(range(1, 40)):
            with trio.CancelScope() as scope:
                instrument = CancelAt(step, scope)
                trio.lowlevel.add_instrument(instrument)
                try:
                    found.append(await anext(lines))
                except StopAsyncIteration:
                    break
                finally:
                    trio.lowlevel.remove_instrument(instrument)
    errors = [result.error for result in found if isinstance(result, outcome.Error)]
    values = [result.value for result in found if isinstance(result, outcome.Value)]
    lines_of = [error.line for error in errors if isinstance(error, JsonError)]
    assert lines_of == list(range(1, 41, 9))
    assert values == [i if select else {"i": i} for i in range(40) if i % 9]


@within(20)
async def test_one_reader_at_a_time(tmp_path: Path) -> None:
    """A second task that reads the same lines is told so; what the first one reads is whole."""
    path = tmp_path / "lines"
    path.write_text("".join(f"{number}\n" for number in range(10_000)))
    async with open_json_pool(1) as pool, pool.open_lines(path, part_bytes=4096) as lines:
        ends: list[object] = []

        async def read() -> None:
            try:
                ends.append([value async for value in lines])
            except trio.BusyResourceError:
                ends.append("busy")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
        assert ends == ["busy", list(range(10_000))]
    with pytest.raises(trio.ClosedResourceError):
        await anext(lines)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@within(20)
async def test_not_utf_8(tmp_path: Path, encoding: str) -> None:
    """What has no bytes that end lines is refused before anything is read."""
    path = tmp_path / "lines"
    path.write_text("1\n2\n", encoding)
    async with open_json_pool(1) as pool:
        with pytest.raises(JsonError, match="not UTF-8"):
            async with pool.open_lines(path):
                pass
