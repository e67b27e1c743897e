"""Turns what a reader has written into what came of it, whatever that is: a value, an error, no end.

It does not know what would be right: that is for the check that asks.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, final

import trio
from attrs import frozen


@final
@frozen
class Attempt:
    """What came of it.

    Attributes:
        value: what it returned; None if it did not.
        error: what it raised, if it did; of a group, the first that is in it.
        is_late: whether it had to be stopped.
        trouble: what there is to say if it did not return: "has raised KeyError: 0, in `...`"; else empty.
    """

    value: Any = None
    error: BaseException | None = None
    is_late: bool = False
    trouble: str = ""


async def attempt(function: Callable[..., Awaitable[Any]], *args: Any, seconds: float = 5) -> Attempt:
    """Call and await what a reader has written, and return what came of it; nothing that it does is raised.

    Args:
        function: to be called in Trio, in the main thread.
        args: for it.
        seconds: after how many it is cancelled, and a second later interrupted, as by Ctrl-C. A
            shield that waits for ever holds against both.
    """
    rings: list[bool] = []
    try:
        with _alarm(seconds + 1, rings), trio.move_on_after(seconds) as patience:
            begun: object = function(*args)
            if not isawaitable(begun):
                return Attempt(trouble=f"gave {begun!r}, which nobody can await: is it an `async def`?")
            value = await begun
    except BaseException as error:
        if rings:
            return Attempt(is_late=True, trouble="keeps the loop busy, without an end: to wait is to `await`")
        first = _first(error)
        if not isinstance(first, Exception | SystemExit):
            raise
        return Attempt(error=first, is_late=patience.cancel_called, trouble=f"has raised {_told(first)}")
    if patience.cancel_called:
        return Attempt(is_late=True, trouble=f"had not come to an end after {seconds} seconds")
    return Attempt(value)


@contextmanager
def _alarm(seconds: float, rings: list[bool]) -> Iterator[None]:
    """Interrupt what runs for longer, even if it never waits: a cancellation cannot do that here."""

    def ring(*_: object) -> None:
        rings.append(True)
        signal.raise_signal(signal.SIGINT)  # Trio raises it where it may be raised, and nowhere else

    before = signal.signal(signal.SIGALRM, ring)
    others = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *others)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _told(error: BaseException) -> str:
    said = str(error).partition("\n")[0]
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    lines = [step.line for step in traceback.extract_tb(error.__traceback__) if "ipykernel" in step.filename]
    return f"{text}, in `{lines[-1]}`" if lines and lines[-1] else text
