"""The words for what can go wrong: every exception that trio_isolates raises by itself.

This module knows what each failure means and what it carries; it does not know who raises it.
For what is closed, full or ended, Trio's own exceptions are used: `trio.ClosedResourceError`,
`trio.BrokenResourceError`, `trio.EndOfChannel`, `trio.WouldBlock`, `trio.BusyResourceError`.
"""

from __future__ import annotations

from collections.abc import Sequence

from trio_parallel import BrokenWorkerError

_TAIL_LINES = 8
_DUMP_LINES = 12  # whose first line says the most, as the innermost frame comes first
_DUMP = "Fatal Python error: "


class IsolateError(Exception):
    """The base of every error that trio_isolates raises by itself."""


class IsolateDied(IsolateError, BrokenWorkerError):
    """An isolate ended while something still depended on it.

    Attributes:
        name: the isolate's name.
        pid: its process id, or None if it never had one.
        exitcode: what it exited with, negative for a signal; None if nobody could tell.
        signal: the name of the signal that ended it ("SIGKILL"), or None.
        maybe_executed: False if the call had certainly not begun, so that it is safe to repeat.
        stderr_tail: the last of what the isolate wrote to its standard error, at most 64 KiB; after a
            crash (SIGSEGV, SIGABRT, ...) that is where in its Python code each thread was.
        call: the qualified name of the function that it was running for who gets this; None if there
            was no call, or it had not begun.
        seconds: how long that call had been running.
        peak_rss: the most memory, in bytes, that was resident at one time, of the isolate or of a
            process that it had started and waited for. None if nobody could tell: it is the
            forkserver that knows, unless the program has started one of its own before.
        out_of_memory: True if it is likely that the kernel has killed it for lack of memory: it was
            killed by SIGKILL, and the kernel has counted such a kill in this program's control group
            meanwhile. False: nothing is known of that.
        serves_calls: False of a bare isolate and of a supervisor's child, which run an entry.

    What this program itself has killed, by `kill()` or for a cancelled call, needs no explanation: of
    these, call, seconds, peak_rss and out_of_memory are None or False. It is also a
    `trio_parallel.BrokenWorkerError`.
    """

    def __init__(
        self,
        name: str,
        *,
        pid: int | None = None,
        exitcode: int | None = None,
        signal: str | None = None,
        maybe_executed: bool = True,
        stderr_tail: str = "",
        call: str | None = None,
        seconds: float | None = None,
        peak_rss: int | None = None,
        out_of_memory: bool = False,
        serves_calls: bool = True,
    ) -> None:
        super().__init__(name)
        self.name = name
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self.maybe_executed = maybe_executed
        self.stderr_tail = stderr_tail
        self.call = call
        self.seconds = seconds
        self.peak_rss = peak_rss
        self.out_of_memory = out_of_memory
        self.serves_calls = serves_calls

    def __repr__(self) -> str:
        end = self.signal if self.signal is not None else f"exitcode {self.exitcode}"
        return f"IsolateDied({self.name!r}, pid {self.pid}, {end})"

    def __str__(self) -> str:
        if self.signal is not None:
            how = f"was killed by {self.signal}"
        elif self.exitcode is not None:
            how = f"exited with code {self.exitcode}"
        else:
            how = "ended, and nobody could tell why"
        if self.out_of_memory:
            how += ", likely out of memory"
        if self.call is not None:
            how += ", in " if self.seconds is None else f", {_say_time(self.seconds)} into "
            how += self.call
        if self.peak_rss is not None:
            how += f", peak memory {_say_size(self.peak_rss)}"
        text = f"isolate {self.name!r} (pid {self.pid}) {how}"
        if self.serves_calls:
            text += "; the call may have been executed" if self.maybe_executed else "; no call had begun"
        if tail := _shown(self.stderr_tail.rstrip().splitlines()):
            text += "\nthe end of its stderr:\n" + "\n".join(f"  {line}" for line in tail)
        return text


