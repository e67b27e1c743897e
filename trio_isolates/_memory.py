"""The page that a parent and its isolate both look at.

It holds the small things that no message could carry in time: how far the isolate has come with
its calls and since when, which calls the parent has cancelled, the end of what the isolate wrote to
stderr, and its last words when it crashes. This module does not know what is done about any of them.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Final, final

RING: Final = 65_536  # cancelled ids that fit before the isolate must have looked
ASKED_BACK: Final = 1 << 63  # beside an id: stop this call only if it has not begun
_TIMES: Final = 4096  # calls back to which it is known when they began
_BEGUN, _CANCELLED, _SEEN, _WRITTEN, _FIRST = 0, 1, 2, 3, 8
_FIRST_TIME: Final = _FIRST + RING
_TAIL_AT: Final = 8 * (_FIRST_TIME + _TIMES)
TAIL_SIZE: Final = 64 << 10
PAGE_SIZE: Final = _TAIL_AT + TAIL_SIZE


def memory_file(name: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    fd, path = tempfile.mkstemp(prefix="trio-isolates-")
    os.unlink(path)
    return fd


def _make_fence() -> Callable[[], None]:
    """Return a function: what was written before its call is seen by others before what is done after it.

    Nobody else holds the lock. To give it back and take it again is a fence on every processor; to
    take it once is not on ARM.
    """
    lock = threading.Lock()
    acquire, release = lock.acquire, lock.release

    def fence() -> None:
        acquire()
        release()
        acquire()
        release()

    return fence


@final
class Page:
    """One page of memory with a writer for each of its words, so that it needs no lock.

    The parent asks "has it begun?" after it has written "cancelled", and the isolate asks
    "is it cancelled?" after it has written "begun": whichever comes second sees the other, so a
    call never counts as never begun and runs all the same. A fence stands between the two steps
    on both sides.
    """

    def __init__(self, memory: bytearray | mmap.mmap, fd: int = -1) -> None:
        self._memory = memory
        self.fd = fd
        self._view = memoryview(memory)
        self._words = self._view[:_TAIL_AT].cast("Q")
        self._tail = self._view[_TAIL_AT:PAGE_SIZE]
        self._fence = _make_fence()
        self._fence_taking = _make_fence()  # the signal may come while `begin` holds the other's lock
        self._seen = 0
        self._pushed = 0
        self._begun_at_close: int | None = None
        self._last_words_at = PAGE_SIZE

    @classmethod
    def local(cls) -> Page:
        """Return a page that both sides reach because they live in one process."""
        return cls(bytearray(PAGE_SIZE))

    @classmethod
    def create(cls, beside: bytes) -> Page:
        """Return a new page whose `fd` another process can inherit; `beside` lies behind the page."""
        fd = memory_file("trio_isolates")
        try:
            os.ftruncate(fd, PAGE_SIZE)
            done = 0
            while done < len(beside):
                done += os.pwrite(fd, beside[done:], PAGE_SIZE + done)
            page = cls(mmap.mmap(fd, PAGE_SIZE), fd)
            page._last_words_at += done
            return page
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int) -> tuple[Page, bytes]:
        """Open the page of another process by its `fd`; return it and what lies behind.

        What is then written to the `fd` itself are the last words.
        """
        size = os.fstat(fd).st_size - PAGE_SIZE
        beside = b""
        while len(beside) < size:
            beside += os.pread(fd, size - len(beside), PAGE_SIZE + len(beside))
        os.lseek(fd, 0, os.SEEK_END)
        return cls(mmap.mmap(fd, PAGE_SIZE), fd), beside

    def close(self) -> None:
        """Let go of the memory and the descriptor; `begun` stays as it is."""
        self._begun_at_close = self.begun
        self._words.release()
        self._tail.release()
        self._view.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    # The isolate's side.

    def begin(self, ident: int) -> bool:
        """Mark the call as begun; return True if there are cancellations that nobody has taken."""
        words = self._words
        words[_FIRST_TIME + ident % _TIMES] = time.monotonic_ns()
        words[_BEGUN] = ident
        self._fence()
        return words[_CANCELLED] != self._seen

    def take_cancelled(self) -> list[int]:
        """Return the ids that were cancelled since the last time."""
        words = self._words
        first, last = self._seen, words[_CANCELLED]
        if first == last:
            return []
        self._fence_taking()
        idents = [words[_FIRST + i % RING] for i in range(first, last)]
        self._fence_taking()
        self._seen = words[_SEEN] = last
        return idents

    def write_stderr(self, data: bytes | memoryview) -> None:
        """Keep the end of what was written to stderr; it can be read after the isolate's death."""
        data = memoryview(data)[-TAIL_SIZE:]
        at = self._words[_WRITTEN] % TAIL_SIZE
        first = min(len(data), TAIL_SIZE - at)
        self._tail[at : at + first] = data[:first]
        self._tail[: len(data) - first] = data[first:]
        self._words[_WRITTEN] += len(data)

    # The parent's side.

    @property
    def begun(self) -> int:
        """The id of the last call that the isolate has begun; 0 before the first."""
        return self._words[_BEGUN] if self._begun_at_close is None else self._begun_at_close

    def began_at(self, ident: int) -> float | None:
        """Return when a call was begun, by `time.monotonic`; None if that is not known any more."""
        if self._begun_at_close is not None or not 0 <= self.begun - ident < _TIMES:
            return None
        return self._words[_FIRST_TIME + ident % _TIMES] / 1e9

    def cancel(self, ident: int) -> bool:
        """Tell the isolate that the call is cancelled; return True if it has begun, or may have.

        False is certain: the call has not begun, and never will. True may also mean that there
        was no room to tell: ask again.
        """
        return self._push(ident) or self._words[_BEGUN] >= ident

    def ask_back(self, ident: int) -> bool:
        """Tell the isolate not to begin the call, nor to stop it if it has; return as `cancel` does.

        After True it may still be dropped.
        """
        return self._push(ident | ASKED_BACK) or self._words[_BEGUN] >= ident

    def _push(self, entry: int) -> bool:
        """Have the isolate see an entry before it begins another call; return True if there was no room."""
        words = self._words
        if self._pushed - words[_SEEN] >= RING:
            return True
        words[_FIRST + self._pushed % RING] = entry
        self._pushed += 1
        self._fence()
        words[_CANCELLED] = self._pushed
        self._fence()
        return False

    def stderr_tail(self) -> str:
        """Return the end of what the isolate wrote to stderr, at most 64 KiB."""
        written = self._words[_WRITTEN]
        at = written % TAIL_SIZE
        data = bytes(self._tail[:at])
        if written >= TAIL_SIZE:
            data = bytes(self._tail[at:]) + data
            data = data[_cut_character(data) :]
        return data.decode("utf-8", "replace")

    def last_words(self) -> bytes:
        """Return what the isolate wrote to the `fd`, at most 64 KiB."""
        return os.pread(self.fd, TAIL_SIZE, self._last_words_at) if self.fd >= 0 else b""


def _cut_character(data: bytes) -> int:
    """Return how many bytes at the front are the rest of a UTF-8 character whose beginning is gone."""
    return next((count for count in range(4) if data[count] & 0xC0 != 0x80), 0)
