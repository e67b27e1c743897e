"""The command line: turns arguments into a pool's work, and its answers into lines and an exit status.

It stands on the public API alone. How a document is found and parsed is `_documents`' knowledge,
what there is to demonstrate `_demo`'s.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from types import FrameType
from typing import Any, TypeVar, cast, final

import outcome
import trio

from trio_isolates import IsolateDied, IsolateError, open_pool
from trio_isolates._demo import run_demo
from trio_isolates._documents import (
    STDIN,
    Document,
    Found,
    Problem,
    Reader,
    Summary,
    find_documents,
    printable,
    read_document,
    read_piped,
)
from trio_isolates._options import MOST_WORKERS
from trio_isolates._screen import OutputEnded, Screen, open_screen
from trio_isolates._selection import SelectionError, compile_selection, to_json

_OK, _BAD, _USAGE = 0, 1, 2

_EXITS = "exit status: 0 all is well, 1 some document is bad, 2 wrong usage,\n130 interrupted"
_ABOUT = "Parse JSON in a supervised pool of isolates, processes that never linger."
_ABOUT_EXAMPLES = f"""\
examples:
  trio-isolates demo                what a pool does for an event loop
  trio-isolates parse data/         every *.json and *.json.gz in a folder
  trio-isolates parse a.json b.json.gz --select 'items[].name' --output ndjson
  trio-isolates parse --help        all about one command

{_EXITS}"""
_PARSE = """\
Parse JSON documents in a pool, one document a file, and print a line for each.
A bad one is one line "path:line:column: what" on standard error; all the
others are still parsed."""
_PARSE_EXAMPLES = f"""\
examples:
  trio-isolates parse data/
        a folder: its *.json and *.json.gz, at any depth
  trio-isolates parse 'logs/**/2024-*.json.gz'
        a pattern; ** stands for any folders
  curl -s https://example.org/a.json | trio-isolates parse -
        standard input
  trio-isolates parse data/ --output ndjson
        path, bytes, type, length and ms of each document, as JSON
  trio-isolates parse data/ --select user.name
        one more column: the selected value, cut to fit
  trio-isolates parse data/ --output ndjson --select '{{id: id, n: length(tags)}}'
        the selected values alone, whole, one a line

Lines come in the order of the paths. "bytes" is the JSON text, after
decompression; "ms" is the worker's time to read, parse and select. UTF-8,
UTF-16 and UTF-32 are read. NaN and Infinity are taken, and written, as by
Python's json.

{_EXITS}"""
_DEMO = """\
Make some JSON in a temporary folder, parse it in the event loop and in a pool,
and compare; then kill a worker in the middle, and account for every document."""
_DEMO_EXAMPLES = """\
examples:
  trio-isolates demo
  trio-isolates demo --workers 2 --megabytes 100

