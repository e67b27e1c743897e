"""Other isolates, as those that send to their ports see them: the way there, and the room at its end.

The law of the window: for each port, a sending isolate has a window of as many messages as the port
holds. A message takes a place in it when it is sent, and leaves it when it is received, of which the
port's isolate tells the sender in credits. This module does not know how anybody waits for a place.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final, Protocol, TypeAlias, final
from weakref import WeakValueDictionary

import outcome
import trio
from attrs import define, field

from ._bulk import Bulk
from ._errors import UnsendableError
from ._messages import DEFINE, MESSAGE, RELAY, WAITING, Buffer, Chunk
from ._notes import LABEL_SHIFT, MOST_NUMBERS, SENT, Notes
from ._pickling import Codec, Pickled
from ._shared_buffer import own
from ._wire import encode, encode_definitions

Path: TypeAlias = bytes
"""Where an isolate is in the tree: eight random bytes for the program, then four for each generation."""

ENVELOPE: Final = struct.Struct("<BQHH")  # kind and ident of the frame, lengths of destination and source
_NOTHING: Final[Pickled] = ([b""], [], [])


def child_number(path: Path) -> int:
    """Return the number of an isolate among the children of its parent."""
    return int.from_bytes(path[-4:], "little")


def nowhere(_chunks: list[Chunk], _now: bool) -> None:
    """The way to a neighbour that is not there."""


class Sender(Protocol):
    """One who waits for a place in a window."""

    @property
    def value(self) -> Any: ...

    def settle(self, result: outcome.Outcome[None], /) -> None: ...


@define(eq=False)
class Neighbour:
    """An isolate at the other end of a link: the parent of this one, or a child.

    write: queues a frame on the link; now: to be sent at once. on_error: takes what a handler of a
    `RawReceivePort` raised over a message from there. is_near: a frame there costs next to nothing.

    bulk: how large memory goes there and comes from there. hand_over: gives it descriptors and returns
    their number there; None: it takes none. talks: how
    many frames were relayed from it to others. on_switch, end, drained, finish: see `DirectLink`.
    read_on: ends the rest of who reads from it.
    """

    path: Path
    codec: Codec
    write: Callable[[list[Chunk], bool], None]
    on_error: Callable[[BaseException], None]
    is_near: bool = False
    bulk: Bulk = field(factory=Bulk)
    hand_over: Callable[[Sequence[int]], int] | None = None
    on_switch: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None
    drained: Callable[[], Awaitable[None]] | None = None
    finish: Callable[[], bool] = lambda: True
    talks: dict[Path, int] = field(factory=dict[Path, int])
    read_on: Callable[[], None] = lambda: None
    owed: dict[object, Callable[[], None]] = field(factory=dict[object, Callable[[], None]])
    on_debt: Callable[[], None] = lambda: None

    def encode(
        self, kind: int, ident: int, chunks: Sequence[Chunk], buffers: Sequence[Buffer] = ()
    ) -> list[Chunk]:
        """Return a frame for it. Raises `UnsendableError`."""
        if buffers or len(chunks) > 1:
            return self.bulk.encode(kind, ident, chunks, buffers)
        return encode(kind, ident, chunks)

    def pay(self) -> None:
        """Give the credits that were held back for company."""
        owed, self.owed = self.owed, {}
        for give in owed.values():
            give()


@final
class Window:
    """The places that this isolate has for messages to one port of a peer's."""

    __slots__ = ("__weakref__", "_line", "in_flight", "is_shut", "number", "peer", "size")

    def __init__(self, peer: Peer, number: int, size: int) -> None:
        self.peer = peer
        self.number = number
        self.size = size
        self.in_flight = 0  # sent, and not known to be received
        self.is_shut = peer.is_gone
        self._line: deque[Sender] = deque()

    @property
    def has_room(self) -> bool:
        return self.in_flight < self.size and not self._line

    def check(self) -> None:
        if self.is_shut:
            raise trio.BrokenResourceError("the port is closed, or its isolate is gone")

    def post(self, value: object) -> None:
        """Send a message, whether there is a place for it or not. Raises `UnsendableError`."""
        peer = self.peer
        pickled = peer.codec.dumps(value, "message")
        self.in_flight += 1
        if self.in_flight == 1:
            peer.busy.add(self)
        now = 0.0 if peer.notes is None else perf_counter()
        try:
            peer.send(MESSAGE, self.number, pickled)
        except UnsendableError:
            self.credit(1)
            raise
        if now:
            peer.note(now, SENT, self.number, value)

    def ask(self) -> None:
        """Tell the port that somebody waits here: places are to be given back one by one, not by and by."""
        self.peer.send(WAITING, self.number)

    def find_room(self) -> bool:
        """Return True if there is a place; if there is none, ask for one. Raises as `check`."""
        if not self.has_room and not self._line:
            self.ask()  # a port of this isolate's own gives it here and now
            self.check()
        return self.has_room

    def line_up(self, sender: Sender) -> None:
        """Have it settled when there is a place, for which somebody has asked."""
        self._line.append(sender)

    def forget(self, sender: Sender) -> None:
        """It does not wait any more, if it did."""
        if sender in self._line:
            self._line.remove(sender)

    def credit(self, places: int) -> None:
        """So many messages have been received."""
        self.in_flight = max(0, self.in_flight - places)
        while self._line and self.in_flight < self.size:
            sender = self._line.popleft()
            sender.settle(outcome.capture(self.post, sender.value))
        if self._line:
            self.ask()
        if not self.in_flight:
            self.peer.busy.discard(self)

    def shut(self) -> None:
        """The port is closed, or its isolate gone."""
        self.is_shut = True
        self.in_flight = 0
        self.peer.busy.discard(self)
        while self._line:
            self._line.popleft().settle(outcome.capture(self.check))


