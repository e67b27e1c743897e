"""The parent's handle of one isolate: started, ready, told to close, killed, dead.

This module joins an engine's byte stream to a codec and sees an isolate through its life. It does
not know what a call is: answers go to whoever opened it.
"""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, cast, final

import trio

from ._building import Builder
from ._chronicle import Chronicle
from ._data import Data, load_data_error, load_record
from ._deaths import Death, EndedEarly
from ._engine import Engine, Host
from ._errors import IsolateDied, IsolateSpawnError, ProtocolError
from ._exceptions import load_error
from ._here import current_exchange
from ._link import Link
from ._messages import (
    ADDRESS,
    BYE,
    CANCELLED,
    CLOSE,
    DEFINE,
    DROPPED,
    ERROR,
    FAILED,
    FAULT,
    FORGET,
    FREE,
    INIT,
    LOG,
    MAKE,
    MESSAGE,
    PING,
    PONG,
    READY,
    RECORD,
    SPEC,
    STATE,
    VALUE,
    Buffer,
    Chunk,
    Mode,
    Spec,
)
from ._notes import CLOSE as NOTE_CLOSE
from ._notes import KILL
from ._options import GcPolicy
from ._pace import pay_debts, rest
from ._peers import Neighbour, child_number, nowhere
from ._pickling import Codec
from ._unpickling import LARGE
from ._wire import encode, encode_definitions

_STEPS: Final = {0: "", INIT: "init= raised ", STATE: "state= raised ", MAKE: "cls(*args) raised "}
_DRAIN_WAIT: Final = 0.05  # seconds that a dead isolate's last frames are waited for

Answers: TypeAlias = Callable[[int, int, Chunk, Sequence[Buffer]], None]
Wants: TypeAlias = Callable[[int], Callable[[], bool]]


