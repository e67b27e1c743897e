"""`report_progress`: a handler says how far it is, and its caller hears of it.

This module knows that the latest value counts and that a handler is never held up for it.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
# (ports show users nothing of what they are made of, but know it of each other)
from contextvars import ContextVar
from typing import Any, Final, final

import outcome

from ._errors import UnsendableError
from ._ports import SendPort

WINDOW: Final = 16  # values that may be on their way; then each new one takes the place of the last
_UNSET: Final = object()


@final
class Reporter:
    """What the handler of one call says, on its way to the caller."""

    def __init__(self, port: SendPort[Any]) -> None:
        self._exchange = port._exchange
        self._window = port._window
        self._latest: Any = _UNSET
        self._error: Exception | None = None

    def report(self, value: object) -> None:
        window = self._window
        self._exchange.check_thread()
        self._exchange.poll()
        if window.is_shut:
            return
        self._raise()
        if self._latest is _UNSET and window.has_room:
            window.post(value)
            return
        waits, self._latest = self._latest is not _UNSET, value
        if window.has_room:  # nobody may have given it to us yet: sync code does not wait for room
            self.finish()
        elif not waits and self._exchange.block is None:
            window.ask()
            window.line_up(self)

    def finish(self) -> None:
        """Send what is held back: the call is over. Raises `UnsendableError`."""
        self._raise()
        if self._latest is not _UNSET and not self._window.is_shut:
            value, self._latest = self._latest, _UNSET
            self._window.forget(self)
            self._window.post(value)

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    # As one who waits for a place.

    @property
    def value(self) -> Any:
        value, self._latest = self._latest, _UNSET
        return value

    def settle(self, result: outcome.Outcome[None]) -> None:
        if isinstance(result, outcome.Error) and isinstance(result.error, UnsendableError):
            self._error = result.error


reporter: Final[ContextVar[Reporter | None]] = ContextVar("trio_isolates_reporter", default=None)


def report_progress(value: object) -> None:
    """Tell the caller of the running call how far it is, from its handler, sync or async.

    The value reaches the function that was given as `on_progress` to `call`; it can be whatever can
    be pickled. The handler is never held up: if the caller is slow, older values give way to the
    latest. Where the caller did not ask, and in threads that the handler starts, nothing is sent.

    Raises:
        UnsendableError: the value cannot be pickled.
    """
    if (current := reporter.get()) is not None:
        current.report(value)
