"""What happens in an isolate, noted where it happens.

The notes of who records stay in its memory. Each isolate that it starts is given a file without a name,
which that and all that it starts append to, and which no death takes back. The clocks of all processes of
a machine are one. This module does not know what is made of the notes: that is `_story`'s business.
"""

from __future__ import annotations

import fcntl
import os
import reprlib
import stat
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias, final

from ._memory import memory_file
from ._side import Side

# What is noted as numbers: with an ident, and about something: a number, a label or a time.
# By who calls. ident: the call's; about: the isolate, as its number among its parent's children.
REQUEST: Final = 1  # about: shifted by LABEL_SHIFT, the label as well
REPLY: Final = 2  # the kind: REPLY, and shifted by KIND_SHIFT that of the frame; about: as of REQUEST
WITHDRAWN: Final = 3  # it never begins there, and goes to another isolate
NEVER: Final = 4  # it never begins
CANCEL: Final = 5
INTERRUPT: Final = 6
BEGUN: Final = 7  # seen when the isolate had died
KILL: Final = 8  # without an ident
CLOSE: Final = 9  # the same
# By the isolate that runs a call. ident: the call's.
BEGIN: Final = 10
END: Final = 11  # the kind: END, and shifted by KIND_SHIFT that of the frame; about: when it began, or 0
# By who sends, receives, waits. ident: the port's.
SENT: Final = 12  # about: the label with the path of its isolate; shifted, that of the message as well
TAKEN: Final = 13  # about: the label with the path of the isolate that sent it
STREAM_PORT: Final = 14  # it takes the items of a stream
WAIT: Final = 15  # by sync code: it waits for frames
GO_ON: Final = 16

KIND_SHIFT: Final = 8
LABEL_SHIFT: Final = 24

HEAD: Final = struct.Struct("<8sBxHI")  # a mark, numbers or text, lengths of the path and of what comes then
MARK: Final = b"\xa7notes\r\n"
NUMBERS: Final = 0
TEXT: Final = 1
WIDTH: Final = 4  # numbers for each note
_BLOCK: Final = 100 * WIDTH  # numbers that are written at once: less than a page, which is never torn
_LONGEST_WAIT: Final = 0.001  # seconds that a note waits for company
_BURST: Final = 10  # times that notes are written down without waiting, before they must wait again
_LONGEST_TEXT: Final = 80
MOST_NUMBERS: Final = 10_000
_MOST_VALUES: Final = 10_000  # texts of values that one isolate tells apart
_MOST_BYTES: Final = 1 << 28  # that are read of one file: an isolate may be corrupt

Note: TypeAlias = tuple[float, int, int, float]
"""When it was, by `perf_counter`; what it was; an ident; about what it was, or 0."""


