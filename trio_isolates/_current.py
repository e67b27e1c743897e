"""Inside an isolate: who it is, and how it ends at once."""

from __future__ import annotations

from typing import Any, NoReturn

from attrs import frozen

from ._here import current_exchange
from ._ports import SendPort


@frozen
class CurrentIsolate:
    """What `current_isolate()` returns.

    Attributes:
        name: as given to the function that opened the isolate; "main" in the program itself.
        pid: its process id.
    """

    name: str
    pid: int


def current_isolate() -> CurrentIsolate:
    """Return who this isolate is. Dart's `Isolate.current`. The program itself is one, too."""
    exchange = current_exchange()
    return CurrentIsolate(exchange.name, exchange.pid)


def exit_isolate(port: SendPort[Any] | None = None, message: object = None) -> NoReturn:
    """End this isolate here and now, with a last message. Dart's `Isolate.exit`.

    What was sent before, and the message, arrive. No `finally` is run, no `teardown`, nothing that
    is registered at exit. A bare isolate has ended well; the calls of a worker see it die.

    Args:
        port: where to send the message; it has a place there whether the port is full or not.
        message: what to send.

    Raises:
        UnsendableError: the message cannot be pickled; the isolate goes on.
        RuntimeError: this is the program itself.
    """
    exchange = current_exchange()
    if exchange.exit is None:
        raise RuntimeError("exit_isolate ends an isolate; this is the program itself, which ends by sys.exit")
    if port is not None:
        port.post(message)
    exchange.exit()
    raise AssertionError("an isolate went on after its exit")
