"""Which isolate is this? The exchange of the one in which code runs."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Final

import trio

from ._exchange import Exchange

# An isolate has one exchange: of its process, of its Trio run, or, inline, of its tasks.
exchange_of_tasks: ContextVar[Exchange | None] = ContextVar("exchange_of_tasks", default=None)
_of_run: trio.lowlevel.RunVar[Exchange] = trio.lowlevel.RunVar("trio_isolates_exchange")
_of_process: list[Exchange] = []
BELONGS: Final = (
    "belongs to another trio.run (in a notebook each cell is one: open it and use it in the same cell)"
)
_RunFinishedError = trio.RunFinishedError  # which is looked for when the interpreter has emptied trio, too


def check_in_trio() -> None:
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            "trio_isolates needs Trio: use it in an async function that trio.run runs "
            "(in a notebook, after a first cell %autoawait trio)"
        )


def set_process_exchange(exchange: Exchange) -> None:
    """Make it the exchange of this process, which is an isolate."""
    _of_process[:] = [exchange]


def run_soon(token: trio.lowlevel.TrioToken, function: Callable[[], object]) -> None:
    """Have a Trio run call it once, unless that run is over."""
    try:
        token.run_sync_soon(function, idempotent=True)
    except _RunFinishedError:
        pass


def adopt_exchange(exchange: Exchange) -> None:
    """Make it the exchange of this Trio run."""
    _of_run.set(exchange)
    exchange.wake = partial(run_soon, trio.lowlevel.current_trio_token(), exchange.sweep)
    if exchange.notes is not None and exchange.parent is not None:
        exchange.notes.soon = exchange.soon


def current_exchange() -> Exchange:
    """Return the exchange of the isolate in which this is called; a Trio program has one, too."""
    exchange = exchange_of_tasks.get()
    if exchange is not None:
        return exchange
    try:
        return _of_run.get()
    except LookupError:
        exchange = Exchange()
        adopt_exchange(exchange)
        return exchange
    except RuntimeError:
        if _of_process:
            return _of_process[0]
        raise RuntimeError(
            "ports work in a Trio program and in isolates: make them in a function that trio.run runs"
        ) from None
