"""Stopping a sync function between two bytecodes, and nothing but that function.

The parent writes a call's id into the shared page and sends SIGURG, which is ignored by default
and used by nobody. This module decides whether `CallInterrupted` may be raised at this very point
of the stack. It does not know how a call comes in, nor how its answer goes out.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, final

from ._errors import CallInterrupted
from ._memory import Page
from ._messages import CANCELLED, ERROR, VALUE

SIGNAL: Final = signal.SIGURG

# Half-done imports, log records and messages cannot be taken up again: wait until they are through.
_BUSY: Final = frozenset(
    {"importlib", "importlib._bootstrap", "importlib._bootstrap_external"}
    | {"_frozen_importlib", "_frozen_importlib_external", "threading", "logging"}
    | {f"{__package__}.{name}" for name in ("_worker", "_link", "_pickling", "_exceptions", "_memory")}
)
_GUARDS: Final = frozenset({"__enter__", "__exit__", "__del__"})
_LOCK_GUARDS: Final = frozenset({"acquire", "release"})
_WAITS: Final = frozenset({"wait", "join", "_wait_for_tstate_lock"})


@final
class Interrupter:
    """Raises `CallInterrupted` in the function of the running call, if that call was cancelled.

    The law of the window: `running` is the call's id exactly while its function may be stopped;
    the signal handler takes it back to 0 before it raises, so that it raises once and hits nothing
    after. Only a function that has swallowed that one is raised in again, and then never in the
    frame of `run` itself.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._draining = False
        self.cancelled: set[int] = set()
        self.running = 0
        self.active = 0  # as `running`, but kept until the call's answer is made
        self.base: FrameType | None = None
        self.stop_async: Callable[[], Any] | None = None

    def begin(self, ident: int) -> bool:
        """Mark the call as begun; return False if the parent has cancelled it before, so that it must not run."""
        if self._page.begin(ident):
            self.drain()
        if not self.cancelled:
            return True
        cancelled = ident in self.cancelled
        for other in list(self.cancelled):  # a copy: the signal may add to it meanwhile
            if other <= ident:
                self.cancelled.discard(other)
        return not cancelled

    def run(
        self, ident: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, Any]:
        """Call the function in a window in which it, and nothing else, can be interrupted.

        Returns VALUE, ERROR or CANCELLED and what goes with it. The signal may land at any bytecode
        of this method, too: hence two levels of try.
        """
        self.base = sys._getframe()
        self.active = ident
        try:
            try:
                self.running = ident
                if ident in self.cancelled:
                    raise CallInterrupted
                value = function(*args, **kwargs)
                self.running = 0
                answer = VALUE, value
            except CallInterrupted:
                raise
            except BaseException as exc:
                self.running = 0
                answer = ERROR, exc
        except CallInterrupted:
            self.running = 0
            answer = CANCELLED, None
        self.active = 0
        return answer

    def install(self) -> None:
        """Take the signal over. Must be called in the main thread."""
        signal.signal(SIGNAL, self._on_signal)

    def drain(self) -> None:
        """Take note of what the parent has cancelled; safe to be entered by the signal meanwhile."""
        if self._draining:
            return
        self._draining = True
        try:
            self.cancelled.update(self._page.take_cancelled())
        finally:
            self._draining = False

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.drain()
        if self.active not in self.cancelled or not self.active:
            return
        if self.stop_async is not None:
            self.stop_async()
        elif self.running:
            if self._may_raise(frame):
                self.running = 0
                raise CallInterrupted
        elif frame is not self.base and self._is_inside(frame) and self._may_raise(frame) and not _cleaning_up():
            raise CallInterrupted

    def _is_inside(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame is self.base:
                return True
            frame = frame.f_back
        return False

    def _may_raise(self, frame: FrameType | None) -> bool:
        """Say whether the stack above `base` allows it; if a guard stands on it, arm its caller."""
        if frame is None or _is_waiting(frame):
            return True
        while frame is not None and frame is not self.base:
            name, module = frame.f_code.co_name, frame.f_globals.get("__name__")
            if name in _GUARDS or (module == "threading" and name in _LOCK_GUARDS):
                self._arm(frame.f_back)
                return False
            if module in _BUSY:
                return False
            frame = frame.f_back
        return True

    def _arm(self, caller: FrameType | None) -> None:
        """Raise at the next line of `caller`, when the `with` statement knows what it has entered."""
        if caller is None or caller is self.base or not self._is_inside(caller):
            return
        caller.f_trace = self._on_trace
        sys.settrace(lambda *_: None)

    def _on_trace(self, frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace = None
        sys.settrace(None)
        if self.active and self.active in self.cancelled:
            self.running = 0
            raise CallInterrupted
        return None


def _is_waiting(innermost: FrameType) -> bool:
    """True in a blocking wait of `threading`, which gives its locks back when it is left."""
    return innermost.f_globals.get("__name__") == "threading" and innermost.f_code.co_name in _WAITS


def _cleaning_up() -> bool:
    """True if the code at this point handles an earlier interrupt."""
    exc = sys.exception()
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if isinstance(exc, CallInterrupted):
            return True
        seen.add(id(exc))
        exc = exc.__context__
    return False
