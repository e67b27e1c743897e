"""Turns what a command has to say into rows on standard output and lines on standard error.

On a terminal a progress bar stands below them. It does not know what the rows are about.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, final

import trio

if TYPE_CHECKING:
    from rich.progress import Progress


@final
class OutputEnded(Exception):
    """Nobody reads what is written any more (`| head`), or it cannot be written: `text` says why."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text


@final
class Screen:
    """Standard output and standard error, as one place. Objects come from `open_screen`."""

    def __init__(self, bar: Progress | None) -> None:
        self.interactive = bar is not None
        self.width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        self._bar = bar
        # One terminal for both: rows go through the bar, which makes room for them.
        same = os.fstat(1).st_rdev == os.fstat(2).st_rdev
        self._shared = bar is not None and sys.stdout.isatty() and same

    def row(self, line: str | bytes) -> None:
        """Write a line to standard output, at once."""
        data = line if isinstance(line, bytes) else line.encode("utf-8", "backslashreplace")
        if self._shared:
            self.say(data.decode())
        else:
            _write(sys.stdout, data)

    def say(self, line: str) -> None:
        """Write a line to standard error, at once."""
        if self._bar is None:
            _write(sys.stderr, line.encode("utf-8", "backslashreplace"))
        else:
            _print_above(self._bar, line)

    def expect(self, what: str, total: int) -> None:
        """Start the bar anew, for `total` steps."""
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(what, total=total, note="")
            self._bar.refresh()

    def advance(self, note: str = "") -> None:
        """One step is done; `note` says what has been reached."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, note=note)

    def refresh(self) -> None:
        """Draw the bar now; needed only where it is not animated."""
        if self._bar is not None:
            self._bar.refresh()


@contextmanager
def open_screen(*, bar: bool, animated: bool) -> Generator[Screen, None, None]:
    """Show a progress bar in this block, if standard error is a terminal, and take it away after it.

    There is none when standard output is a pipe: what reads it (`| less`) may draw on the same terminal.
    An animated bar has a thread that draws it 10 times a second; one that is not takes no time from
    what is measured, and is drawn by `expect` and `refresh`.
    """
    if not (bar and sys.stderr.isatty()) or stat.S_ISFIFO(os.fstat(1).st_mode):
        yield Screen(None)
        return
    progress = _progress(animated)
    try:
        with progress:
            yield Screen(progress)
    finally:
        progress.console.show_cursor(True)  # also when a second Ctrl-C ended the bar's own clean-up


def _progress(animated: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
    return Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(stderr=True),
        auto_refresh=animated,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


@trio.lowlevel.enable_ki_protection  # interrupted between writing and forgetting, it would write twice
def _print_above(bar: Progress, line: str) -> None:
    bar.console.out(line, highlight=False)


def _write(file: TextIO, data: bytes) -> None:
    try:
        file.buffer.write(data + b"\n")
        file.buffer.flush()
    except OSError as error:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        gone = error.errno == errno.EPIPE
        raise OutputEnded("" if gone else f"cannot write: {error.strerror}") from None