def _say_time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def _say_size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def _shown(lines: list[str]) -> list[str]:
    """Return the part of an isolate's stderr that belongs into a message."""
    for number, line in enumerate(lines):
        if line.startswith(_DUMP):
            return [line for line in lines[number:] if line][:_DUMP_LINES]
    return lines[-_TAIL_LINES:]


class IsolateSpawnError(IsolateError):
    """An isolate could not be started: its process, its `init` or its `state` failed.

    `__cause__` is the failure itself: the exception that `init` raised, `IsolateDied` if the
    process ended before it was ready, or the operating system's error.
    """


class UnsendableError(IsolateError, TypeError):
    """A value cannot be sent: it cannot be pickled here, or not unpickled there.

    Attributes:
        path: where in the message the value sits (`args[0]['jobs'][3].lock`); empty if it
            pickled well and failed only when it was unpickled.
        type_name: the type of that value, with its module.

    `__cause__` is what the pickling raised.
    """

    def __init__(self, message: str, *, path: str = "", type_name: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.type_name = type_name


def rename_path(error: UnsendableError, ours: str, theirs: str) -> None:
    """Say the beginning of the path in the words of who sent the value."""
    if error.path.startswith(ours):
        path = theirs + error.path[len(ours) :]
        error.args = (error.args[0].replace(error.path, path, 1),)
        error.path = path


class RemoteError(IsolateError):
    """Stands in for an exception that cannot, or must not, cross as itself.

    Attributes:
        type_name: the type of the original, with its module.
        text: the original's `str`.
        traceback: the whole remote traceback, as text.
    """

    def __init__(self, type_name: str, text: str, traceback: str = "") -> None:
        super().__init__(type_name, text, traceback)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.text}" if self.text else self.type_name


class JsonError(IsolateError, ValueError):
    """A document is not what it should be: no JSON, not of the type asked for, too large, empty.

    Attributes:
        reason: what is wrong, in words.
        source: the path of the file, or what `source=` said that it is.
        line, column: where, counted from 1, in characters; None if no place can be named.
        offset: where, in bytes from the beginning of the document (decompressed, and if it was given
            as a str, in UTF-8); None if no place can be named.
        excerpt: the text from that place on, at most 40 characters.
        path: where in the document a value of another type sits (`$.a[3].b`); empty for other errors.
    """

    FIELDS = ("reason", "source", "line", "column", "offset", "excerpt", "path")

    def __init__(  # noqa: PLR0917  # it is pickled by its arguments
        self,
        reason: str,
        source: str = "<json>",
        line: int | None = None,
        column: int | None = None,
        offset: int | None = None,
        excerpt: str = "",
        path: str = "",
    ) -> None:
        super().__init__(reason, source, line, column, offset, excerpt, path)
        self.reason = reason
        self.source = source
        self.line = line
        self.column = column
        self.offset = offset
        self.excerpt = excerpt
        self.path = path

    def __str__(self) -> str:
        place: list[str] = []
        if self.line is not None:
            place.append(f"line {self.line}")
        if self.column is not None:
            place.append(f"column {self.column}")
        where = ", ".join(place)
        if self.offset is not None:
            where = f"{where} (byte {self.offset})" if where else f"byte {self.offset}"
        near = f" near {self.excerpt!r}" if self.excerpt else ""
        at = f" - at {self.path}" if self.path else ""
        return f"{self.source}: {where + ': ' if where else ''}{self.reason}{near}{at}"


class RestartLimitExceeded(IsolateError):
    """Isolates ended faster than the `Restart` policy allows them to be replaced.

    Attributes:
        causes: every failure that was counted, oldest first.
    """

    def __init__(self, message: str, *, causes: Sequence[BaseException] = ()) -> None:
        super().__init__(message)
        self.causes = tuple(causes)


class ProtocolError(IsolateError):
    """The bytes on a link are not what an isolate would write; that isolate has been killed."""


class CallInterrupted(BaseException):
    """Raised inside a sync handler whose caller has been cancelled. Let it pass.

    It is a `BaseException`, so that `except Exception` does not stop it. A handler that catches
    it to clean up re-raises it: while it handles it, it is left alone. One that swallows it gets it
    again, and one that has not ended when `cancel_grace` is over is killed with its isolate.
    """
