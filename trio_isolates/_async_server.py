"""What runs inside an isolate on Trio: calls in, one answer each out, side by side.

The laws are those of `_sync_server`. This module does not know where the isolate lives, nor who calls.
"""

from __future__ import annotations

import inspect
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing
from contextvars import copy_context
from functools import partial
from time import perf_counter
from typing import Any, Final, final

import trio

from ._direct import DirectLink
from ._errors import CallInterrupted
from ._functions import is_async
from ._link import Link
from ._messages import (
    BYE,
    CANCEL,
    CANCELLED,
    CHUNK,
    CLOSE,
    DEFINE,
    DROPPED,
    ERROR,
    EXTENDED,
    INTRODUCE,
    MESSAGE,
    PING,
    PONG,
    RESUME,
    STREAM,
    VALUE,
    Chunk,
    Frame,
)
from ._notes import BEGIN, END, KIND_SHIFT
from ._pace import pay_debts, rest
from ._ports import SendPort
from ._service import Service, Work, checked
from ._wire import encode

_END: Final = object()


@final
class AsyncServer:
    """The loop on Trio: each call is a task with a cancel scope of its own."""

    def __init__(self, service: Service, link: Link) -> None:
        self._service = service
        self._link = link
        self._scopes: dict[int, trio.CancelScope] = {}
        self._queue: deque[Frame] = deque()
        self._idle = trio.Event()
        self._closing = trio.Event()
        self._context = copy_context()
        self._parent = service.connect(lambda chunks, now: link.write(chunks, now=now), is_near=link.is_near)

    async def run(self) -> None:
        """Set up, serve until told to close or the link ends, tear down."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._link.run_writer)
            nursery.start_soon(pay_debts, self._parent)
            nursery.start_soon(self._read, nursery)
            await self._live()
            nursery.cancel_scope.cancel()

    async def _live(self) -> None:
        service = self._service
        try:
            for function in service.setup():
                service.keep(await self._call_alone(function))
        except trio.Cancelled:
            raise
        except BaseException as exc:
            await self._say_last(service.failed(exc))
            return
        self._context = copy_context()
        self._answer(service.ready())
        await self._closing.wait()
        while self._scopes or self._queue:
            self._idle = trio.Event()
            await self._idle.wait()
        outcome: BaseException | None = None
        try:
            if (teardown := service.teardown()) is not None:
                await self._call_alone(teardown)
        except trio.Cancelled:
            raise
        except BaseException as exc:
            outcome = exc
        await self._say_last(service.encode(BYE, 0, outcome))

    async def _say_last(self, chunks: list[Chunk]) -> None:
        self._service.write_notes()
        await self._service.exchange.drained()
        self._answer(chunks)
        await self._link.drained()

    async def _read(self, nursery: trio.Nursery) -> None:
        """Take frames until the parent is gone; then end everything."""
        while frames := await self._link.read():
            hurry = sum([not self._take(nursery, frame) for frame in frames])
            self._service.rest()
            frames.clear()  # and with them memory that is to be given back when it is not used any more
            if not (hurry or self._parent.is_near):
                await rest(self._parent)
        nursery.cancel_scope.cancel()

    def _take(self, nursery: trio.Nursery, frame: Frame) -> bool:
        """Do what the frame says; return True if there is no hurry to read on."""
        kind, ident, body, buffers = frame
        exchange = self._service.exchange
        if kind <= EXTENDED:
            if self._has_room() and not self._queue:
                self._begin(nursery, frame)
            else:
                self._queue.append((kind, ident, bytes(body), buffers))
        elif MESSAGE <= kind <= RESUME:
            no_hurry = exchange.take(self._parent, kind, ident, body, buffers)
            exchange.raise_failure()
            if kind == RESUME:
                self._begin_queued(nursery)
            return no_hurry
        elif kind == CANCEL:
            self._cancel(ident)
        elif kind == DEFINE:
            self._service.codec.define(ident, bytes(body))
        elif kind == PING:
            self._link.write(encode(PONG, ident), now=True)
        elif kind == INTRODUCE:
            self._meet(nursery, bytes(body), ident)
        elif kind == CLOSE:
            self._closing.set()
        return False

    def _meet(self, nursery: trio.Nursery, path: bytes, number: int) -> None:
        assert self._parent.bulk.side is not None
        sock, side = [socket.socket(fileno=fd) for fd in self._parent.bulk.side.take(number)]
        nursery.start_soon(DirectLink(self._service.exchange, path, sock, side).run)

    def _has_room(self) -> bool:
        limit = self._service.concurrency
        return (limit is None or len(self._scopes) < limit) and not self._service.exchange.is_paused

    def _answer(self, chunks: list[Chunk]) -> None:
        self._service.flush()
        self._link.write(chunks, now=len(self._scopes) < 2 and not self._queue)

    def _begin(self, nursery: trio.Nursery, frame: Frame) -> None:
        ident = frame[1]
        if not self._service.interrupter.begin(ident, self._scopes):
            self._answer(encode(DROPPED, ident))
            return
        try:
            kind, work = self._service.open(frame)
        except BaseException as exc:
            self._answer(self._service.refuse(ident, exc))
            return
        if kind != STREAM and not is_async(work[0]):
            # Here and now: while it blocks the loop, none of those behind it has begun, and no answer
            # would go out, nor be heard at all if it is the end of this process.
            self._link.flush_whole()
            self._service.began = perf_counter()
            self._service.serve(ident, kind, work, self._context.copy(), self._answer)
            return
        self._scopes[ident] = scope = trio.CancelScope()
        self._service.note(BEGIN, ident)
        # What `init` has set holds in each call; what another call has set does not.
        self._context.run(nursery.start_soon, self._serve_call, nursery, ident, kind, work, scope)

    def _cancel(self, ident: int) -> None:
        if (scope := self._scopes.get(ident)) is not None:
            scope.cancel()
            return
        for frame in self._queue:
            if frame[1] == ident:
                self._queue.remove(frame)
                self._answer(encode(DROPPED, ident))
                return

    async def _serve_call(
        self, nursery: trio.Nursery, ident: int, kind: int, work: Work, scope: trio.CancelScope
    ) -> None:
        function, args, kwargs, values, port = work
        if values or port is not None:
            self._service.prepare(kind, values, port)
        if kind == CHUNK:
            function = partial(self._service.run_chunk_async, function)
        answer: int = CANCELLED
        value: Any = None
        try:
            with scope:
                if kind == STREAM:
                    assert port is not None
                    await self._stream(ident, function(*args, **kwargs), port)
                else:
                    value = await function(*args, **kwargs)
                answer = VALUE
        except trio.Cancelled:
            raise
        except CallInterrupted:
            pass
        except BaseException as exc:
            answer, value = ERROR, exc
            self._service.explain(exc, work[0])
        del self._scopes[ident]
        if port is not None and kind != STREAM:
            answer, value = self._service.finish(answer, value)
        chunks = self._service.encode(answer, ident, value)
        self._service.note(END | answer << KIND_SHIFT, ident)
        self._answer(chunks)
        del value  # an error holds this frame, which must not hold the error
        self._begin_queued(nursery)
        if not self._scopes:
            self._service.rest()
            self._idle.set()

    def _begin_queued(self, nursery: trio.Nursery) -> None:
        while self._queue and self._has_room():
            self._begin(nursery, self._queue.popleft())

    async def _stream(self, ident: int, items: Any, port: SendPort[Any]) -> None:
        """Send the items of a generator; left early, it is closed."""
        if inspect.isasyncgen(items):
            async with aclosing(items):
                async for item in items:
                    await port.send(item)
        else:
            with closing(items):
                while (item := self._next(ident, items)) is not _END:
                    await port.send(item)

    def _next(self, ident: int, items: Iterator[Any]) -> Any:
        """Return a generator's next item, unless it is interrupted, or `_END`."""
        answer, item = self._service.interrupter.run(ident, partial(next, items, _END))
        if answer == VALUE:
            return item
        try:
            raise CallInterrupted if answer == CANCELLED else item
        finally:
            del item  # an error holds this frame, which must not hold the error

    async def _call_alone(self, function: Callable[..., Any]) -> Any:
        return await function() if is_async(function) else checked(function, function())