exit status: 0 nothing was lost, 1 something was, 2 wrong usage, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; --help and wrong usage leave by SystemExit."""
    _open_closed_streams()
    signals = [signal.SIGINT]
    try:
        arguments = _arguments(sys.argv[1:] if argv is None else list(argv))
        if any(importlib.util.find_spec(name) is None for name in ("rich", "jmespath")):
            _complain("this command needs the 'cli' extra: pip install 'trio-isolates[cli]'")
            return _USAGE
        with _ended_by(signals):
            status: int = arguments.run(arguments)
            return status
    except BaseException as error:
        if _leaf(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one has nothing left to end
            _complain("interrupted")
            return 128 + signals[-1]
        if (ended := _leaf(error, OutputEnded)) is not None:
            if ended.text:
                _complain(ended.text)
            return _BAD if ended.text else _OK
        if (failed := _leaf(error, IsolateError)) is not None:
            _complain(str(failed))
            return _BAD
        raise


def _open_closed_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell's >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, for the whole program


_E = TypeVar("_E", bound=BaseException)


def _leaf(error: BaseException, kind: type[_E]) -> _E | None:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        leaves = (_leaf(inner, kind) for inner in group.exceptions)
        return next((leaf for leaf in leaves if leaf is not None), None)
    return error if isinstance(error, kind) else None


def _complain(text: str) -> None:
    print(f"trio-isolates: {printable(text)}", file=sys.stderr)


@contextmanager
def _ended_by(signals: list[signal.Signals]) -> Generator[None, None, None]:
    """Let SIGTERM and SIGHUP unwind as Ctrl-C does: workers, bar and temporary files go as well."""

    def interrupt(number: int, _: FrameType | None) -> None:
        signals.append(signal.Signals(number))
        signal.raise_signal(signal.SIGINT)

    # Where SIGINT is ignored (a background job without job control), it cannot stand in.
    able = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    taken = [n for n in (signal.SIGTERM, signal.SIGHUP) if able and signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


_PLAIN: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser, commands = _parsers()
    if argv and (command := commands.get(argv[0])):
        return command.parse_intermixed_args(argv[1:])  # `parse a.json --workers 2 b.json`
    return parser.parse_args(argv)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser("trio-isolates", description=_ABOUT, epilog=_ABOUT_EXAMPLES, **_PLAIN)
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")

    about = "show what a pool does, in figures"
    demo = commands.add_parser("demo", help=about, description=_DEMO, epilog=_DEMO_EXAMPLES, **_PLAIN)
    demo.add_argument("--megabytes", type=_count, default=32, metavar="N", help="how much JSON to make (32)")

    about = "parse files, folders, standard input"
    parse = commands.add_parser("parse", help=about, description=_PARSE, epilog=_PARSE_EXAMPLES, **_PLAIN)
    parse.add_argument("paths", nargs="+", metavar="PATH", help="file, folder, pattern, - for standard input")
    parse.add_argument("--select", metavar="EXPR", help="JMESPath expression, evaluated in the worker")
    parse.add_argument("--output", choices=("table", "ndjson"), default="table", help="what to print (table)")
    limit = "refuse what is larger after decompression (1G); k, M, G are powers of 1000"
    parse.add_argument("--max-size", type=_size, default=10**9, metavar="SIZE", help=limit)

    workers = partial(_count, most=MOST_WORKERS)
    for command in (demo, parse):
        command.add_argument("--workers", type=workers, metavar="N", help="processes (one a usable CPU)")
    demo.set_defaults(run=_demo)
    parse.set_defaults(run=_parse, parser=parse)
    return parser, {"demo": demo, "parse": parse}


class _Version(argparse.Action):
    """Reads the installed version only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        try:
            version = importlib.metadata.version("trio-isolates")
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"trio-isolates {version}")
        parser.exit()


def _count(text: str, most: int = 999_999) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text) or int(text) > most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch("([1-9][0-9]{0,11})([kMG]?)B?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 500k, 20M or 2G")
    return int(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]]


def _demo(arguments: argparse.Namespace) -> int:
    with open_screen(bar=True, animated=False) as screen:
        complete = trio.run(run_demo, screen, arguments.megabytes, arguments.workers)
    return _OK if complete else _BAD


def _parse(arguments: argparse.Namespace) -> int:
    if arguments.select is not None:
        try:
            compile_selection(arguments.select)
        except SelectionError as error:
            arguments.parser.error(_located(arguments.select, error))
    found = find_documents(arguments.paths)
    typing = STDIN in arguments.paths and sys.stdin is not None and sys.stdin.isatty()
    with open_screen(bar=not typing, animated=True) as screen:
        names = [document.name for document in found.documents]
        selecting = arguments.select is not None
        table = _Table(names, screen.width, selecting) if arguments.output == "table" else None
        parsing = _Parsing(screen, table, arguments)
        trio.run(parsing.run, found)
    return _BAD if parsing.bad else _OK


def _located(expression: str, error: SelectionError) -> str:
    text = f"argument --select: {error.text}"
    if error.position is None:
        return text
    shown = re.sub(r"\s", " ", expression)
    return f"{text}, at column {error.position + 1}\n  {shown}\n  {' ' * error.position}^"


_AHEAD = 128  # documents that may be parsed while the line of an earlier one is still to come


