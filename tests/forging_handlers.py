"""What an isolate gone bad may say: frames, and an outcome of its job, that nobody should unpickle."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import sys
from typing import Any

from trio_isolates import SendPort
from trio_isolates._messages import BYE, DEFINE, ERROR, FAILED, FAULT, LOG, MESSAGE, RELAY, VALUE
from trio_isolates._service import Service
from trio_isolates._wire import encode

KINDS = {
    "VALUE": VALUE,
    "ERROR": ERROR,
    "LOG": LOG,
    "FAILED": FAILED,
    "BYE": BYE,
    "FAULT": FAULT,
    "DEFINE": DEFINE,
    "MESSAGE": MESSAGE,
    "RELAY": RELAY,
}


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


class TrapError(Exception):
    """The same, raised."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, self.args


def arm(name: str, path: str, port: int = 0) -> bytes:
    """From the next answer on, say a frame of this kind instead (or before it, where it answers nothing)."""
    kind, plain, said = KINDS[name], Service.encode, []
    body = pickle.dumps(Trap(path))
    if name == "DEFINE":
        number = (2).to_bytes(8, "little")
        body = (1).to_bytes(8, "little") + number + bytes(16) + body

    def forged(self: Service, what: int, ident: int, value: object = None) -> Any:
        said.append(ident)
        if len(said) == 1:  # the answer to this very call
            return plain(self, what, ident, value)
        if kind in (VALUE, ERROR):
            return encode(kind, ident, [body])
        return encode(kind, port or 2, [body]) + plain(self, what, ident, value)

    patched: Any = Service
    patched.encode = forged
    return b""


def forge_outcome(path: str) -> bytes:
    """Write where trio-parallel would write the outcome of its job."""
    frame = sys._getframe()
    while frame.f_code.co_name != "worker_behavior":
        assert frame.f_back is not None
        frame = frame.f_back
    frame.f_locals["send_pipe"].send_bytes(pickle.dumps(Trap(path)))
    return b""


def raise_trap(path: str) -> bytes:
    raise TrapError(path)


def log_trap(path: str) -> bytes:
    """Log a record with something in it that is a trap to unpickle."""
    logging.getLogger("forged").warning("a %s", "trap", extra={"trap": Trap(path)})
    return b""


def send_trap(port: SendPort[Any], path: str) -> bytes:
    port.send_nowait(Trap(path))
    return b""


def state_that_raises(path: str) -> object:
    raise TrapError(path)


def returns_no_bytes() -> object:
    return functools.partial(print)