@final
class Isolate:
    """One isolate, from before its start until after its death.

    `run()` must be running, in a nursery that outlives the isolate; it never raises, and what
    cancels it from outside does not reach the isolate: that must be closed or killed.

    wants: asked about a large answer, gives what says from then on if anybody still waits for it.
    """

    def __init__(
        self,
        engine: Engine,
        spec: Spec,
        *,
        gc_policy: GcPolicy,
        on_answer: Answers,
        wants: Wants,
        on_death: Callable[[], None],
        on_room: Callable[[], None] = lambda: None,
        on_error: Callable[[BaseException], None] = traceback.print_exception,
    ) -> None:
        self.name = spec.name
        self._exchange = current_exchange()
        self.codec = Codec(side=0, identities=self._exchange.identities)
        path = self._exchange.next_path()
        self._neighbour = Neighbour(path, self.codec, self._write, on_error)
        self.number = child_number(path)
        notes = self._exchange.open_notes()
        self.chronicle = None if notes is None else Chronicle(notes, self.number, spec.handler)
        self._pings: dict[int, trio.Event] = {}
        self._pinged = 0
        self.on_fault: Callable[[BaseException], None] = traceback.print_exception
        self.death: Death | None = None
        self.cause: BaseException | None = None
        self.mode: Mode = "async"
        self.concurrency: int | None = None  # how many calls run side by side; None: all that come
        self.is_ready = False
        self.was_told_to_end = False
        self.died_unasked = False  # neither killed by us, nor said goodbye
        self.teardown_error: BaseException | None = None
        self._failed_step = ""
        self._engine = engine
        self._changes = spec.changes
        self._is_entry = spec.is_entry
        self._is_data_only = spec.changes.is_data_only
        self._spec = self.codec.dumps(spec, "")
        self._builder = Builder(spec.name, gc_policy)
        self.building = 0  # the id of the call whose answer is being built
        self._on_answer = on_answer
        self._wants = wants
        self._on_death = on_death
        self._on_room = on_room
        self._host: Host | None = None
        self._link: Link | None = None
        self._settled = trio.Event()  # ready, or failed to become so
        self._gone = trio.Event()
        self._read_all = trio.Event()
        self._was_killed = False
        self._gives_up = False  # what has come and is not built yet
        self.has_said_bye = False
        self._scope = trio.CancelScope(shield=True)

    @property
    def pid(self) -> int | None:
        return None if self._host is None else self._host.pid

    @property
    def mapped_bytes(self) -> int:
        """The memory that it and we have mapped for large messages."""
        return self._neighbour.bulk.mapped_bytes

    @property
    def host(self) -> Host:
        assert self._host is not None
        return self._host

    @property
    def begun(self) -> int:
        """The id of the last call that it has begun."""
        return 0 if self._host is None else self._host.page.begun

    @property
    def link(self) -> Link:
        assert self._link is not None
        return self._link

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Start the isolate, keep its link going, and return when it is gone."""
        failure: BaseException | None = None
        if self.chronicle is not None:
            self.chronicle.spawn(self.name)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    host: Host = await nursery.start(self._engine.host, self.name, self._changes)
                    self._host = host
                    await self._live(host, nursery)
        except BaseExceptionGroup as group:
            failure = _first(group)
        except (OSError, EOFError, EndedEarly) as exc:
            failure = exc
        finally:
            if not isinstance(failure, EndedEarly):
                self.cause = self.cause or failure
            try:
                if self.death is None:
                    exitcode = failure.exitcode if isinstance(failure, EndedEarly) else None
                    self.death = Death(self.pid, exitcode)
                    self._note_death(self.death)
                    self._on_death()
            finally:
                self._settled.set()
                self._gone.set()
                for answered in self._pings.values():
                    answered.set()
                self._let_go()

    def _let_go(self) -> None:
        """Break the cycles, so that a collection need not come for the memory of the link."""
        if self._link is not None:
            self._link.close()
        self._exchange.disconnect(self._neighbour)
        self._neighbour.write = nowhere
        self._neighbour.bulk.close()
        self._on_answer, self._on_death, self._on_room = _unanswered, _nothing, _nothing
        self.codec.close()

    async def _live(self, host: Host, nursery: trio.Nursery) -> None:
        neighbour = self._neighbour
        neighbour.bulk = host.bulk
        self._link = link = Link(host.pipe, self._on_room, find=host.bulk.find)
        neighbour.is_near = link.is_near
        self._exchange.connect(neighbour)
        nursery.start_soon(link.run_writer)
        nursery.start_soon(self._read, link)
        nursery.start_soon(pay_debts, neighbour)
        self.send(ADDRESS, 0, [neighbour.path])
        if self.chronicle is not None and host.bulk.side is not None:
            with suppress(OSError):  # no descriptors left: it goes on unrecorded
                self.send(RECORD, *self.chronicle.share(host.bulk.side))
        self.send(SPEC, 0, *self._spec)
        if self.was_told_to_end and not self.is_ready:
            host.kill()
        death = await host.wait_dead()
        # What it said before its end comes before the news of it.
        reads = -1
        # As long as there is progress:
        while (reads != link.reads or self._builder.is_busy) and not self._read_all.is_set():
            reads = link.reads
            with trio.move_on_after(_DRAIN_WAIT):
                await self._read_all.wait()
        if self._was_killed:  # that explains it
            death = Death(death.pid, death.exitcode, death.stderr_tail)
        self.death = death
        self.died_unasked = self.is_ready and not self._was_killed and not self.has_said_bye
        self._exchange.disconnect(neighbour)
        self._note_death(death)
        self._on_death()
        host.release()
        nursery.cancel_scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _read(self, link: Link) -> None:
        try:
            while frames := await link.read():
                no_hurry = not self._neighbour.is_near
                for kind, ident, body, buffers in frames:
                    if len(body) >= LARGE and not self._is_data_only:
                        await self._take_large(kind, ident, body, buffers)
                        no_hurry = False
                    elif VALUE <= kind <= DROPPED:
                        self._on_answer(kind, ident, body, buffers)
                        no_hurry = False
                    elif MESSAGE <= kind <= FORGET and (not self._is_data_only or kind >= FREE):
                        no_hurry &= self._exchange.take(self._neighbour, kind, ident, body, buffers)
                    else:
                        self._take(kind, ident, body, buffers)
                        no_hurry = False
                frames.clear()
                body, buffers = b"", ()  # memory that is to be given back when it is not used any more
                if no_hurry:
                    await rest(self._neighbour)
        except ProtocolError as exc:
            self.cause = exc
        # An isolate without its link is lost, whatever else it may be doing.
        self._read_all.set()
        if not self.was_told_to_end:
            self.host.kill()

    async def _take_large(self, kind: int, ident: int, body: Chunk, buffers: Sequence[Buffer]) -> None:
        """Take a frame with a large message, built while others run; what comes behind it waits."""
        build = self._builder.build
        load = self.codec.loads if kind == VALUE else partial(load_error, self.codec)
        built: Chunk | None = body
        if kind in (VALUE, ERROR):
            is_wanted = self._wants(ident)
            self.building = ident
            try:
                built = await build(load, body, buffers, lambda: not self._gives_up and is_wanted())
            finally:
                self.building = 0
            if not self._gives_up:  # else it is unanswered
                self._on_answer(*((CANCELLED, ident, b"") if built is None else (kind, ident, built)), ())
        elif MESSAGE <= kind <= FORGET:
            found = self._exchange.find_inbox(self._neighbour, kind, ident, body)
            if found is None:
                self._exchange.take(self._neighbour, kind, ident, body, buffers)
                return
            peer, inbox, content = found
            built = await build(
                peer.codec.loads, content, buffers, lambda: not (self._gives_up or inbox.is_closed)
            )
            if built is not None:
                self._exchange.take_built(self._neighbour, peer, inbox, built)
        else:
            if kind in (FAILED, BYE, FAULT):
                built = await build(load, body, buffers, lambda: not self._gives_up)
            if built is not None:
                self._take(kind, ident, built, buffers)

    @property
    def building_seconds(self) -> float:
        """For how long messages have been built so far, and those behind them have not been read."""
        return self._builder.seconds

    def _take(self, kind: int, ident: int, body: Chunk, buffers: Sequence[Buffer]) -> None:
        if kind == DEFINE and not self._is_data_only:
            self.codec.define(ident, bytes(body))
        elif kind == READY:
            self._take_ready(ident, body)
        elif kind == FAILED:
            self.cause = self._load_error(body, buffers)
            self._failed_step = _STEPS[ident]
            self.host.kill()  # it may have left threads behind that would keep it
            self.was_told_to_end = True
        elif kind == BYE:
            self.has_said_bye = True
            if len(body):
                self.teardown_error = self._load_error(body, buffers)
        elif kind == LOG:
            _log(load_record(body) if self._is_data_only else body)
        elif kind == FAULT:
            self.on_fault(self._load_error(body, buffers))
        elif kind == PONG:
            if (answered := self._pings.pop(ident, None)) is not None:
                answered.set()
        else:
            raise ProtocolError(f"a frame of kind {kind} does not go this way")

    def _take_ready(self, concurrency: int, mode: Chunk) -> None:
        if self.death is not None:  # heard too late: everybody has been told of the death already
            return
        self.mode = "sync" if bytes(mode) == b"sync" else "async"
        self.concurrency = concurrency or None
        self.is_ready = True
        if self.chronicle is not None:
            self.chronicle.ready(self.pid, is_serial=self.mode == "sync")
        if self.mode == "async":  # sync code may not read for long, and who writes to it would be stuck
            self._neighbour.hand_over = self.host.hand_over
        self._settled.set()

    def load(self, body: Chunk, buffers: Sequence[Buffer]) -> Any:
        """Unpickle a message; of one that is data-only, return `Data`. Raises `UnsendableError`."""
        if self._is_data_only:
            return Data(bytes(body), buffers, self.distrust)
        return self.codec.loads(body, buffers)

    def load_error(self, body: Chunk, buffers: Sequence[Buffer]) -> Exception:
        """Return the exception that answers a call. What is none ends the isolate."""
        try:
            return self._load_error(body, buffers)
        except ProtocolError as exc:
            return self.distrust(str(exc))

    def _load_error(self, body: Chunk, buffers: Sequence[Buffer]) -> Exception:
        if self._is_data_only:
            return load_data_error(body)
        return load_error(self.codec, body, buffers)

    def distrust(self, why: str) -> ProtocolError:
        """It has said what an isolate would not say: kill it, and return the error for who was told."""
        if self.death is None:
            self.cause = self.cause or ProtocolError(why)
            self.host.kill()
        return ProtocolError(f"isolate {self.name!r} (pid {self.pid}) was killed: {why}")

    def send(
        self,
        kind: int,
        ident: int,
        chunks: list[Chunk],
        buffers: Sequence[Buffer] = (),
        definitions: Sequence[tuple[int, bytes]] = (),
        *,
        now: bool = True,
    ) -> None:
        """Queue one frame, after those with the definitions that it needs."""
        self.define(definitions)  # first and by themselves: they stay said, even if the message is too large
        if buffers or len(chunks) > 1:
            self.link.write(self._neighbour.bulk.encode(kind, ident, chunks, buffers), now=now)
        else:
            self.link.write(encode(kind, ident, chunks), now=now)

    def define(self, definitions: Sequence[tuple[int, bytes]]) -> None:
        """Queue definitions, which the codec takes for said from now on."""
        if definitions:
            self.link.write(encode_definitions(definitions), now=False)

    def _write(self, chunks: list[Chunk], now: bool) -> None:
        if self._link is not None:
            self._link.write(chunks, now=now)

    def control(self, kind: int, ident: int) -> None:
        """Send a frame without a body. Does nothing before the isolate has started and after its end."""
        if self._link is not None:
            self.send(kind, ident, [b""])

    @trio.lowlevel.enable_ki_protection
    async def ping(self) -> bool:
        """Wait until it has taken all frames sent so far; return False if it is gone before."""
        self._pinged += 1
        ident, answered = self._pinged, trio.Event()
        if self._gone.is_set():
            return False
        self._pings[ident] = answered
        self.control(PING, ident)
        try:
            await answered.wait()
        finally:
            is_lost = self._pings.pop(ident, None) is not None
        return not is_lost

    async def wait_ready(self) -> None:
        """Wait until `init` and `state` are through. Raises `IsolateSpawnError` if they never are."""
        await self._settled.wait()
        if not self.is_ready:
            await self._gone.wait()
            raise self.spawn_error()

    def spawn_error(self) -> IsolateSpawnError:
        cause = self.cause or self.died(maybe_executed=False)
        words = f"{self._failed_step}{type(cause).__name__}: {cause}"
        error = IsolateSpawnError(f"isolate {self.name!r} could not be started: {words}")
        error.__cause__ = cause
        return error

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    async def wait_dead(self) -> None:
        await self._gone.wait()

    def kill(self, *, reads_on: bool = False) -> None:
        """End it at once; before its process has said hello, by giving up the start.

        reads_on: what it has said until then is taken, however long that is to be built.
        """
        if self.chronicle is not None and not self._was_killed and self.death is None:
            self.chronicle.note(KILL)
        self.was_told_to_end = True
        self._was_killed = True
        self._gives_up = self._gives_up or not reads_on
        if self._host is None:
            self._scope.cancel()
        else:
            self._host.kill()

    @trio.lowlevel.enable_ki_protection
    async def close(self, grace: float) -> None:
        """Have it tear down and end; kill it if it has not after `grace` seconds. No call may be open."""
        if self.death is None and self.is_ready:
            self.was_told_to_end = True
            if self.chronicle is not None:
                self.chronicle.note(NOTE_CLOSE)
            self.send(CLOSE, 0, [b""])
            with trio.move_on_after(grace):
                await self._gone.wait()
        if not self._gone.is_set():
            self.kill()
            await self._gone.wait()

    def take_place_of(self, number: int) -> int:
        """Note that it takes the place of another isolate, 0: of none; return its own number."""
        if self.chronicle is not None:
            self.chronicle.restart(number)
        return self.number

    def _note_death(self, death: Death) -> None:
        if self.chronicle is not None:
            was_asked = self.was_told_to_end or self.has_said_bye
            self.chronicle.death(death, was_killed=self._was_killed, was_asked=was_asked)

    def died(self, *, maybe_executed: bool, call: str | None = None, ident: int = 0) -> IsolateDied:
        """Return a new exception that says how the isolate ended, in the middle of which call if in any."""
        death = self.death or Death(self.pid, None)
        began = None
        if self._was_killed:
            call = None
        elif call is not None:
            began = self.host.page.began_at(ident)
        error = IsolateDied(
            self.name,
            pid=death.pid,
            exitcode=death.exitcode,
            signal=death.signal,
            maybe_executed=maybe_executed,
            stderr_tail=death.stderr_tail,
            call=call,
            seconds=None if began is None else max(0.0, death.at - began),
            peak_rss=death.peak_rss,
            out_of_memory=death.out_of_memory,
            serves_calls=not self._is_entry,
        )
        error.__cause__ = self.cause
        return error


def _nothing() -> None:
    pass


def _unanswered(_kind: int, _ident: int, _body: Chunk, _buffers: Sequence[Buffer]) -> None:
    pass


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    leaf = group.exceptions[0]
    if isinstance(leaf, BaseExceptionGroup):
        return _first(cast("BaseExceptionGroup[BaseException]", leaf))
    return leaf


def _log(said: Chunk | logging.LogRecord) -> None:
    try:
        record = said if isinstance(said, logging.LogRecord) else logging.makeLogRecord(pickle.loads(said))
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # an extra field that does not unpickle here, a filter that raises
        if logging.raiseExceptions:  # as logging does it for its handlers
            traceback.print_exc()
