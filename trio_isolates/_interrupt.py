"""Stopping a sync function between two bytecodes, and nothing but that function.

The parent writes a call's id into the shared page and sends SIGURG, which is ignored by default
and used by nobody. This module decides whether `CallInterrupted` may be raised at this very point
of the stack. It does not know how a call comes in, nor how its answer goes out.
"""

from __future__ import annotations

import dis
import operator
import resource
import signal
import sys
import threading
from collections.abc import Callable, Container
from types import CodeType, FrameType
from typing import Any, Final, TypeVar, final

from ._errors import CallInterrupted
from ._memory import ASKED_BACK, Page
from ._messages import CANCELLED, ERROR, VALUE

F = TypeVar("F", bound=Callable[..., Any])

SIGNAL: Final = signal.SIGURG

# Frames that must not be left in the middle: a half-done import, log record or message cannot be
# taken up again, a lock that is half taken is never given back, a process half started never killed.
_IMPORT: Final = frozenset(
    {"importlib", "importlib._bootstrap", "importlib._bootstrap_external"}
    | {"_frozen_importlib", "_frozen_importlib_external"}
)
_OURS: Final = frozenset(
    f"{__package__}.{name}"
    for name in {"_boot", "_bulk", "_by_value", "_direct", "_entry", "_exceptions", "_exchange"}
    | {"_identities", "_inbox", "_interrupt", "_link", "_memory", "_notes", "_peers", "_pickling"}
    | {
        "_ports",
        "_progress",
        "_service",
        "_shared_buffer",
        "_side",
        "_sync_server",
        "_async_server",
        "_views",
        "_wire",
    }
)
_LOCKING: Final = frozenset({"logging", "threading"})
_STARTS: Final = frozenset({("subprocess", "__init__"), ("multiprocessing.process", "start")})
_GUARDS: Final = frozenset({"__enter__", "__exit__", "__del__", "enter_context"})

# What a statement still does after its last call, or between the call of a context manager's class
# and the first line of the block.
_TRIVIAL: Final = frozenset(
    dis.opmap.get(name)
    for name in {"BEFORE_WITH", "CACHE", "EXTENDED_ARG", "NOP", "POP_TOP"}
    | {"STORE_DEREF", "STORE_FAST", "STORE_GLOBAL", "STORE_NAME"}
)
_CACHE: Final = dis.opmap["CACHE"]
_PRECALL: Final = dis.opmap.get("PRECALL", -1)  # in 3.11: may make the call, and skip the CALL behind it
_CALLS: Final = frozenset(
    number for name, number in dis.opmap.items() if name.startswith(("CALL", "PRECALL"))
)
# Where the interpreter itself, and not the code, calls signal handlers and finalizers.
_BETWEEN: Final = frozenset(
    number for name, number in dis.opmap.items() if name == "RESUME" or "JUMP_BACKWARD" in name
)
_THREAD: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_NO_WORK: Final = 0.001  # seconds, more than it takes to look at two signals
_open: Final[set[CodeType]] = set()


def interruptible(function: F) -> F:
    """Decorate a function of this package that calls a handler, and may be left with it."""
    _open.add(function.__code__)
    return function


def _exception_table(code: CodeType) -> list[tuple[int, int, int]]:
    """Return the ranges of bytecode in which exceptions are handled, each as (start, end, handler)."""
    found: Any = dis.Bytecode(code)  # whose `exception_entries` the type stubs do not know
    entries: list[Any] = found.exception_entries
    return [(entry.start, entry.end, entry.target) for entry in entries]


def _waits() -> dict[CodeType, tuple[int, int]]:
    """Return the functions of `threading` that wait, and the range of their bytecode that may be left.

    Outside the first `try` of `Condition.wait` its lock is not held, or a waiter is left over.
    """
    code = threading.Condition.wait.__code__
    start, end, _ = _exception_table(code)[0]
    waits = {code: (start, end)}
    for name in ("join", "_wait_for_tstate_lock"):
        if (function := getattr(threading.Thread, name, None)) is not None:
            waits[function.__code__] = (0, sys.maxsize)
    return waits


_WAITS: Final = _waits()


class _Calling:
    """`_Calling[f]` is `f()`, but no signal is looked at between its return and the next bytecode.

    After a call there is: a value that the function has returned would be lost to an interrupt
    that came too late to stop it.
    """

    __class_getitem__ = operator.call


_Call: Final[Any] = _Calling


