"""Which call goes to which isolate, and when.

A call goes at once to the isolate with the least to do that has a place, or waits in line: the more
urgent first, else in the order in which they were made. Calls with the same key go to the same
isolate while that lives. A call that its isolate had not begun when it died comes back here. This
module starts no isolate, and does not know what a call says.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import count
from time import perf_counter
from typing import Any, Final, final

import trio

from ._call import Call, Counts
from ._client import Client
from ._messages import EXTENDED
from ._options import Options
from ._ports import SendPort
from ._queue import Line

_UNSET: Final = object()


@final
class Dispatcher:
    """The calls of a crew, on their way to its isolates.

    check: raises unless calls can be made now, and here. check_part: unless those can that are part of
    work that was begun before. unserved: makes the error for a call that
    nobody will serve any more; None: somebody will.
    """

    def __init__(
        self,
        options: Options,
        check: Callable[[], None],
        check_part: Callable[[], None],
        unserved: Callable[[], BaseException | None],
    ) -> None:
        self.options = options
        self.counts = Counts()
        self.clients: list[Client] = []  # open ones
        self._leaving: list[Client] = []  # those with calls that others may take
        self._check = check
        self._check_part = check_part
        self._unserved = unserved
        self.on_wait: Callable[[], None] = _nothing  # is told when a call has to wait
        self.on_worn: Callable[[Client], None] = _nothing  # when an isolate has had its share of calls
        self._line: Line[Call] = Line()
        self._lines: dict[Client, Line[Call]] = {}  # calls that only this one may serve, by their key
        self._owners: dict[Hashable, Client] = {}  # by key
        self._numbers = count()
        self._has_refused = False
        self._active = 0
        self._idle = trio.Event()

    @property
    def queued(self) -> int:
        """How many calls wait for a place."""
        return len(self._line) + sum(map(len, self._lines.values()))

    # Calls.

    @trio.lowlevel.enable_ki_protection
    async def call(
        self,
        kind: int,
        payload: Any,
        kwargs: dict[str, Any] | None = None,
        port: SendPort[Any] | None = None,
        *,
        is_part: bool = False,
        retries: int = 0,
        priority: float = 0,
        key: Hashable = None,
    ) -> Any:
        """Have one call served, by whoever has a place first.

        port: for its items, or its progress. is_part: of work that was begun before, and goes on when
        nothing new is taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if is_part:
            self._check_part()
        else:
            self._check()
        if kwargs or port is not None or self.options.spec.context:
            kind, payload = EXTENDED, (kind, payload, kwargs or {}, self._context_values(), port)
        call = Call(kind, payload, next(self._numbers), self._leave_line)
        if retries:
            call.retries = retries
        if priority:
            call.priority = priority
        if key is not None:
            call.key = key
        client = self._find_place(call)
        if client is not None:
            client.start(call)
            if client.most is not None and client.given >= client.most:
                self.on_worn(client)
        elif (error := self._unserved()) is not None:
            raise error
        else:
            call.made = perf_counter()
            self._enqueue(call)
            self.on_wait()
        self._active += 1
        try:
            return await trio.lowlevel.wait_task_rescheduled(call.abort)
        finally:
            self.end_work()

    @trio.lowlevel.enable_ki_protection
    async def call_on(self, client: Client, kind: int, payload: Any) -> Any:
        """Have one call served by this isolate and no other."""
        if (error := self._unserved()) is not None:
            raise error
        if not client.is_open:  # it has died since it was chosen, and would never answer
            raise client.isolate.died(maybe_executed=False)
        call = Call(kind, payload, next(self._numbers), _stays)
        client.start(call)
        self._active += 1
        try:
            return await trio.lowlevel.wait_task_rescheduled(call.abort)
        finally:
            self.end_work()

    def _context_values(self) -> tuple[tuple[int, Any], ...]:
        values = ((index, var.get(_UNSET)) for index, var in enumerate(self.options.spec.context))
        return tuple((index, value) for index, value in values if value is not _UNSET)

    # What is in flight.

    def begin_work(self) -> None:
        """From here to `end_work` something is in flight, which a normal end waits for."""
        self._active += 1

    def end_work(self) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()

    @trio.lowlevel.enable_ki_protection
    async def wait_idle(self) -> None:
        """Wait until nothing is in line or in flight."""
        while self._active:
            if self._idle.is_set():  # else somebody waits for it already
                self._idle = trio.Event()
            await self._idle.wait()

    # Places.

    def _find_place(self, call: Call) -> Client | None:
        """Return an isolate that may take a call now; None if there is none, or a line."""
        key = call.key
        if key is not None and (owner := self._owners.get(key)) is not None:
            if owner.would_wear_out(call):
                self.on_worn(owner)
                return self._find_place(call)
            return owner if owner.has_room and not (self._line or self._lines.get(owner)) else None
        if self._line.length:
            return None
        best: Client | None = None
        for client in self.clients:
            if client.has_room and (best is None or client.load < best.load):
                best = client
        if best is not None and best.most is not None and best.would_wear_out(call):
            self.on_worn(best)
            return self._find_place(call)
        if best is not None and key is not None:
            self._own(key, best)
        return best

    def _own(self, key: Hashable, client: Client) -> None:
        self._owners[key] = client
        client.keys.add(key)

    def forget(self, key: Hashable) -> None:
        """No more calls with this key will come."""
        if (owner := self._owners.pop(key, None)) is not None:
            owner.keys.discard(key)

    def _enqueue(self, call: Call) -> None:
        owner = None if call.key is None else self._owners.get(call.key)
        call.line = self._line if owner is None else self._lines.setdefault(owner, Line())
        call.line.append(call)

    def _leave_line(self, call: Call) -> None:
        self.counts.cancelled += 1
        if call.line is not None:
            call.line.forget()

    def on_room(self, client: Client) -> None:
        """Send from the lines here and now: in the order in which the calls are to go."""
        if client.load and not (self._line.length or self._lines):
            return  # the common case by far
        while client.has_room:
            own = self._lines.get(client)
            ours, theirs = self._line.head(), own.head() if own else None
            if ours is None and theirs is None:
                if client.load or not self._relieve_another():
                    return
                continue
            is_ours = theirs is None or (ours is not None and ours < theirs)
            line = self._line if own is None or is_ours else own
            call = line.first
            if line is self._line and call.key is not None:
                owner = self._owners.get(call.key)
                if owner is not None and owner is not client:
                    self._enqueue(line.pop())
                    continue
                self._own(call.key, client)
            if client.would_wear_out(call):
                self.on_worn(client)
                return
            self._start(client, line, call)

    def _relieve_another(self) -> bool:
        """Put a call in line again that stands at an isolate behind a longer one."""
        if self._has_refused:  # its isolate is stopping it, or has done so
            return False
        for client in (*self.clients, *self._leaving):
            if (call := client.ask_back(_is_free)) is not None:
                self._put_first([call])
                return True
        return False

    def take_returned(self, call: Call) -> None:
        """A call comes back that its isolate did not begin."""
        if (error := self._unserved()) is not None:
            call.fail(error)
            return
        self._put_first([call])
        for client in list(self.clients):
            self.on_room(client)

    def _put_first(self, calls: Sequence[Call]) -> None:
        for call in calls:
            call.line = self._line
        self._line.put_first(sorted(calls, key=_number))

    def _start(self, client: Client, line: Line[Call], call: Call) -> None:
        try:
            client.start(call)
        except BaseException as exc:
            if not call.is_settled:
                line.pop().fail(exc)
            return
        if not call.is_settled:
            line.pop()
        if client.most is not None and client.given >= client.most:
            self.on_worn(client)

    # Who is there.

    def add(self, client: Client) -> None:
        self.clients.append(client)
        self.on_room(client)

    def remove(self, client: Client, moving: Sequence[Call] = ()) -> None:
        """It takes no more calls; those that it had not begun, and those that wait for it, go to others."""
        for those in (self.clients, self._leaving):
            if client in those:
                those.remove(client)
        if client.load > 1:
            self._leaving.append(client)
        for key in client.keys:
            self._owners.pop(key, None)
        client.keys.clear()
        line = self._lines.pop(client, None)
        waiting = list(moving)
        while line:
            waiting.append(line.pop())
        self._put_first(waiting)
        for other in list(self.clients):
            self.on_room(other)

    def refuse(self) -> None:
        """Nobody will serve those in line."""
        self._has_refused = True
        for line in (self._line, *self._lines.values()):
            while line:
                error = self._unserved()
                assert error is not None
                line.pop().fail(error)


def _nothing(*_: object) -> None:
    pass


def _number(call: Call) -> int:
    return call.number


def _stays(_: Call) -> None:
    """The way out of the line for a call that is meant for one isolate only, and never stands in it."""


def _is_free(call: Call) -> bool:
    """True for a call that any isolate may serve."""
    return call.key is None and not stays(call)


def stays(call: Call) -> bool:
    """True for a call that is meant for one isolate only."""
    return call.leave_line is _stays
