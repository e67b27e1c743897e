"""A link straight from one isolate to another, when they have much to say to each other.

Their parent makes the socket and hands an end to each. This module knows when the old way, by the
parent, is empty, so that no message overtakes another; what the frames mean is `_exchange`'s.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import final

import trio

from ._bulk import Bulk
from ._exchange import Exchange
from ._link import Link, SocketPipe
from ._pace import pay_debts, rest
from ._peers import Neighbour, Path
from ._side import SocketSide


@final
class DirectLink:
    """One end of it. Made when the parent has handed over the socket; `run` must be running then."""

    def __init__(self, exchange: Exchange, path: Path, sock: socket.socket, side: socket.socket) -> None:
        self._exchange = exchange
        self._bulk = Bulk(SocketSide(side))
        self._link = link = Link(SocketPipe(sock), find=self._bulk.find)
        self._switched = trio.Event()
        self._scope = trio.CancelScope()
        self._neighbour = Neighbour(
            path,
            exchange.codec_for(path),
            lambda chunks, now: link.write(chunks, now=now),
            exchange.fail,
            bulk=self._bulk,
            on_switch=self._switched.set,
            end=self._end,
            drained=link.drained,
            finish=self._finish,
        )
        exchange.meet(self._neighbour)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Carry frames until the other one is gone."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._link.run_writer)
                    nursery.start_soon(pay_debts, self._neighbour)
                    await self._switched.wait()
                    while frames := await self._link.read():
                        take = partial(self._exchange.take, self._neighbour)
                        hurry = sum([not take(*frame) for frame in frames])
                        frames.clear()  # memory that is to be given back when it is not used any more
                        self._exchange.raise_failure()
                        if not hurry:
                            await rest(self._neighbour)
                    await trio.sleep_forever()  # the parent will tell
        finally:
            self._link.close()
            self._bulk.close()

    def _end(self) -> None:
        """The other one is gone: take what it has still said."""
        while frames := self._link.read_nowait():
            for frame in frames:
                self._exchange.take(self._neighbour, *frame)
        self._scope.cancel()

    def _finish(self) -> bool:
        """This isolate exits: send what goes, drop what comes; return True if nothing is left to send."""
        self._link.read_nowait()  # else two that exit could wait for each other for ever
        return self._link.flush()