@final
class Interrupter:
    """Raises `CallInterrupted` in the function of the running call, if that call was cancelled.

    The law of the window: `running` is the call's id exactly while its function may be stopped;
    it is taken back to 0 before `CallInterrupted` is raised, so that this is raised once and hits
    nothing after. Only a function that has swallowed that one is raised in again, and then never
    in the frame of `run` itself.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._busy = False  # in `drain` or the signal handler, which must not interrupt themselves
        self._most = 64  # cancelled ids above which those that are over are swept out
        self._armed: FrameType | None = None  # in which to raise, as soon as it has come
        self._place = 0  # to this bytecode
        self._armed_at = _work()
        self._was_tracing = False
        self._tracer: Any = None  # the user's, meanwhile
        self._local_tracer: tuple[Any, bool] = None, False
        self.cancelled: set[int] = set()
        self.running = 0
        self.active = 0  # as `running`, but kept until the call's answer is made
        self.stop_async: Callable[[], Any] | None = None

    def begin(self, ident: int, unanswered: Container[int] = ()) -> bool:
        """Mark the call as begun; return False if it must not run: it was cancelled, or asked back.

        unanswered: the calls that were begun before and may still be stopped.
        """
        if self._page.begin(ident):
            self._busy = True
            self._drain()
            self._busy = False
        cancelled = self.cancelled
        if not cancelled:
            return True
        if len(cancelled) > self._most:
            for other in list(cancelled):  # a copy: the signal may add to it meanwhile
                if other & ~ASKED_BACK < ident and other not in unanswered:
                    cancelled.discard(other)
            self._most = 64 + 2 * len(cancelled)
        if ident not in cancelled and ident | ASKED_BACK not in cancelled:
            return True
        cancelled.discard(ident)
        cancelled.discard(ident | ASKED_BACK)
        self._most = min(self._most, 64 + 2 * len(cancelled))
        return False

    def run(self, ident: int, call: Callable[[], Any]) -> tuple[int, Any]:
        """Make the call in a window in which its function, and nothing else, can be interrupted.

        Returns VALUE, ERROR or CANCELLED and what goes with it. The signal may land at any bytecode
        of this method, too: hence two levels of try.
        """
        self.active = ident
        try:
            try:
                self.running = ident
                if ident in self.cancelled:
                    raise CallInterrupted
                value = _Call[call]
                self.running = 0
                answer = VALUE, value
            except CallInterrupted:
                self.running = 0
                raise
            except BaseException as exc:
                self.running = 0
                answer = ERROR, exc
        except CallInterrupted:
            self.active = 0  # before the exception is let go, and with it what the function held
            answer = CANCELLED, None
        self.active = 0
        if self._was_tracing:
            self._disarm()
            sys.settrace(self._tracer)
            self._was_tracing = False
        if answer[0] == ERROR and ident in self.cancelled and _is_interrupt(answer[1]):
            answer = CANCELLED, None
        try:
            return answer
        finally:
            del answer  # an exception holds this frame, which must not hold the exception

    def install(self) -> None:
        """Take the signal over. Must be called in the main thread."""
        signal.signal(SIGNAL, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})

    def _drain(self) -> None:
        """Take note of what the parent has cancelled."""
        while idents := self._page.take_cancelled():
            self.cancelled.update(idents)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._busy:  # it will come again
            return
        self._busy = True
        try:
            self._drain()
            if not self.active or self.active not in self.cancelled:
                return
            if self.stop_async is not None:
                self.stop_async()
            elif self._may_raise(frame):
                self._disarm()
                self.running = 0
                raise CallInterrupted
        finally:
            self._busy = False

    def _may_raise(self, frame: FrameType | None) -> bool:
        """Say whether the call's stack allows it. If not yet, see to it that it is raised once it does."""
        if not self.running and (frame is None or frame.f_code is _BASE or _is_cleaning_up()):
            return False
        waits = frame is not None and _is_waiting(frame)
        innermost, outermost = frame, None
        while frame is not None and frame.f_code is not _BASE:
            if _must_be_whole(frame, waits):
                outermost = frame
            frame = frame.f_back
        if frame is None:
            return False
        if outermost is not None:
            self._arm(outermost.f_back)
            return False
        assert innermost is not None
        if self._armed is innermost and innermost.f_lasti < self._place:
            return _has_worked(self._armed_at)  # still in the same call, which blocks
        if not waits and innermost.f_code.co_code[innermost.f_lasti] in _CALLS:
            first, place = _places_after(innermost)
            if first != place:
                self._arm(innermost)
                return False
        return True

    # Raising later: when the frame has taken note of what its call has entered or acquired.

    def _arm(self, caller: FrameType | None) -> None:
        """Raise in `caller` when the call that it is in has returned."""
        if caller is self._armed or caller is None or caller.f_code is _BASE:
            return
        if caller.f_code.co_code[caller.f_lasti] in _BETWEEN:  # not in a call; the signal comes again
            return
        self._disarm()
        if not self._was_tracing:
            self._was_tracing = True
            self._tracer = sys.gettrace()
        self._armed, self._place, self._armed_at = caller, _places_after(caller)[1], _work()
        self._local_tracer = caller.f_trace, caller.f_trace_opcodes
        caller.f_trace_opcodes = True
        caller.f_trace = self._on_trace
        sys.settrace(_ignore)

    def _disarm(self) -> None:
        frame, self._armed = self._armed, None
        if frame is not None:
            frame.f_trace, frame.f_trace_opcodes = self._local_tracer
            self._local_tracer = None, False
            sys.settrace(self._tracer)

    def _on_trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if event != "exception" and not (event == "opcode" and frame.f_lasti >= self._place):
            return self._on_trace
        self._disarm()
        if self.active in self.cancelled and (self.running or not _is_cleaning_up()):
            self.running = 0
            raise CallInterrupted
        return None


