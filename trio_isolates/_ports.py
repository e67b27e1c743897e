"""`ReceivePort` and `SendPort`: channels between isolates, the same on both sides.

This module knows how tasks, and sync code that blocks, wait for messages and for room. What travels
where, and who has how much room, is the business of `_exchange`.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
# (ports show users nothing of what they are made of, but know it of each other)
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, Final, Generic, NoReturn, TypeVar, cast, final

import outcome
import trio
from attrs import define, frozen

from ._exchange import Exchange
from ._functions import is_async
from ._here import current_exchange
from ._inbox import Inbox
from ._interrupt import interruptible
from ._notes import STREAM_PORT
from ._peers import Path, Window

T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)

_MOST: Final = 1 << 20


def _load_send_port(path: Path, number: int, size: int) -> SendPort[Any]:
    exchange = current_exchange()
    return SendPort(exchange, exchange.window(path, number, size))


@define(eq=False)
class _Waiting:
    """A task that waits for a place in a window."""

    value: Any
    task: trio.lowlevel.Task

    def settle(self, result: outcome.Outcome[None]) -> None:
        trio.lowlevel.reschedule(self.task, result)


@final
class SendPort(trio.abc.SendChannel[T_contra], Generic[T_contra]):
    """Where messages to one `ReceivePort` are sent; from `ReceivePort.send_port`, never made by hand.

    It is a small value: it can be sent in any message to any isolate, and two are equal, with the
    same hash, exactly if they lead to the same `ReceivePort`. Messages are copied (pickled).

    Each isolate that sends has as many places as the port's `max_buffer_size`; a message has one
    from when it is sent until it is received. It does not matter to the port how many send ports
    there are: there is nothing to close.
    """

    __slots__ = ("_exchange", "_window")

    def __init__(self, exchange: Exchange, window: Window) -> None:
        self._exchange = exchange
        self._window = window

    def __reduce__(self) -> tuple[Any, ...]:
        window = self._window
        return _load_send_port, (window.peer.path, window.number, window.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SendPort):
            return NotImplemented
        ours, theirs = self._window, other._window
        return ours.number == theirs.number and ours.peer.path == theirs.peer.path

    def __hash__(self) -> int:
        return hash((self._window.number, self._window.peer.path))

    def __repr__(self) -> str:
        return f"<trio_isolates.SendPort {self._window.peer.path[8:].hex() or 'main'}:{self._window.number}>"

    @trio.lowlevel.enable_ki_protection
    async def send(self, value: T_contra) -> None:
        """Send a message; wait for a place if there is none. Cancelled: it has not been sent.

        Raises:
            UnsendableError: it cannot be pickled.
            trio.BrokenResourceError: the port is known to be closed, or its isolate to be gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        window = self._window
        window.check()
        _check_async(self._exchange)
        if window.find_room():
            window.post(value)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        waiting = _Waiting(value, trio.lowlevel.current_task())
        window.line_up(waiting)

        def leave(_: object) -> trio.lowlevel.Abort:
            window.forget(waiting)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def send_nowait(self, value: T_contra) -> None:
        """Send a message if there is a place for it, else raise `trio.WouldBlock`; or what `send` raises."""
        window = self._window
        self._exchange.check_thread()
        self._exchange.poll()
        window.check()
        if not window.has_room:
            raise trio.WouldBlock
        window.post(value)

    @interruptible
    def send_sync(self, value: T_contra) -> None:
        """Send a message from sync code in an isolate of its own; block until there is a place.

        Raises what `send` does, and `RuntimeError` where there is Trio: it would block its loop.
        """
        window = self._window
        exchange = self._exchange
        exchange.check_thread()
        block = _check_sync(exchange)
        exchange.poll()
        while not window.has_room and not window.is_shut:
            window.ask()
            block()
        window.check()
        window.post(value)

    def post(self, value: object) -> None:
        """Send a last message, whether there is a place or not."""
        if not self._window.is_shut:
            self._window.post(value)

    async def aclose(self) -> None:
        """Do nothing, but for a checkpoint: send ports are values, and not counted."""
        await trio.lowlevel.checkpoint()