@define(eq=False)
class Peer:
    """An isolate with which ports of this one exchange messages, near or far; or this one itself.

    home: the path of this isolate. neighbour: over which the other is reached; None for this isolate
    itself, whose frames go to `accept`, and for what cannot be reached.
    """

    home: Path
    path: Path
    codec: Codec
    neighbour: Neighbour | None
    accept: Callable[[Peer, int, int, Chunk, Sequence[Buffer]], object]
    is_gone: bool = False
    keep: Callable[[Peer], None] | None = None  # told when something is said to it for the first time
    notes: Notes | None = None  # of this isolate, about messages to and from the other
    label: int = 0  # of its path there
    windows: WeakValueDictionary[int, Window] = field(factory=WeakValueDictionary[int, Window])
    busy: set[Window] = field(factory=set[Window])  # kept, as they have messages out

    def note(self, now: float, what: int, number: int, message: object) -> None:
        """Note that a message was sent there, or received from there. There must be notes."""
        notes = self.notes
        assert notes is not None
        about = self.label = self.label or notes.label(self.path)
        if notes.keeps_values:
            about |= notes.label_value(message) << LABEL_SHIFT
        notes.take((now, what, number, about))
        if not notes.has_messages:
            notes.expect_rest()
        elif len(notes.numbers) > MOST_NUMBERS:
            notes.flush()

    def window(self, number: int, size: int) -> Window:
        window = self.windows.get(number)
        if window is None:
            window = self.windows[number] = Window(self, number, size)
        return window

    def send(self, kind: int, ident: int, pickled: Pickled = _NOTHING, *, now: bool = True) -> None:
        if self.is_gone:
            return
        chunks, buffers, definitions = pickled
        neighbour = self.neighbour
        if neighbour is None:
            self.accept(self, kind, ident, b"".join(chunks), own(buffers))
        elif neighbour.path == self.path:
            if definitions:
                neighbour.write(encode_definitions(definitions), False)
            neighbour.write(neighbour.encode(kind, ident, chunks, buffers), now)
        else:
            if self.keep is not None:
                keep, self.keep = self.keep, None
                keep(self)
            for number, blob in definitions:
                neighbour.write(self._relay(neighbour, DEFINE, number, [blob]), False)
            neighbour.write(self._relay(neighbour, kind, ident, chunks, buffers), now)

    def _relay(
        self,
        neighbour: Neighbour,
        kind: int,
        ident: int,
        chunks: Sequence[Chunk],
        buffers: Sequence[Buffer] = (),
    ) -> list[Chunk]:
        source = self.home
        envelope = ENVELOPE.pack(kind, ident, len(self.path), len(source)) + self.path + source
        return neighbour.encode(RELAY, 0, [envelope, *chunks], buffers)

    def lose(self) -> None:
        """It is gone: nobody there will take or give a place any more."""
        self.is_gone = True
        for window in list(self.windows.values()):
            window.shut()