@final
class _Shortener(reprlib.Repr):
    """As `reprlib.repr`, but a dict's entries stay in their order."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0 and x:
            return "{...}"
        texts = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(x.items(), self.maxdict)
        ]
        return f"{{{', '.join(texts + ['...'] * (len(x) > self.maxdict))}}}"


_shorten = _Shortener()
_shorten.maxstring = _shorten.maxother = 24
_shorten.maxlevel = 2
_shorten.maxdict = _shorten.maxset = 3
_shorten.maxlist = _shorten.maxtuple = 4


def short(value: object) -> str:
    """Return a text for a value that somebody will look at."""
    try:
        text = _shorten.repr(value)
    except Exception:  # a __repr__ that raises
        return type(value).__name__
    if text.startswith("<"):
        return type(value).__name__
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


class Sheet(Protocol):
    """Where notes are written down."""

    def write(self, block: bytes, /) -> bool:
        """Append it; return False if nothing is to be noted any more."""
        ...

    def open_for(self, side: Side, /) -> tuple[int, File | None]:
        """Give an isolate what it writes to; return its number there, and what is to be collected in the end.

        Raises `OSError`.
        """
        ...


@final
class File:
    """A sheet that outlives its writers."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()  # another thread may look at it when it is collected

    @classmethod
    def make(cls) -> File:
        fd = memory_file("trio_isolates_notes")
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        os.fchmod(fd, stat.S_IRUSR | stat.S_IWUSR)
        return cls(fd)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def write(self, block: bytes) -> bool:
        with suppress(OSError):
            # Who records takes away the right to write when he has all that he wants.
            if self.is_open and os.fstat(self._fd).st_mode & stat.S_IWUSR:
                os.write(self._fd, block)
                return True
        self.close()
        return False

    def hand_over(self, side: Side) -> int:
        """Give an isolate a descriptor; return its number there. Raises `OSError`."""
        return side.send([self._fd])

    def open_for(self, side: Side) -> tuple[int, File | None]:
        return self.hand_over(side), None

    def collect(self) -> bytes:
        """Return what is in it; from now on, nobody writes to it."""
        with self._lock:
            try:
                os.fchmod(self._fd, stat.S_IRUSR)
                found = self._read()
                os.ftruncate(self._fd, 0)
                return found
            finally:
                self.close()

    def look(self) -> bytes:
        """Return what is in it so far; nothing once it was collected."""
        with self._lock:
            return self._read() if self.is_open else b""

    def _read(self) -> bytes:
        state = os.fstat(self._fd)
        size = min(state.st_size, 512 * state.st_blocks, _MOST_BYTES)  # it may have holes
        return os.pread(self._fd, size, 0)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _nobody(_function: Callable[[], None]) -> None:
    """Sync code rests when it waits, and who records need not write down anything."""


@final
class Notes:
    """What one isolate has noted.

    numbers, take: the notes that are not written down, and what takes one more. That is done for each
    call, and does next to nothing: who does it sees to it that `rest` is called by and by, or `flush` if
    there are MOST_NUMBERS. soon: has something called when there is time.
    """

    def __init__(self, sheet: Sheet, path: bytes, *, keeps_values: bool) -> None:
        self.keeps_values = keeps_values
        self.is_over = False
        self.has_messages = False  # that are not written down; of calls, who made them knows the most
        self.numbers: list[float] = []
        self.take: Callable[[Note], None] = self.numbers.extend
        self.soon: Callable[[Callable[[], None]], None] = _nobody
        self._sheet = sheet
        self._path = path
        self._lock = threading.Lock()  # another thread may look at what is recorded
        self._rested = 0.0
        self._burst = float(_BURST)
        self._labels: dict[str | bytes, int] = {}
        self._values: dict[str, int] = {}
        self._others: list[Notes] = []

    def label(self, text: str | bytes) -> int:
        """Return the number that stands for a text, or for the path of an isolate."""
        number = self._labels.get(text)
        if number is None:
            number = self._labels[text] = self._define(text)
        return number

    def label_value(self, value: object) -> int:
        """Return the number that stands for a short text for a value; 0 if there are too many."""
        text = short(value)
        number = self._values.get(text, 0)
        if not number and len(self._values) < _MOST_VALUES:
            number = self._values[text] = self._define(text)
        return number

    def _define(self, text: str | bytes) -> int:
        number = len(self._labels) + len(self._values) + 1
        self.tell("label", number=number, text=text.hex() if isinstance(text, bytes) else text)
        return number

    def tell(self, what: str, **fields: Any) -> None:
        """Take a note of what happens rarely and takes more words."""
        import json  # which a program that records nothing does not need

        self._write(TEXT, json.dumps({"what": what, "time": perf_counter(), **fields}).encode())

    def expect_rest(self) -> None:
        """There are notes of which nobody else would know after a death of this isolate."""
        self.has_messages = True
        self.soon(self.rest)

    def rest(self) -> None:
        """Write down what was noted, if it is time, or if nobody else would know of it after a death."""
        if self.numbers:
            now = perf_counter()
            self._burst = min(_BURST, self._burst + (now - self._rested) / _LONGEST_WAIT)
            self._rested = now
            if self._burst >= (1 if self.has_messages else _BURST):
                self._burst -= 1
                self.flush()
        for notes in self._others:
            notes.rest()

    def flush(self) -> None:
        """Write down what was noted."""
        with self._lock:
            self.has_messages = False
            numbers = self.numbers[:]
            del self.numbers[: len(numbers)]
            for start in range(0, len(numbers), _BLOCK):
                part = numbers[start : start + _BLOCK]
                self._write(NUMBERS, struct.pack(f"{len(part)}d", *part))
        for notes in self._others:
            notes.flush()

    def _write(self, kind: int, body: bytes) -> None:
        if not self.is_over:
            head = HEAD.pack(MARK, kind, len(self._path), len(body))
            self.is_over = not self._sheet.write(head + self._path + body)

    def beside(self, path: bytes) -> Notes:
        """Return the notes of another Trio run in this isolate, which go the same way."""
        self.tell("run", path=path.hex())
        notes = Notes(self._sheet, path, keeps_values=self.keeps_values)
        self._others.append(notes)
        return notes

    def open_for(self, side: Side) -> tuple[int, File | None]:
        """Have an isolate that is started take notes. As `Sheet.open_for`."""
        return self._sheet.open_for(side)

    @property
    def flags(self) -> bytes:
        """What a frame says of the recording."""
        return bytes([self.keeps_values])


