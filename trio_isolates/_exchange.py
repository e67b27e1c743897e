"""Where the messages of ports are switched: the ports of this isolate, and the ways to those of others.

Frames come in by `Exchange.take` and go out by the links of the neighbours, this isolate's parent
and its children. A message to an isolate further away is passed on by those between, unopened; two children
that have much to say to each other get a link of their own. This module knows who may send how much
to whom; it reads and writes nothing itself, and does not know how anybody waits.

The law of the window: for each port, a sending isolate has a window of as many messages as the port
holds. A message takes a place in it when it is sent, and leaves it when it is received, of which the
port's isolate tells the sender in credits.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, Final, Protocol, TypeAlias, final
from weakref import WeakValueDictionary

import outcome
import trio
from attrs import define, field

from ._errors import CallInterrupted, ProtocolError, UnsendableError
from ._messages import (
    CREDIT,
    DEFINE,
    GONE,
    INTRODUCE,
    MESSAGE,
    PAUSE,
    RELAY,
    RESUME,
    SHUT,
    SWITCH,
    WAITING,
    Chunk,
)
from ._pickling import Codec, Pickled
from ._wire import encode, encode_definitions

Path: TypeAlias = bytes
"""Where an isolate is in the tree: eight random bytes for the program, then four for each generation."""

Item: TypeAlias = outcome.Outcome[Any]

_STEP: Final = 4
_ACQUAINTED: Final = 32  # frames relayed from one child to another before they get a link of their own
_COUNT: Final = struct.Struct("<I")
_ENVELOPE: Final = struct.Struct("<BQHH")  # kind and ident of the frame, lengths of destination and source
_NOTHING: Final[Pickled] = ([b""], [], [])


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

    hand_over: gives it a descriptor and returns its number there; None: it takes none. talks: how
    many frames were relayed from it to others. on_switch, end, drained: see `DirectLink`. read_on: ends
    the rest of who reads from it.
    """

    path: Path
    codec: Codec
    write: Callable[[list[Chunk], bool], None]
    on_error: Callable[[BaseException], None]
    is_near: bool = False
    hand_over: Callable[[int], int] | None = None
    on_switch: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None
    drained: Callable[[], Awaitable[None]] | None = None
    talks: dict[Path, int] = field(factory=dict)
    read_on: Callable[[], None] = lambda: None
    owed: dict[Account, Inbox] = field(factory=dict)
    on_debt: Callable[[], None] = lambda: None

    def pay(self) -> None:
        """Give the credits that were held back for company."""
        owed, self.owed = self.owed, {}
        for account, inbox in owed.items():
            if account.taken:
                inbox.pay(account)


@define(eq=False)
class Peer:
    """An isolate with which ports of this one exchange messages, near or far; or this one itself.

    neighbour: over which it is reached; None for this isolate itself, and for what cannot be reached.
    """

    exchange: Exchange
    path: Path
    codec: Codec
    neighbour: Neighbour | None
    is_gone: bool = False
    windows: WeakValueDictionary[int, Window] = field(factory=WeakValueDictionary)
    busy: set[Window] = field(factory=set)  # kept, as they have messages out

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
            copies = [memoryview(bytearray(buffer)) for buffer in buffers]
            self.exchange.accept(self, kind, ident, b"".join(chunks), copies)
        elif neighbour.path == self.path:
            if definitions:
                neighbour.write(encode_definitions(definitions), False)
            neighbour.write(encode(kind, ident, chunks, buffers), now)
        else:
            for number, blob in definitions:
                neighbour.write(self._relay(DEFINE, number, [blob]), False)
            neighbour.write(self._relay(kind, ident, chunks, buffers), now)

    def _relay(
        self, kind: int, ident: int, chunks: Sequence[Chunk], buffers: Sequence[memoryview] = ()
    ) -> list[Chunk]:
        source = self.exchange.path
        envelope = _ENVELOPE.pack(kind, ident, len(self.path), len(source)) + self.path + source
        return encode(RELAY, 0, [envelope, *chunks], buffers)

    def lose(self) -> None:
        """It is gone: nobody there will take or give a place any more."""
        self.is_gone = True
        for window in list(self.windows.values()):
            window.shut()


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
        peer.send(MESSAGE, self.number, pickled)

    def ask(self) -> None:
        """Tell the port that somebody waits here: places are to be given back one by one, not by and by."""
        self.peer.send(WAITING, self.number)

    def line_up(self, sender: Sender) -> None:
        self._line.append(sender)
        if len(self._line) == 1:
            self.ask()

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
class Account:
    """What a port knows of one isolate that sends to it."""

    peer: Peer
    taken: int = 0  # messages received since the last credit
    is_waiting: bool = False