def _check_async(exchange: Exchange) -> None:
    if exchange.block is not None:
        raise RuntimeError("in an isolate whose code is sync, use send_sync, receive_sync, or plain for")


def _check_sync(exchange: Exchange) -> Callable[[], None]:
    if exchange.block is None:
        raise RuntimeError("this would block Trio's loop: use await, or async for")
    return exchange.block


@frozen
class PortStatistics:
    """What `ReceivePort.statistics()` returns.

    Attributes:
        buffered: messages that have come and are not yet received.
        max_buffer_size: how many each sending isolate may have sent that are not yet received.
        waiting_senders: isolates that are known to wait for a place.
    """

    buffered: int
    max_buffer_size: int
    waiting_senders: int


@final
class ReceivePort(trio.abc.ReceiveChannel[T_co], Generic[T_co]):
    """Where messages arrive that other isolates, or this one, send to its `send_port`.

        port = ReceivePort()
        async with open_isolate(count, port.send_port):
            async for message in port: ...

    Messages of one sender arrive in the order in which they were sent. One task at a time may
    receive. A port never ends by itself: senders are values, and not counted. One that is garbage is
    closed. It belongs to the isolate, and the Trio run, that made it, and cannot be sent.

    Args:
        max_buffer_size: how many messages each sending isolate may have sent that are not yet
            received; at least 1. One that would send more waits.
    """

    def __init__(self, max_buffer_size: int = 64) -> None:
        size: object = max_buffer_size
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"max_buffer_size must be an int, not {size!r}")
        if not 1 <= max_buffer_size <= _MOST:
            raise ValueError(f"max_buffer_size must be from 1 to {_MOST:,}, not {max_buffer_size}")
        self._exchange = exchange = current_exchange()
        self._inbox = inbox = exchange.open_inbox(max_buffer_size)
        self._window = exchange.window(exchange.path, inbox.number, inbox.size)

    @classmethod
    def from_raw(cls, raw: RawReceivePort) -> ReceivePort[Any]:
        """Make a ReceivePort of a `RawReceivePort`, which loses its handler and leads here from now on."""
        return raw._give_up()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ReceivePort cannot be sent: it stays in its isolate; send its send_port")

    def __repr__(self) -> str:
        state = "closed" if self._inbox.is_closed else f"buffered={self._inbox.buffered}"
        return f"<trio_isolates.ReceivePort {self._inbox.number} {state}>"

    def __del__(self) -> None:
        inbox: Inbox | None = getattr(self, "_inbox", None)
        if inbox is not None and not inbox.is_closed and inbox.handler is None:
            self._exchange.abandon(inbox)

    @property
    def send_port(self) -> SendPort[Any]:
        """Where to send to, to be received here."""
        return SendPort(self._exchange, self._window)

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> T_co:
        """Return the next message; wait for it if there is none.

        Raises:
            UnsendableError: it cannot be unpickled; the next one can be received all the same.
            trio.ClosedResourceError: the port is closed.
            trio.BusyResourceError: another task is receiving.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        inbox = self._check()
        if inbox.has_item:
            try:
                message: T_co = inbox.pop()
            finally:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return message
        _check_async(self._exchange)
        if current_exchange() is not self._exchange:
            raise RuntimeError("this port belongs to another trio.run, or another isolate: make one here")
        task = trio.lowlevel.current_task()

        def take(item: outcome.Outcome[Any]) -> None:
            trio.lowlevel.reschedule(task, item)

        def leave(_: object) -> trio.lowlevel.Abort:
            inbox.receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        inbox.receiver = take
        return cast(T_co, await trio.lowlevel.wait_task_rescheduled(leave))

    def receive_nowait(self) -> T_co:
        """Return the next message if there is one, else raise `trio.WouldBlock`; or what `receive` raises."""
        self._exchange.poll()
        inbox = self._check()
        if not inbox.has_item:
            raise trio.WouldBlock
        message: T_co = inbox.pop()
        return message

    @interruptible
    def receive_sync(self) -> T_co:
        """Return the next message, in sync code in an isolate of its own; block until there is one.

        Raises what `receive` does, and `RuntimeError` where there is Trio: it would block its loop.
        """
        self._exchange.check_thread()
        block = _check_sync(self._exchange)
        has_waited = False
        while not self._check().has_item:
            has_waited = True
            block()
        if has_waited and self._exchange.notes is not None:
            self._inbox.note_next()
        message: T_co = self._inbox.pop()
        return message

    def _check(self) -> Inbox:
        inbox = self._inbox
        if inbox.is_closed:
            raise trio.ClosedResourceError("the port is closed")
        if inbox.receiver is not None:
            raise trio.BusyResourceError("another task is receiving from this port")
        return inbox

    async def __anext__(self) -> T_co:
        try:
            return await self.receive()
        except trio.ClosedResourceError:
            raise StopAsyncIteration from None

    @interruptible
    def __iter__(self) -> Iterator[T_co]:
        """Receive, with `receive_sync`, until the port is closed."""
        while True:
            try:
                item = self.receive_sync()
            except trio.ClosedResourceError:
                return
            yield item

    def close(self) -> None:
        """Drop what is buffered, and take no more. A waiting `receive` raises, a running loop ends."""
        self._inbox.close()

    async def aclose(self) -> None:
        """`close`, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> PortStatistics:
        """Return a record of how full the port is."""
        return PortStatistics(self._inbox.buffered, self._inbox.size, self._inbox.waiting_senders)


