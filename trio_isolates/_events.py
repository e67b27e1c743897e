"""What a recording holds: the isolates, what happened between them, and when each was busy.

These are words only. How they are noted where they happen is `_notes`'s business, and how they are put
together `trace`'s.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import frozen

Kind: TypeAlias = Literal[
    "spawn",  # an isolate is being started: from who starts it, to it
    "ready",  # it can serve: from it, to who started it
    "message",  # to a port
    "item",  # of a stream
    "request",  # a call, from who made it; arrived: begun
    "reply",  # its answer, from the isolate; arrived: the caller knows it
    "cancel",  # a caller does not want the answer any more
    "interrupt",  # the code of a call is interrupted, by a signal
    "kill",  # an isolate is killed by who started it
    "close",  # it is told to end in order
    "death",  # it is gone
    "restart",  # another one takes the place of one that is gone, or has served its time
]
Outcome: TypeAlias = Literal["value", "error", "cancelled", "dropped"]
Ending: TypeAlias = Literal["value", "error", "cancelled", "died", "running"]
End: TypeAlias = Literal["closed", "killed", "died", "alive"]


@frozen
class Life:
    """One isolate, from its start to its end; or the program itself, which is the first.

    All times are seconds since the recording began.

    Attributes:
        number: its place among the recording's isolates; 0 is the program ("main").
        name: as given to what opened it, or made up by that; of a pool's, "pool.1".
        parent: the number of the isolate that started it; None of the program.
        tasks: the names of the Trio tasks in whose blocks it was opened, the outermost first; this
            package's own are left out.
        spawned, ready: when its start began, and when it could serve; None: never.
        ended: when it was gone; None: after the recording.
        end: how it ended: in order ("closed"), killed by who had started it, for a cancelled call or
            with its block ("killed"), by itself or by another's hand ("died"); or not yet ("alive").
        reason: of one that died: "SIGKILL", "exit code 7"; else empty.
        pid: its process id; None if it never had one.
        replaces: the number of the isolate whose place it took, if it did.
    """

    number: int
    name: str
    parent: int | None
    tasks: tuple[str, ...] = ()
    spawned: float = 0.0
    ready: float | None = None
    ended: float | None = None
    end: End = "alive"
    reason: str = ""
    pid: int | None = None
    replaces: int | None = None


@frozen
class Event:
    """Something that happened, or something that was sent.

    Attributes:
        kind: what it was.
        time: when, in seconds since the recording began; of what is sent, when it was sent.
        source, target: the numbers of the isolates (`Life.number`) from which it went, and to which.
        arrived: of a request, when it was begun; of a reply, when its caller knew it; of an item or a
            message, when it was received. None: never, or not within the recording; and of all other
            kinds.
        request: of all that concerns a call, its number, unique within the recording; else None.
        label: of a request, the name of the function; of a reply, its outcome; of a death, the reason; of
            messages, items, requests and replies the value, where `record(values=True)` was asked for.
    """

    kind: Kind
    time: float
    source: int
    target: int
    arrived: float | None = None
    request: int | None = None
    label: str = ""


@frozen
class Span:
    """A call, while an isolate ran it.

    Attributes:
        isolate: who ran it.
        request: its number, as in `Event.request`.
        label: the name of the function; with `record(values=True)` its arguments as well.
        start, end: from when to when, in seconds since the recording began; `end` is None if it was still
            running then.
        outcome: how it ended: "value", "error", "cancelled"; "died": its isolate was gone before it
            answered; "running".
        waits: when it did nothing but wait for messages to ports; only sync code is known to wait.
    """

    isolate: int
    request: int
    label: str
    start: float
    end: float | None
    outcome: Ending
    waits: tuple[tuple[float, float], ...] = ()


@frozen
class Story:
    """All that a recording holds.

    Attributes:
        lives: the isolates, the program first, in the order of their starts.
        events: what happened, in the order of time.
        spans: the calls that were run, in the order of their starts.
        seconds: how long the recording took.
    """

    lives: tuple[Life, ...]
    events: tuple[Event, ...]
    spans: tuple[Span, ...]
    seconds: float