@final
class Inbox:
    """The messages that have come for one port and are not yet received.

    receiver: who waits for the next message; it is given one, and then is forgotten.
    handler: what is called for each message instead.
    """

    def __init__(self, exchange: Exchange, number: int, size: int) -> None:
        self._exchange = exchange
        self._buffer: deque[tuple[Account, Item]] = deque()
        self._accounts: dict[Peer, Account] = {}
        self.number = number
        self.size = size
        self.is_closed = False
        self._is_serving = False
        self._low = size // 4
        self.receiver: Callable[[Item], None] | None = None
        self.handler: Callable[[Any], object] | None = None

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def waiting_senders(self) -> int:
        return sum(account.is_waiting for account in self._accounts.values())

    @property
    def has_item(self) -> bool:
        return bool(self._buffer) and not self._exchange.is_paused

    def account(self, peer: Peer) -> Account:
        account = self._accounts.get(peer)
        if account is None:
            account = self._accounts[peer] = Account(peer)
        return account

    def deliver(self, peer: Peer, item: Item) -> bool:
        """A message has come. Return True if there are enough others before it."""
        account = self._accounts.get(peer) or self.account(peer)
        if self.receiver is not None and not self._exchange.is_paused:  # then nothing is buffered
            receiver, self.receiver = self.receiver, None
            self._took(account)
            receiver(item)
            return False
        self._buffer.append((account, item))
        if self.handler is not None:
            self.serve()
        return len(self._buffer) > self._low

    def serve(self) -> None:
        """Hand out what is here to who waits for it."""
        if self.receiver is not None and self.has_item:
            receiver, self.receiver = self.receiver, None
            receiver(self.pop())
        if self._is_serving:  # a handler may send to its own port
            return
        self._is_serving = True
        try:
            while self.handler is not None and self.has_item:
                try:
                    self.handler(self.pop().unwrap())
                except CallInterrupted:
                    raise
                except BaseException as exc:
                    self._exchange.handler_failed(exc)
        finally:
            self._is_serving = False

    def pop(self) -> Item:
        """Take the next message out. There must be one."""
        account, item = self._buffer.popleft()
        self._took(account)
        if len(self._buffer) == self._low and account.peer.neighbour is not None:
            account.peer.neighbour.read_on()
        return item

    def _took(self, account: Account) -> None:
        account.taken += 1
        if 2 * account.taken >= self.size:
            self.pay(account)
        elif account.is_waiting:
            neighbour = account.peer.neighbour
            if not self._buffer or neighbour is None or neighbour.is_near:
                self.pay(account)
            else:
                neighbour.owed[account] = self
                neighbour.on_debt()

    def pay(self, account: Account) -> None:
        """Give the sender back the places of the messages that have been received."""
        places, account.taken, account.is_waiting = account.taken, 0, False
        account.peer.send(CREDIT, self.number, ([_COUNT.pack(places)], [], []))

    def wait_for(self, peer: Peer) -> None:
        """That sender waits for a place."""
        account = self.account(peer)
        account.is_waiting = True
        if account.taken:
            self.pay(account)

    def forget(self, peer: Peer) -> None:
        self._accounts.pop(peer, None)

    def close(self) -> None:
        """Drop what is buffered, and tell all who have sent to it."""
        if self.is_closed:
            return
        self.is_closed = True
        self._exchange.remove_inbox(self)
        self._buffer.clear()
        accounts, self._accounts = self._accounts, {}
        for account in accounts.values():
            account.peer.send(SHUT, self.number)
        if self.receiver is not None:
            receiver, self.receiver = self.receiver, None
            receiver(outcome.Error(trio.ClosedResourceError("the port was closed")))


