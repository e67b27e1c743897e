"""Long sync work to short pieces of it, between which its caller does other things.

The work has a thread, but it runs only while its caller stands still and waits for it: the two take
turns, so there are no more races than if all ran in one thread. This module does not know what the
work is, nor what goes on between two pieces of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, final

import outcome

_PIECE: Final = 0.001  # seconds after which the work gives way, when it next can


@final
class Stopped(BaseException):
    """Raised in work that is to end at once."""


@final
class Work:
    """A function that is called in pieces: `step` until that returns True; then there is a result.

    Who does not step it to its end must `stop` it. Raises `RuntimeError` if there can be no thread.
    """

    def __init__(self, fn: Callable[[], Any], name: str) -> None:
        self._mine, self._callers = threading.Lock(), threading.Lock()  # whose is held, waits
        self._mine.acquire()
        self._callers.acquire()
        self._fn: Callable[[], Any] | None = fn
        self._result: outcome.Outcome[Any] | None = None
        self._is_stopped = False
        self._is_done = False
        self._due = 0.0
        # A daemon: if its caller is lost, so is the work, and the program can end all the same.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._mine.acquire()
        _here.work = self
        fn, self._fn = self._fn, None
        if fn is not None and not self._is_stopped:
            self._result = outcome.capture(fn)
        self._is_done = True
        del fn
        self._callers.release()

    def step(self) -> bool:
        """Have the next piece done; return True if it was the last."""
        self._due = perf_counter() + _PIECE
        self._mine.release()
        self._callers.acquire()
        if self._is_done:
            self._thread.join()
        return self._is_done

    def result(self) -> outcome.Outcome[Any]:
        """Return what came of it, once."""
        result, self._result = self._result, None
        assert result is not None
        return result

    def stop(self) -> None:
        """End it, by raising `Stopped` where it has given way, and wherever it would again."""
        if not self._is_done:
            self._is_stopped = True
            self.step()
        self._result = None

    def give_way(self) -> None:
        """Let the caller go on if it has waited for long enough. Called by the work itself."""
        if perf_counter() >= self._due and not self._is_stopped:
            self._callers.release()
            self._mine.acquire()
        if self._is_stopped:
            raise Stopped


class _Here(threading.local):
    work: Work | None = None


_here = _Here()


def work_here() -> Work | None:
    """Return the work that is being done in this thread, if it is there for one."""
    return _here.work