def note_stream(port: ReceivePort[Any]) -> None:
    """Note, if there is a recording, that what comes here are the items of a stream."""
    if (notes := port._exchange.open_notes()) is not None:
        notes.take((perf_counter(), STREAM_PORT, port._inbox.number, 0))


@final
class RawReceivePort:
    """A port whose messages go to a handler, a sync function, as soon as they arrive. Dart's of that name.

    Messages that come while it has no handler wait for one. While there is a handler the port stays
    open, whoever else knows of it, and keeps its isolate alive when the entry has returned.

    What the handler raises ends the isolate (see `errors_are_fatal` of `open_isolate`). In the
    parent it comes out of the block of the isolate by which the message came, whose body is cancelled.
    In an isolate whose code is sync the handler is called while that receives, or waits to send; it
    cannot be interrupted there.

    Args:
        handler: what to call with each message; it can be changed later.
        max_buffer_size: as for `ReceivePort`.
    """

    def __init__(self, handler: Callable[[Any], object] | None = None, max_buffer_size: int = 64) -> None:
        self._port: ReceivePort[Any] | None = ReceivePort(max_buffer_size)
        self._inbox = self._port._inbox
        self.handler = handler

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RawReceivePort cannot be sent: it stays in its isolate; send its send_port")

    @property
    def handler(self) -> Callable[[Any], object] | None:
        """What is called with each message; None: they wait."""
        return self._inbox.handler

    @handler.setter
    def handler(self, handler: Callable[[Any], object] | None) -> None:
        if handler is not None and not callable(handler):
            raise TypeError(f"the handler must be callable, not {handler!r}")
        if is_async(handler):
            raise TypeError(f"the handler must be a sync function, not {handler!r}: nobody would await it")
        if self._port is None:
            raise trio.ClosedResourceError("this port was turned into a ReceivePort")
        self._port._exchange.set_handler(self._inbox, handler)

    @property
    def send_port(self) -> SendPort[Any]:
        """Where to send to, to be received here."""
        if self._port is None:
            raise trio.ClosedResourceError("this port was turned into a ReceivePort")
        return self._port.send_port

    def close(self) -> None:
        """Take no more messages."""
        if self._port is not None:
            self._port.close()

    def _give_up(self) -> ReceivePort[Any]:
        self.handler = None
        port, self._port = self._port, None
        assert port is not None
        return port