@final
class Exchange:
    """The ports of one isolate, and the ways from it to those of others.

    path: where this isolate is; None: it is a program's first. The attributes up to `on_idle` are set
    by who runs it. wake: has `sweep` called soon; it is called at any time, by any thread.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        name: str = "main",
        pid: int | None = None,
        namespaces: Callable[[str], dict[str, Any]] | None = None,
    ) -> None:
        self.path = path or os.urandom(8)
        self.name = name
        self.pid = pid or os.getpid()
        self.parent: Neighbour | None = None
        self.block: Callable[[], None] | None = None  # in an isolate whose code blocks: wait for frames
        self.poll: Callable[[], None] = lambda: None  # there: take what frames there are
        self.wake: Callable[[], None] = lambda: None
        self.exit: Callable[[], None] | None = None  # in an isolate: end it, with what was sent so far
        self.on_error: Callable[[BaseException], None] | None = None  # there: what a handler has raised
        self.on_idle: Callable[[], None] = lambda: None
        self._namespaces = namespaces
        self._children: dict[Path, Neighbour] = {}
        self._direct: dict[Path, Neighbour] = {}
        self._peers: dict[Path, Peer] = {self.path: Peer(self, self.path, Codec(side=0), None)}
        self._inboxes: dict[int, Inbox] = {}
        self._abandoned: deque[Inbox] = deque()
        self._relayed: dict[Path, set[Neighbour]] = {}  # who has sent through here, by where to
        self._port_numbers = count(1)
        self._child_numbers = count(1)
        self._pauses: set[int] = set()
        self.is_paused = False
        self._failure: BaseException | None = None
        self._source: Neighbour | None = None  # of the frame that is being taken

    # Ports.

    def open_inbox(self, size: int) -> Inbox:
        self.sweep()
        inbox = Inbox(self, next(self._port_numbers), size)
        self._inboxes[inbox.number] = inbox
        return inbox

    def remove_inbox(self, inbox: Inbox) -> None:
        del self._inboxes[inbox.number]
        if inbox.handler is not None and not self.listens:
            self.on_idle()

    def set_handler(self, inbox: Inbox, handler: Callable[[Any], object] | None) -> None:
        listened, inbox.handler = inbox.handler is not None, handler
        if handler is not None:
            inbox.serve()
        elif listened and not self.listens:
            self.on_idle()

    def fail(self, error: BaseException) -> None:
        """Have the error raised where this isolate takes frames."""
        self._failure = self._failure or error

    def raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def handler_failed(self, error: BaseException) -> None:
        """A handler has raised: the isolate takes it; in a program, the block of the isolate that sent."""
        if self.on_error is not None:
            self.on_error(error)
        elif self._source is not None:
            self._source.on_error(error)
        else:
            raise error

    @property
    def listens(self) -> bool:
        """True while a handler is called for the messages of a port."""
        return any(inbox.handler is not None for inbox in self._inboxes.values())

    def abandon(self, inbox: Inbox) -> None:
        """Nobody can receive from it any more. May be called in a garbage collection."""
        self._abandoned.append(inbox)
        self.wake()

    def sweep(self) -> None:
        while self._abandoned:
            self._abandoned.popleft().close()

    def window(self, path: Path, number: int, size: int) -> Window:
        return self._peer(path).window(number, size)

    def _peer(self, path: Path) -> Peer:
        peer = self._peers.get(path)
        if peer is None:
            way = self._way_to(path)
            codec = Codec(side=0 if self.path < path else 1, namespaces=self._namespaces)
            peer = Peer(self, path, codec, way, is_gone=way is None)
            if way is not None:
                self._peers[path] = peer
        return peer

    def codec_for(self, path: Path) -> Codec:
        return self._peer(path).codec

    def _way_to(self, path: Path) -> Neighbour | None:
        if path in self._direct:
            return self._direct[path]
        if path.startswith(self.path):
            return self._children.get(path[: len(self.path) + _STEP])
        return self.parent

    # Neighbours.

    @property
    def parent_path(self) -> Path:
        return self.path[:-_STEP]

    def next_path(self) -> Path:
        """Return the path for a new child."""
        return self.path + next(self._child_numbers).to_bytes(_STEP, "little")

    def connect(self, neighbour: Neighbour, *, is_parent: bool = False) -> None:
        if is_parent:
            self.parent = neighbour
        else:
            self._children[neighbour.path] = neighbour
        self._peers[neighbour.path] = Peer(self, neighbour.path, neighbour.codec, neighbour)

    def disconnect(self, neighbour: Neighbour) -> None:
        """A child is gone, and with it all behind it."""
        del self._children[neighbour.path]
        for other in self._children.values():
            other.talks.pop(neighbour.path, None)
        for path in [path for path, users in self._relayed.items() if neighbour in users]:
            self._relayed[path].discard(neighbour)
            if not self._relayed[path]:
                del self._relayed[path]
        self._lose(neighbour.path)

    def meet(self, neighbour: Neighbour) -> None:
        """There is a direct link to another isolate: what goes to it takes that from now on."""
        peer = self._peer(neighbour.path)
        peer.send(SWITCH, 0)
        peer.neighbour = self._direct[neighbour.path] = neighbour

    def _introduce(self, one: Neighbour, other: Neighbour) -> None:
        """Have two children talk to each other directly, if both can."""
        if one.hand_over is None or other.hand_over is None:
            return
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                first, second = one.hand_over(ours.fileno()), other.hand_over(theirs.fileno())
        except OSError:  # no descriptors left, or too many on their way: it goes by us, as before
            return
        one.write(encode(INTRODUCE, first, [other.path]), True)
        other.write(encode(INTRODUCE, second, [one.path]), True)

    async def drained(self) -> None:
        """Wait until all that was said over direct links is on its way."""
        for neighbour in list(self._direct.values()):
            if neighbour.drained is not None:
                await neighbour.drained()

    def _lose(self, path: Path) -> None:
        for other in [other for other in self._direct if other.startswith(path)]:
            self._direct[other].end()
            del self._direct[other]
        for other in [other for other in self._peers if other.startswith(path)]:
            peer = self._peers.pop(other)
            for inbox in self._inboxes.values():
                inbox.forget(peer)
            peer.lose()
        for other in [other for other in self._relayed if other.startswith(path)]:
            for neighbour in self._relayed.pop(other):
                neighbour.write(encode(GONE, 0, [other]), True)

    # Frames.

    def take(
        self, neighbour: Neighbour, kind: int, ident: int, body: Chunk, buffers: Sequence[memoryview]
    ) -> bool:
        """A frame for ports has come from a neighbour. Return True if there is no hurry for the next one.

        Raises `ProtocolError`.
        """
        self._source = neighbour
        try:
            if kind == RELAY:
                self._take_relay(neighbour, body, buffers)
            elif kind == GONE:
                self._lose(bytes(body))
            elif kind in (PAUSE, RESUME):
                self._control(kind, ident)
            else:
                return self.accept(self._peers[neighbour.path], kind, ident, body, buffers)
        except struct.error as exc:
            raise ProtocolError(f"a frame of kind {kind} with {len(body)} bytes") from exc
        finally:
            self._source = None
        return False

    def _take_relay(self, neighbour: Neighbour, body: Chunk, buffers: Sequence[memoryview]) -> None:
        if len(body) < _ENVELOPE.size:
            raise ProtocolError(f"a relayed frame of {len(body)} bytes")
        kind, ident, there, back = _ENVELOPE.unpack_from(body)
        start = _ENVELOPE.size + there + back
        paths = bytes(body[_ENVELOPE.size : start])
        destination, source = paths[:there], paths[there:]
        if destination == self.path:
            self.accept(self._peer(source), kind, ident, memoryview(body)[start:], buffers)
            return
        way = self._way_to(destination)
        if way is None:
            neighbour.write(encode(GONE, 0, [destination]), True)
            return
        self._relayed.setdefault(destination, set()).add(neighbour)
        self._relayed.setdefault(source, set()).add(way)  # who must hear of it when the other is gone
        way.write(encode(RELAY, 0, [body], buffers), True)
        if source == neighbour.path and destination == way.path:
            neighbour.talks[destination] = talks = neighbour.talks.get(destination, 0) + 1
            if talks == _ACQUAINTED and way.talks.get(source, 0) < _ACQUAINTED:
                self._introduce(neighbour, way)

    def accept(self, peer: Peer, kind: int, ident: int, body: Chunk, buffers: Sequence[memoryview]) -> bool:
        """A frame for a port has come from a peer."""
        if kind in (MESSAGE, WAITING):
            inbox = self._inboxes.get(ident)
            if inbox is None:
                peer.send(SHUT, ident)
            elif kind == MESSAGE:
                try:
                    return inbox.deliver(peer, outcome.Value(peer.codec.loads(body, buffers)))
                except UnsendableError as exc:
                    return inbox.deliver(peer, outcome.Error(exc))
            else:
                inbox.wait_for(peer)
        elif kind == DEFINE:
            peer.codec.define(ident, bytes(body))
        elif kind == SWITCH:
            if peer.neighbour is not None:
                peer.neighbour.on_switch()
        elif (window := peer.windows.get(ident)) is not None:
            if kind == CREDIT:
                window.credit(*_COUNT.unpack(body))
            elif kind == SHUT:
                window.shut()
        return False

    # Pausing.

    def _control(self, kind: int, token: int) -> None:
        """Pause, or take a pause back."""
        if kind == PAUSE:
            self._pauses.add(token)
            self.is_paused = True
        elif token in self._pauses:
            self._pauses.discard(token)
            self.is_paused = bool(self._pauses)
            if not self._pauses:
                for inbox in list(self._inboxes.values()):
                    inbox.serve()
