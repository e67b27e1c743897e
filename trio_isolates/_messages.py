"""The words on a link: what each kind of frame means and which way it goes.

This module knows the vocabulary only; how a frame looks in bytes is the business of `_wire`,
and what is done about one that of the servers (in the isolate) and `_isolate`, `_client` (in the parent).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal, TypeAlias

from attrs import frozen

Chunk: TypeAlias = bytes | bytearray | memoryview
Buffer: TypeAlias = Any
"""A flat view of bytes that travels beside a body, or a `SharedBuffer`."""
Frame: TypeAlias = tuple[int, int, Chunk, Sequence[Buffer]]
"""A decoded frame: its kind, its ident, the body, the buffers beside the body."""

# Parent to isolate. The ident of the first five is the call's; call ids rise in the order of sending.
STREAM: Final = 0  # args of the handler, inside EXTENDED only: each of its items goes to the port
CALL: Final = 1  # args of the handler
RUN: Final = 2  # (fn, args)
CHUNK: Final = 3  # (fn or None for the handler, (items, place of the first)): one answer for many calls
EXTENDED: Final = 4  # (kind, payload, kwargs, context values, port): any of the above with more beside it
CANCEL: Final = 5  # no body: stop that call
SPEC: Final = 6  # a Spec: what this isolate is to serve
CLOSE: Final = 7  # no body: nothing will follow; tear down and end

# Both ways. The ident is the definition's number.
DEFINE: Final = 8

# Isolate to parent. The ident of the first four is the call's: exactly one of them answers each call.
VALUE: Final = 16  # what the function returned
ERROR: Final = 17  # what it raised
CANCELLED: Final = 18  # it stopped because it was cancelled
DROPPED: Final = 19  # it was cancelled before it began, and never ran
READY: Final = 20  # the mode: init and state are done. The ident: how many calls run side by side; 0: all
FAILED: Final = 21  # an exception. The ident is the step: INIT, STATE, MAKE, or 0, making sense of the spec
BYE: Final = 22  # the last frame: empty, or the exception that teardown raised
LOG: Final = 23  # a log record, as a dict

# Between ports, either way. The ident of the first four is the port's number in its own isolate.
MESSAGE: Final = 32  # to a port
CREDIT: Final = 33  # from a port: how many messages it has given out (4 bytes)
SHUT: Final = 34  # from a port: it takes no messages any more
WAITING: Final = 35  # to a port: somebody waits for a place
RELAY: Final = 36  # one of the above, or a DEFINE, to or from an isolate further away
GONE: Final = 37  # the path of an isolate: it is gone, and all behind it

# Between the two ends of a link, either way. The ident is that of a piece of memory.
FREE: Final = 38  # nobody looks at what was sent in it any more
FORGET: Final = 39  # nothing will be sent in it any more

# Parent to isolate.
PAUSE: Final = 40  # the ident: the pause's own number
RESUME: Final = 41  # the same
PING: Final = 42
ADDRESS: Final = 43  # where in the tree of isolates this one is; the first frame

# Isolate to parent.
PONG: Final = 44  # the ident is the PING's
FAULT: Final = 45  # an exception that nobody waits for, of an isolate that goes on all the same

INTRODUCE: Final = (
    46  # parent to isolate: the path of another one; sockets to it are handed over, under this ident
)
SWITCH: Final = 47  # from one of these to the other, the last relayed frame: the socket is used from now on

RECORD: Final = 48  # parent to isolate: note what happens, in the file handed over under this ident

KINDS: Final = (
    frozenset(range(CALL, DEFINE + 1))
    | frozenset(range(VALUE, LOG + 1))
    | frozenset(range(MESSAGE, RECORD + 1))
)

INIT: Final = 1
STATE: Final = 2
MAKE: Final = 3  # as STATE, of an actor

Mode: TypeAlias = Literal["sync", "async"]


@frozen
class Changes:
    """In what the process of an isolate is to differ from its parent; None: in nothing.

    env: what to set and, where the value is None, to remove. is_data_only: what it says is taken as
    data: the parent unpickles nothing of it.
    """

    nice: int | None = None
    cpu_affinity: frozenset[int] | None = None
    env: dict[str, str | None] | None = None
    cwd: str | None = None
    is_data_only: bool = False


@frozen
class Spec:
    """What an isolate is told to serve, sent once when it starts.

    handler, init, state and teardown are as `open_worker` describes them, or "module:function".
    is_entry: the handler is called once, and the isolate lives as long as that and its handlers of ports.
    """

    name: str
    handler: Callable[..., Any] | str | None
    init: Callable[..., Any] | str | None
    state: Callable[..., Any] | str | None
    teardown: Callable[..., Any] | str | None
    context: tuple[ContextVar[Any], ...]
    concurrency: int | None
    log_levels: dict[str, int] | None
    is_entry: bool = False
    errors_are_fatal: bool = True
    changes: Changes = Changes()


@frozen
class ItemError:
    """In the answer to a CHUNK: this item's place holds an error, still packed."""

    body: bytes
    buffers: tuple[bytes, ...] = ()
