"""Calls to one isolate: sent, waited for, cancelled, settled exactly once.

A call returns, by any path, only when its work has stopped: that is the law of this module. It
does not choose the isolate, nor replace it when it dies; that is `_supervisor`'s part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, NoReturn, final

import outcome
import trio

from ._call import Call, Counts, items, rename
from ._calls import Calls
from ._errors import IsolateError, ProtocolError, RemoteError, UnsendableError
from ._isolate import Isolate
from ._messages import CALL, CANCEL, CANCELLED, CHUNK, DROPPED, ERROR, VALUE, Buffer, Chunk
from ._notes import CANCEL as NOTE_CANCEL
from ._notes import INTERRUPT, KIND_SHIFT, MOST_NUMBERS, NEVER, REPLY, REQUEST, WITHDRAWN
from ._options import Options
from ._resident import resident_bytes
from ._service import Methods, describe_call
from ._shared_buffer import twins

_FIRST_REPEAT: Final = 0.005  # seconds after which an interrupt that found the stack busy is tried again
_LAST_REPEAT: Final = 0.1
_BETWEEN_WEIGHINGS: Final = 0.05  # seconds
_MANY: Final = 4096  # durations that are sorted together
_AT_HAND: Final = 0.001  # seconds that the calls take which an isolate of a pool holds besides those it runs
_MOST_AT_HAND: Final = 32
_MOST_TAKEN_BACK: Final = 64  # calls of which an isolate does not know yet that they went to others
_EAGER: Final = 3  # calls in flight up to which a request is written at once instead of gathering company


@final
class Client:
    """The calls to one isolate. `run()` must be running as long as the isolate lives."""

    def __init__(
        self,
        options: Options,
        counts: Counts,
        *,
        on_room: Callable[[Client], None],
        on_death: Callable[[Client, list[Call]], None],
        on_return: Callable[[Call], None],
        on_error: Callable[[BaseException], None],
        on_heavy: Callable[[Client], None],
    ) -> None:
        self._options = options
        self._counts = counts
        self._runs = counts.runs.new  # sorted in place
        self._on_room = on_room
        self._on_death = on_death
        self._on_return = on_return
        self._on_heavy = on_heavy
        self._calls: Calls[Call] = Calls()
        self._nursery: trio.Nursery | None = None
        self.isolate = Isolate(
            options.engine,
            options.spec,
            gc_policy=options.gc,
            on_answer=self._answer,
            wants=self._wants,
            on_death=self._died,
            on_room=lambda: on_room(self),
            on_error=on_error,
        )
        self.load = 0  # calls sent and unanswered
        self.given = 0  # calls sent so far
        self.keys: set[Hashable] = set()  # of the calls that come here
        self.most: int | None = None  # calls that it is given
        self.max_memory: int | None = None  # bytes resident above which it is relieved
        self.left = trio.Event()  # it takes no more calls
        self.spent = trio.Event()  # and it has answered all
        self._taken_back: set[int] = set()  # and not yet told that they were dropped
        self._weighed = 0.0
        self._manned_from = self._busy_from = self._last_answer = 0.0
        self._is_serial = False
        self._room: int | None = None  # for calls that it runs side by side, if it holds others at hand
        self._usual = _AT_HAND  # seconds that a call takes
        self.limit = options.max_in_flight
        self.is_open = False
        self.is_ours = False  # we end it ourselves; its death is nobody's fault
        self.died_in_call = False
        self.was_noticed = False

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Start the isolate and carry its calls until it is gone. Cancelled from outside, it goes on."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as self._nursery:
                await self.isolate.run()
                self._nursery.cancel_scope.cancel()

    def start(self, call: Call) -> None:
        """Send a call, unless its own pickling ends it. Raises `UnsendableError`; it is then as it was."""
        try:
            if call.spares:  # the isolate that had them has died
                call.take_back()
            pickled = self.isolate.codec.dumps(call.payload, "args")
            if call.is_settled:
                self.isolate.define(pickled[2])
                return
            if pickled[1]:
                call.spares = twins(pickled[1])
            ident = self._calls.next_ident
            now = perf_counter()
            self.isolate.send(call.kind, ident, *pickled, now=len(self._calls) < _EAGER)
        except UnsendableError as exc:
            rename(exc, call.kind, call.payload, isinstance(self._options.spec.handler, Methods))
            raise
        call.client = self
        call.ident = self._calls.add(call)
        call.sent = now
        if not self.load:
            self._busy_from = now
        self.load += 1
        self.given += 1 if call.kind != CHUNK else items(call)
        if (chronicle := self.isolate.chronicle) is not None:
            about = chronicle.usual if call.kind == CALL else 0
            chronicle.take((now, REQUEST, ident, about or chronicle.about(call.kind, call.payload)))

    def open(self) -> None:
        """It is ready for calls."""
        self.is_open = True
        self._is_serial = self.isolate.concurrency == 1
        self._manned_from = perf_counter()

    def hold(self, *, at_hand: bool) -> None:
        """Take only so many calls as it can run at once; at_hand: and the next, lest it wait for them."""
        room = self.isolate.concurrency
        if room is not None:
            self.limit = min(self.limit, room + at_hand)
            self._room = room if at_hand else None

    def _learn(self, room: int, seconds: float) -> None:
        """Hold as many at hand as take about a millisecond: one at least."""
        self._usual += (seconds - self._usual) / 16
        at_hand = room * _AT_HAND / self._usual
        self.limit = min(room + max(1, min(_MOST_AT_HAND, int(at_hand))), self._options.max_in_flight)

    def retire(self) -> None:
        """Take no more calls. `spent` is set when those that were taken are answered."""
        self.is_open = False
        self.left.set()
        if not self.load:
            self.spent.set()

    def times(self) -> tuple[float, float]:
        """Return the seconds so far in which it had a call, and was there, not counted yet."""
        now = perf_counter()
        busy = now - self._busy_from if self.load else 0.0
        return busy, now - self._manned_from if self._manned_from else 0.0

    def _take_time(self, call: Call, now: float) -> None:
        """Take note of how long it ran."""
        start = call.sent
        if self._is_serial and self._last_answer > start:  # it stood behind another one there
            start = self._last_answer
        self._last_answer = now
        runs = self._runs
        runs.append(now - start)
        if len(runs) >= _MANY:
            self._counts.runs.sort()
        if call.made:
            waits = self._counts.waits
            waits.new.append(call.sent - call.made)
            if len(waits.new) >= _MANY:
                waits.sort()
        if self._room is not None:
            self._learn(self._room, now - start)

    def _weigh(self, now: float, most: int) -> None:
        if self.is_open and now - self._weighed > _BETWEEN_WEIGHINGS:
            self._weighed = now
            pid, segments = self.isolate.pid, self.isolate.mapped_bytes
            if pid is not None and resident_bytes(pid, segments) > most:
                self._on_heavy(self)

    def _free(self) -> None:
        """One call less is here."""
        if self.is_open:
            self._on_room(self)
        elif not self.load:
            self.spent.set()

    @property
    def in_flight(self) -> int:
        """How many calls are here whose callers wait for them."""
        return sum(not call.is_settled for call in self._calls)

    def would_wear_out(self, call: Call) -> bool:
        """True if it would get more calls with this one than it is to be given."""
        return self.most is not None and self.given + items(call) > max(self.most, items(call))

    @property
    def has_room(self) -> bool:
        if not self.is_open or self.load >= self.limit or self.isolate.link.is_full:
            return False
        return len(self._taken_back) < _MOST_TAKEN_BACK

    # Calls that another isolate could begin sooner.

    def ask_back(self, is_free: Callable[[Call], bool]) -> Call | None:
        """Return a call that stands behind others here, and now never begins here; None if there is none.

        is_free: which may go elsewhere. One that may have begun meanwhile stays; if the isolate says
        that it has not, it is returned by `on_return`.
        """
        if self.load < 2:
            return None
        for ident, call in self._calls.unbegun(self.isolate.begun):
            if call.raise_cancel is None and not (call.is_settled or call.is_asked_back) and is_free(call):
                call.is_asked_back = True
                if self.isolate.host.page.ask_back(ident):
                    continue  # those behind it will wait for it if it has
                self._calls.answer(ident)
                self._taken_back.add(ident)
                self._take_off(call)
                return call
        return None

    def _take_off(self, call: Call) -> None:
        self._note(WITHDRAWN, call)
        self._less_load(perf_counter())
        self.given -= items(call)
        call.go_back()

    def _less_load(self, now: float) -> None:
        self.load -= 1
        if not self.load:
            self._counts.busy += now - self._busy_from

    # Answers.

    def _answer(self, kind: int, ident: int, body: Chunk, buffers: Sequence[Buffer]) -> None:
        call = self._calls.answer(ident)
        if call is None:
            self._counts.late_replies += ident not in self._taken_back
            self._taken_back.discard(ident)
            self._on_room(self)
            return
        if kind == DROPPED and self._takes_back(call):
            return
        if kind == VALUE and not call.ctrl_c:  # by far the most
            try:
                result: outcome.Outcome[Any] = outcome.Value(self.isolate.load(body, buffers))
            except BaseException as exc:
                result = outcome.Error(exc)
        else:
            result = self._open(call, kind, body, buffers)
        self._settle(call, result, cancelled=kind in (CANCELLED, DROPPED))
        now = perf_counter()
        if (chronicle := self.isolate.chronicle) is not None:
            about = chronicle.about_result(kind, result) if chronicle.keeps_values else chronicle.number
            chronicle.take((now, REPLY | kind << KIND_SHIFT, ident, about))
            if len(chronicle.numbers) > MOST_NUMBERS:
                chronicle.flush()
        if kind != DROPPED:
            self._take_time(call, now)
        if self.max_memory is not None:
            self._weigh(now, self.max_memory)
        self._less_load(now)
        self._free()

    def _open(self, call: Call, kind: int, body: Chunk, buffers: Sequence[Buffer]) -> outcome.Outcome[Any]:
        """Return what the caller gets by an answer."""
        is_stopped = kind not in (VALUE, ERROR)
        if call.raise_cancel is not None and (is_stopped or call.ctrl_c):
            # After a Ctrl-C it is: Trio has forgotten that, and it must not be lost.
            result: outcome.Outcome[Any] = outcome.capture(call.raise_cancel)
        elif is_stopped:
            result = outcome.Error(RemoteError("trio_isolates.CallInterrupted", "nobody cancelled it"))
        else:
            result = outcome.Error(self.isolate.load_error(body, buffers))
        return result

    def _takes_back(self, call: Call) -> bool:
        """The isolate has dropped a call: return True if it was asked to, and it goes to another one."""
        if not call.is_asked_back or call.raise_cancel is not None or call.is_settled:
            call.take_back()
            return False
        self._take_off(call)
        self._on_return(call)
        self._free()
        return True

    def _wants(self, ident: int) -> Callable[[], bool]:
        """Somebody wants an answer until he is cancelled; or all the same, if he was before it came."""
        call = self._calls.waiting(ident)
        if call is None or call.is_settled or call.ctrl_c:
            return lambda: False
        was_cancelled = call.raise_cancel is not None
        return lambda: not call.is_settled and (was_cancelled or call.raise_cancel is None)

    def _settle(self, call: Call, result: outcome.Outcome[Any], *, cancelled: bool = False) -> None:
        if call.is_settled:
            return
        call.is_settled = True
        if cancelled:
            self._counts.cancelled += 1
        elif isinstance(result, outcome.Value):
            self._counts.done += 1 if call.kind != CHUNK else items(call)
        else:
            self._counts.failed += 1
        if call.settled is not None:
            call.settled.set()
        trio.lowlevel.reschedule(call.task, result)

    def _drop(self, call: Call, why: Callable[[], Any]) -> None:
        """Settle a call that never begins."""
        if not call.is_settled:
            self._note(NEVER, call)
            call.take_back()
            self._settle(call, outcome.capture(why), cancelled=True)

    # Cancellation.

    def abort(self, call: Call) -> trio.lowlevel.Abort:
        """The caller was cancelled: it is let go at once only if its call certainly never begins."""
        self._note(NOTE_CANCEL, call)
        if call.raise_cancel is not None:
            # Raised before anybody can know of it, so that a second Ctrl-C can be told from the one
            # that came here.
            try:
                call.raise_cancel()
            except BaseException as exc:
                call.raise_cancel = partial(_raise, exc.with_traceback(None))  # which would be a cycle
                call.ctrl_c = isinstance(exc, KeyboardInterrupt)
        if call.ident == self.isolate.building:
            return trio.lowlevel.Abort.FAILED  # it ends when the building has stopped
        if not self.isolate.host.page.cancel(call.ident):
            self._note(NEVER, call)
            call.is_settled = True
            call.take_back()
            self._counts.cancelled += 1
            if self.isolate.mode == "async":
                self.isolate.send(CANCEL, call.ident, [b""])
            return trio.lowlevel.Abort.SUCCEEDED
        assert self._nursery is not None
        self._nursery.start_soon(self._stop, call, self._options.cancel_grace)
        return trio.lowlevel.Abort.FAILED

    @trio.lowlevel.enable_ki_protection
    async def _stop(self, call: Call, grace: float) -> None:
        """Stop a call that has begun: ask, and after `grace` seconds kill.

        This runs when all calls that were cancelled together stand in the page: a call behind the
        one that is stopped here does not begin just to be stopped as well.
        """
        if call.is_settled or call.settled is not None:
            return
        call.settled = trio.Event()
        is_sync = self.isolate.mode == "sync"
        if not (is_sync and self._options.on_cancel == "kill"):
            if not is_sync:
                self.isolate.send(CANCEL, call.ident, [b""])
            left = grace
            while left > 0 and not (call.settled.is_set() or _ctrl_c_waits()):
                before = self.isolate.building_seconds
                with trio.move_on_after(left):
                    await self._interrupt_until(call, call.settled)
                # It may have been answered, behind a large answer to another call.
                left = min(left, self.isolate.building_seconds - before)
        if self._is_serial and self.isolate.begun > call.ident:
            await call.settled.wait()  # its answer is on the way: a kill would hit the call behind it
        elif not call.settled.is_set():
            self.is_ours = True
            self.isolate.kill(reads_on=not _ctrl_c_waits())  # there may be answers to others

    async def _interrupt_until(self, call: Call, settled: trio.Event) -> None:
        host, wait = self.isolate.host, _FIRST_REPEAT
        while not settled.is_set() and not _ctrl_c_waits():
            self._note(INTERRUPT, call)
            host.interrupt()
            with trio.move_on_after(wait):
                await settled.wait()
            wait = min(2 * wait, _LAST_REPEAT)
            if not settled.is_set() and not host.page.cancel(call.ident) and call.raise_cancel is not None:
                # There was no room in the page before. Now it knows, and this call never begins.
                self._drop(call, call.raise_cancel)

    async def stop_calls(self, grace: float) -> None:
        """Stop every call, side by side, within `grace` seconds; then kill. Their callers see it closed."""
        async with trio.open_nursery() as nursery:
            for call in self._calls:
                if call.raise_cancel is not None:
                    nursery.start_soon(self._wait_settled, call, grace)
                elif self.isolate.host.page.cancel(call.ident):
                    call.raise_cancel = _raise_closed
                    nursery.start_soon(self._stop, call, grace)
                else:
                    if self.isolate.mode == "async":  # a paused one would wait with it for ever
                        self.isolate.send(CANCEL, call.ident, [b""])
                    self._drop(call, _raise_closed)

    @trio.lowlevel.enable_ki_protection
    async def _wait_settled(self, call: Call, grace: float) -> None:
        """Wait for a call that is being stopped already, under its own grace, no longer than under ours."""
        if not call.is_settled and call.settled is not None:
            with trio.move_on_after(grace):
                await call.settled.wait()

    def _note(self, what: int, call: Call) -> None:
        if (chronicle := self.isolate.chronicle) is not None:
            chronicle.note(what, call.ident)

    # The end.

    def _died(self) -> None:
        """Settle whatever is unanswered, now that nothing of it can still be running."""
        isolate = self.isolate
        self.is_open = False
        if isolate.chronicle is not None and self._calls.next_ident > 1 and not isolate.has_said_bye:
            isolate.chronicle.begun(isolate.host.page)
        busy, manned = self.times()
        self._counts.busy += busy
        self._counts.manned += manned
        self._manned_from = 0.0
        begun, unbegun = self._calls.end(isolate.begun)
        self.died_in_call = any(not call.is_settled for call in begun)
        again: list[Call] = []
        for call in begun:
            if call.retries and call.raise_cancel is None and not call.is_settled:
                call.retries -= 1
                call.tried += 1
                self._counts.retried += 1
                self.was_noticed = True
                again.append(call)
            elif call.raise_cancel is not None:
                self._settle(call, outcome.capture(call.raise_cancel), cancelled=True)
            else:
                self.was_noticed = True
                cause = isolate.cause
                name = describe_call(self._options.spec.handler, call.kind, call.payload)
                error: IsolateError = isolate.died(maybe_executed=True, call=name, ident=call.ident)
                if isinstance(cause, ProtocolError):
                    error = ProtocolError(f"isolate {isolate.name!r} (pid {isolate.pid}) was killed: {cause}")
                call.tried += 1
                call.name_tries(error)
                self._settle(call, outcome.Error(error))
        self.load = 0
        self.left.set()
        self.spent.set()
        again += [call for call in unbegun if not self._settle_stopped(call)]
        for call in again:
            call.go_back()
        self._on_death(self, again)

    def _settle_stopped(self, call: Call) -> bool:
        """An unbegun call that was to be stopped has nowhere to go; return whether it is settled."""
        if call.raise_cancel is not None:
            self._drop(call, call.raise_cancel)
        return call.is_settled


def _ctrl_c_waits() -> bool:
    """True if Trio holds a Ctrl-C back: its main task is waiting for the very thing that is being stopped."""
    context: Any = trio._core._run.GLOBAL_RUN_CONTEXT  # pyright: ignore[reportPrivateUsage]
    runner = getattr(context, "runner", None)
    return bool(getattr(runner, "ki_pending", False))


def _raise(error: BaseException) -> NoReturn:
    raise error


def _raise_closed() -> None:
    raise trio.ClosedResourceError("it was closed while the call was running")
