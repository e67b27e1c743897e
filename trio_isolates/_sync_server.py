"""What runs inside an isolate whose handler is sync: calls in, one answer each out, one at a time.

It begins calls in the order in which they came, marks each as begun before it opens its arguments,
and answers each exactly once; so does `_async_server`. This module does not know where the isolate
lives, nor who calls.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from time import perf_counter
from typing import Any, Final, final

import trio

from ._errors import CallInterrupted
from ._functions import is_async
from ._group import end_others
from ._here import run_soon
from ._interrupt import interruptible
from ._link import BlockingLink
from ._messages import (
    BYE,
    CALL,
    CHUNK,
    CLOSE,
    DEFINE,
    DROPPED,
    EXTENDED,
    MESSAGE,
    PING,
    PONG,
    RUN,
    STREAM,
    Chunk,
    Frame,
)
from ._notes import GO_ON, WAIT
from ._service import Service, checked
from ._wire import encode

_LOOKS: Final = 4  # reads of the link in which a poll takes what there is


@final
class SyncServer:
    """The blocking loop: one call at a time, on the main thread."""

    def __init__(self, service: Service, link: BlockingLink) -> None:
        self._service = service
        self._link = link
        self._window = service.interrupter
        self._context = copy_context()
        self._calls: deque[Frame] = deque()
        self._untaken: deque[Frame] = deque()
        self._is_told_to_close = False
        self._parent = service.connect(lambda chunks, _: link.write(chunks))

    def run(self) -> None:
        """Set up, serve until told to close, tear down."""
        service = self._service
        exchange = service.exchange
        exchange.block, exchange.poll, exchange.exit = self.block, self.poll, self._exit
        try:
            for function in service.setup():
                service.keep(self._call_alone(function))
        except BaseException as exc:
            self._answer(service.failed(exc))
            return
        self._context = copy_context()
        self._answer(service.ready())
        if not self._serve():
            return
        outcome: BaseException | None = None
        try:
            if (teardown := service.teardown()) is not None:
                self._call_alone(teardown)
        except BaseException as exc:
            outcome = exc
        service.write_notes()
        self._answer(service.encode(BYE, 0, outcome))

    def _serve(self) -> bool:
        """Answer calls; return True when told to close, False if the parent is gone."""
        calls, exchange = self._calls, self._service.exchange
        while True:
            while calls and not exchange.is_paused:
                self._serve_call(calls.popleft())
            if self._is_told_to_close:
                return True
            self._settle()
            if not self._read(calls_wait=False):
                return False
            exchange.raise_failure()

    def _read(self, *, calls_wait: bool = True) -> bool:
        """Take the frames that have come, or block for some; return False if the parent is gone.

        A handler of a port may get here again, in the middle of them: it goes on with the next one.
        """
        exchange, untaken = self._service.exchange, self._untaken
        if not untaken:
            untaken.extend(self._link.read())
            if not untaken:
                return False
        while untaken:
            kind, ident, body, buffers = untaken.popleft()
            if kind <= EXTENDED:
                if isinstance(body, memoryview) and (calls_wait or exchange.is_paused):
                    body = bytes(body)  # a large one's memory is used again
                self._calls.append((kind, ident, body, buffers))
            elif kind == DEFINE:
                self._service.codec.define(ident, bytes(body))
            elif kind == PING:
                self._link.write(encode(PONG, ident))
            elif kind >= MESSAGE:
                exchange.take(self._parent, kind, ident, body, buffers)
            elif kind == CLOSE:
                self._is_told_to_close = True
        return True

    @interruptible
    def block(self) -> None:
        """Wait for frames, in the middle of a call, and take them."""
        self._service.note(WAIT)
        try:
            self._settle()
            if not self._untaken:
                self._link.wait_readable()
        finally:
            self._service.note(GO_ON)
        if not self._read():
            raise ConnectionResetError("the parent is gone")
        self._service.exchange.raise_failure()

    def poll(self) -> None:
        """Take the frames that have come, in the middle of a call."""
        self._settle()
        for _ in range(_LOOKS):  # more may come all the time
            if not (self._untaken or self._link.is_readable()):
                break
            if not self._read():
                return
        self._service.exchange.raise_failure()

    def _settle(self) -> None:
        self._service.exchange.sweep()
        self._parent.pay()
        self._service.rest()

    def _exit(self) -> None:
        for chunks in self._service.last_words():
            self._answer(chunks)
        self._service.write_notes()
        end_others()
        os._exit(0)

    def _answer(self, chunks: list[Chunk]) -> None:
        self._service.flush()
        self._link.write(chunks)

    def _serve_call(self, frame: Frame) -> None:
        """Answer one call."""
        service, ident = self._service, frame[1]
        if not self._window.begin(ident):
            self._answer(encode(DROPPED, ident))
            return
        if service.notes is not None:
            service.began = perf_counter()
        try:
            kind, (function, args, kwargs, values, port) = service.open(frame)
        except BaseException as exc:
            self._answer(service.refuse(ident, exc))
            return
        if kind == STREAM:
            function = partial(service.run_stream, function, port)
        elif kind != CALL and is_async(function):
            kind, function = RUN, partial(self._call_async, kind, function)
        work = function, args, kwargs, values, port
        service.serve(ident, kind, work, self._context.copy(), self._answer)

    def _call_alone(self, function: Callable[..., Any]) -> Any:
        """Run a function that nobody can interrupt; an async one under a Trio of its own."""
        return trio.run(function) if is_async(function) else checked(function, function())

    def _call_async(self, kind: int, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run an async function alone under Trio; a cancellation cancels its scope."""
        window = self._window

        async def main() -> Any:
            token = trio.lowlevel.current_trio_token()
            with trio.CancelScope() as scope:
                window.stop_async = partial(run_soon, token, scope.cancel)
                if window.active in window.cancelled:
                    scope.cancel()
                if kind == CHUNK:
                    return await self._service.run_chunk_async(function, *args)
                return await function(*args, **kwargs)
            raise CallInterrupted

        try:
            return trio.run(main)
        finally:
            window.stop_async = None