def take_over(side: Side, number: int, flags: bytes, path: bytes) -> tuple[Notes, File] | None:
    """Return the notes of this isolate, and the file that they go to; None if it got lost on its way."""
    with suppress(OSError):
        file = File(side.take(number)[0])
        return Notes(file, path, keeps_values=flags != b"\0"), file
    return None


@final
class Recording:
    """All notes, at who records. There is one at a time in a process."""

    def __init__(self, *, keeps_values: bool) -> None:
        self._keeps_values = keeps_values
        self._pid = os.getpid()
        self._notes: list[Notes] = []
        self._blocks: list[bytes] = []
        self._files: list[File] = []
        self._is_over = False
        self.programs: set[bytes] = set()  # the paths of this process's own Trio runs

    def notes(self, path: bytes) -> Notes:
        """Return the notes of a Trio run of this process."""
        self.programs.add(path)
        notes = Notes(self, path, keeps_values=self._keeps_values)
        self._notes.append(notes)
        return notes

    def write(self, block: bytes) -> bool:
        if not self._is_over:
            self._blocks.append(block)
        return not self._is_over

    def open_for(self, side: Side) -> tuple[int, File | None]:
        file = File.make()
        try:
            number = file.hand_over(side)
        except BaseException:
            file.close()
            raise
        self._files.append(file)
        return number, file

    def collect(self, file: File) -> None:
        """The isolate that wrote to it is gone."""
        if file in self._files and os.getpid() == self._pid:
            self._files.remove(file)
            with suppress(OSError):
                self._blocks.append(file.collect())

    def read(self) -> list[bytes]:
        """Return all that is written so far."""
        if not self._is_over:
            for notes in self._notes:
                notes.flush()
        files = list(self._files)
        return [*self._blocks, *(file.look() for file in files)]

    def end(self) -> None:
        """From now on nobody notes anything, wherever he is."""
        if os.getpid() != self._pid:  # a forked child is no part of it
            return
        for notes in self._notes:
            notes.flush()
        self._is_over = True
        for notes in self._notes:
            notes.is_over = True
        while self._files:
            with suppress(OSError):
                self._blocks.append(self._files.pop().collect())


_of_process: list[Recording] = []
_of_isolate: list[Notes] = []


def set_recording(recording: Recording | None) -> None:
    """Have what is started in this process from now on recorded, or nothing any more."""
    _of_process[:] = [] if recording is None else [recording]


def current_recording() -> Recording | None:
    """Return the recording that is on in this process, if one is."""
    return _of_process[0] if _of_process else None


def set_isolate_notes(notes: Notes | None) -> None:
    """This process is an isolate, and these are its notes."""
    _of_isolate[:] = [] if notes is None else [notes]


def notes_of_run(path: bytes) -> Notes | None:
    """Return the notes that a new Trio run of this process, with this path, is to take, if any."""
    if _of_process:
        return _of_process[0].notes(path)
    if _of_isolate and not _of_isolate[0].is_over:
        return _of_isolate[0].beside(path)
    return None