@final
class _Parsing:
    """One `parse`: feeds the documents to a pool, and shows what comes back."""

    def __init__(self, screen: Screen, table: _Table | None, arguments: argparse.Namespace) -> None:
        self.bad = 0
        self._screen = screen
        self._table = table
        self._limit: int = arguments.max_size
        self._workers: int | None = arguments.workers
        self._reader = partial(Reader, arguments.select, self._limit, None if table is None else _CUT)
        self._sent: deque[str] = deque()
        self._size = 0
        self._started = time.perf_counter()

    async def run(self, found: Found) -> None:
        for problem in found.problems:
            self._show(problem)
        if found.repeated:
            more = f" and {len(found.repeated) - 3} more" if len(found.repeated) > 3 else ""
            names = ", ".join(map(printable, found.repeated[:3]))
            self._screen.say(f"trio-isolates: named more than once, parsed once: {names}{more}")
        if found.documents:
            self._screen.expect("parsing", len(found.documents))
            await self._parse(found.documents)
            self._conclude(len(found.documents))

    async def _parse(self, documents: Sequence[Document]) -> None:
        workers = _fitting(self._workers, len(documents))
        async with (
            aclosing(self._supply(documents)) as supply,
            open_pool(read_document, workers=workers, state=self._reader, on_cancel="kill") as pool,
            pool.open_map(supply, return_errors=True, max_pending=_AHEAD) as results,
        ):
            async for result in results:
                self._show(_answer(self._sent.popleft(), result))
                self._screen.advance(_human(self._size))

    async def _supply(self, documents: Sequence[Document]) -> AsyncGenerator[Document, None]:
        for document in documents:
            self._sent.append(document.name)
            if document.piped:
                read = partial(read_piped, document, self._limit)
                yield await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            else:
                yield document

    def _show(self, answer: Summary | Problem) -> None:
        if isinstance(answer, Problem):
            self.bad += 1
            self._screen.say(str(answer))
        else:
            if self._table is not None and self._size == 0:
                self._screen.row(self._table.header)
            self._size += answer.size  # never 0: an empty document is a problem
            self._screen.row(_ndjson(answer) if self._table is None else self._table.row(answer))

    def _conclude(self, count: int) -> None:
        if self._screen.interactive:
            seconds = time.perf_counter() - self._started
            many = f"{count:,} document{'s'[: count != 1]}, {self.bad} bad"
            self._screen.say(f"{many}, {_human(self._size)} in {seconds:.1f} s")


def _fitting(workers: int | None, documents: int) -> int | None:
    if workers is not None:
        return min(workers, documents)
    # None is the pool's own choice, which knows of CPU quotas, too.
    return documents if documents < (os.cpu_count() or 1) else None


def _answer(name: str, result: outcome.Maybe[Summary | Problem]) -> Summary | Problem:
    try:
        return result.unwrap()
    except IsolateDied as error:
        how = "SIGKILL: out of memory?" if error.signal == "SIGKILL" else error.signal
        return Problem(name, f"its worker died while parsing it ({how or f'exit code {error.exitcode}'})")
    except Exception as error:
        return Problem(name, f"{type(error).__name__}: {error}")


def _ndjson(summary: Summary) -> bytes:
    if summary.selected is not None:
        return summary.selected
    ms = round(summary.seconds * 1000, 3)
    shown = {"path": summary.name, "bytes": summary.size, "type": summary.type, "length": summary.length}
    return to_json(shown | {"ms": ms})


_CUT = 200  # characters of a selected value that a table may show


@final
class _Table:
    """Plain columns, aligned from the first row on: only the names decide on a width.

    On a terminal, long names lose their beginning and selected values their end. Elsewhere
    nothing is cut, and a name of more than 40 columns pushes the rest of its own row.
    """

    def __init__(self, names: Iterable[str], width: int | None, selecting: bool) -> None:
        most = 40 if width is None else max(width - 40 - 20 * selecting, 10)
        self._width = width
        self._names = min(max(map(_cells, ["path", *map(printable, names)])), most)
        self.header = self._line("path", "bytes", "type", "length", "ms", "selected" if selecting else "")

    def row(self, summary: Summary) -> str:
        length = "-" if summary.length is None else f"{summary.length:,}"
        selected = "" if summary.selected is None else printable(summary.selected.decode())
        ms = f"{summary.seconds * 1000:,.1f}"
        return self._line(printable(summary.name), _human(summary.size), summary.type, length, ms, selected)

    def _line(self, name: str, *cells: str) -> str:
        if self._width is not None:
            name = _cropped(name, self._names, keep_end=True)
        name += " " * (self._names - _cells(name))
        line = f"{name}  {'{:>8}  {:<7}  {:>9}  {:>8}  {}'.format(*cells)}".rstrip()
        return line if self._width is None else _cropped(line, self._width)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _cropped(text: str, width: int, *, keep_end: bool = False) -> str:
    if _cells(text) <= width:
        return text
    while _cells(text) >= width:
        text = text[1:] if keep_end else text[:-1]
    return f"…{text}" if keep_end else f"{text}…"


def _human(size: int) -> str:
    amount, unit = float(size), 0
    while amount >= 999.5 and unit < 3:
        amount, unit = amount / 1000, unit + 1
    return f"{size} B" if unit == 0 else f"{amount:.1f} {' kMG'[unit]}B"