_BASE: Final = Interrupter.run.__code__


def _ignore(frame: FrameType, event: str, arg: object) -> None:
    """A trace function that lets the functions called from here on run untraced."""


def _must_be_whole(frame: FrameType, waits: bool) -> bool:
    code, module = frame.f_code, frame.f_globals.get("__name__")
    if module in _IMPORT or (module in _OURS and code not in _open) or (module, code.co_name) in _STARTS:
        return True
    return not waits and (code.co_name in _GUARDS or module in _LOCKING)


def _is_waiting(innermost: FrameType) -> bool:
    """True in a blocking wait of `threading`, which gives its locks back when it is left."""
    start, end = _WAITS.get(innermost.f_code, (0, 0))
    return start <= innermost.f_lasti < end


def _work() -> tuple[int, float]:
    """Return how often this thread has waited for something, and the seconds that it has computed."""
    usage = resource.getrusage(_THREAD)
    return usage.ru_nvcsw, usage.ru_utime + usage.ru_stime


def _has_worked(since: tuple[int, float]) -> bool:
    """False if no time has passed since then but that in which others had the processor."""
    waits, seconds = _work()
    return waits > since[0] or seconds > since[1] + _NO_WORK


def _places_after(frame: FrameType) -> tuple[int, int]:
    """Return the bytecode behind the one that the frame is at, and that at which to raise.

    They are the same, unless a `with` or a `try` begins before anything else is done: what acquires
    something and the block that gives it back belong together. Then it is the first one inside.
    """
    code, table = frame.f_code.co_code, _exception_table(frame.f_code)
    first = frame.f_lasti + 2
    while code[first] == _CACHE or (code[frame.f_lasti] == _PRECALL and code[first] in _CALLS):
        first += 2
    place = best = first
    outer = _handlers(table, first)
    while code[place] in _TRIVIAL:
        place += 2
        inner = _handlers(table, place)
        if len(inner) > len(outer) and inner[len(inner) - len(outer) :] == outer:
            best, outer = place, inner
    return first, best


def _handlers(table: list[tuple[int, int, int]], place: int) -> list[int]:
    """Return where an exception at this place goes, from there if it is raised again, and so on."""
    found: list[int] = []
    while True:
        target = next((target for start, end, target in table if start <= place < end), None)
        if target is None or target in found:
            return found
        found.append(target)
        place = target


def _is_cleaning_up() -> bool:
    """True if the code at this point handles an earlier interrupt."""
    exc = sys.exception()
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if isinstance(exc, CallInterrupted):
            return True
        seen.add(id(exc))
        exc = exc.__context__
    return False


def _is_interrupt(exc: BaseException) -> bool:
    """True for a group that holds nothing but interrupts, as task groups make it."""
    if issubclass(type(exc), BaseExceptionGroup):
        return all(map(_is_interrupt, exc.exceptions))  # type: ignore[attr-defined]
    return issubclass(type(exc), CallInterrupted)
