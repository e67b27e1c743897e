"""Where the messages of ports are switched: the ports of this isolate, and the ways to those of others.

Frames come in by `Exchange.take` and go out by the links of the neighbours, this isolate's parent
and its children. A message to an isolate further away is passed on by those between, unopened; two children
that have much to say to each other get a link of their own. This module reads and writes nothing
itself.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final, Literal, final
from weakref import WeakValueDictionary

from ._bulk import Bulk
from ._errors import ProtocolError, UnsendableError
from ._identities import Identities
from ._inbox import COUNT, Inbox, Unopened
from ._messages import (
    CREDIT,
    DEFINE,
    FORGET,
    FREE,
    GONE,
    INTRODUCE,
    MESSAGE,
    PAUSE,
    RELAY,
    RESUME,
    SHUT,
    SWITCH,
    WAITING,
    Buffer,
    Chunk,
)
from ._notes import Notes, notes_of_run
from ._peers import ENVELOPE, Neighbour, Path, Peer, Window, nowhere
from ._pickling import Codec
from ._wire import encode

_STEP: Final = 4
_ACQUAINTED: Final = 32  # frames relayed from one child to another before they get a link of their own


def _open_relay(body: Chunk) -> tuple[int, int, Path, Path, Chunk]:
    """Return the kind and ident of a relayed frame, where it goes and comes from, and its body."""
    if len(body) < ENVELOPE.size:
        raise ProtocolError(f"a relayed frame of {len(body)} bytes")
    kind, ident, there, back = ENVELOPE.unpack_from(body)
    start = ENVELOPE.size + there + back
    paths = bytes(body[ENVELOPE.size : start])
    return kind, ident, paths[:there], paths[there:], memoryview(body)[start:]


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
        identities: Identities | None = None,
    ) -> None:
        self.identities = identities or Identities()
        self._thread = threading.get_ident()
        self.path = path or os.urandom(8)
        self.notes = notes_of_run(self.path) if path is None else None
        self.name = name
        self.pid = pid or os.getpid()
        self.parent: Neighbour | None = None
        self.block: Callable[[], None] | None = None  # in an isolate whose code blocks: wait for frames
        self.poll: Callable[[], None] = lambda: None  # there: take what frames there are
        self.wake: Callable[[], None] = lambda: None
        self.exit: Callable[[], None] | None = None  # in an isolate: end it, with what was sent so far
        self.on_error: Callable[[BaseException], bool] | None = None  # there: what a handler has raised
        self.on_idle: Callable[[], None] = lambda: None
        self._namespaces = namespaces
        self._children: dict[Path, Neighbour] = {}
        self._direct: dict[Path, Neighbour] = {}
        self._peers: dict[Path, Peer] = {
            self.path: self._make_peer(self.path, Codec(side=0, identities=self.identities), None)
        }
        # Those of which only ports are known, as long as somebody has one: nobody tells of their end.
        self._strangers: WeakValueDictionary[Path, Peer] = WeakValueDictionary()
        self._inboxes: dict[int, Inbox] = {}
        self._loose_ends: deque[Callable[[], None]] = deque()
        self._relayed: dict[Path, set[Neighbour]] = {}  # who has sent through here, by where to
        self._port_numbers = count(1)
        self._child_numbers = count(1)
        self._pauses: set[int] = set()
        self.is_paused = False
        self._failure: BaseException | None = None
        self._source: Neighbour | None = None  # of the frame that is being taken

    # Ports.

    def check_thread(self) -> None:
        """Raise unless this is the isolate's own thread."""
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "a port belongs to its isolate's thread; from another: trio.from_thread.run(port.send, ...)"
            )

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

    def handler_failed(self, error: BaseException) -> bool:
        """A handler has raised: the isolate takes it; in a program, the block of the isolate that sent.

        Return True if the handler is to be called again all the same.
        """
        if self.on_error is not None:
            return self.on_error(error)
        elif self._source is not None:
            self._source.on_error(error)
        else:
            raise error
        return self.parent is None

    @property
    def listens(self) -> bool:
        """True while a handler is called for the messages of a port."""
        return any(inbox.handler is not None for inbox in self._inboxes.values())

    def abandon(self, inbox: Inbox) -> None:
        """Nobody can receive from it any more. May be called in a garbage collection."""
        self.soon(inbox.close)

    def soon(self, function: Callable[[], None]) -> None:
        """Have it called where frames are taken. May be called at any time, by any thread."""
        self._loose_ends.append(function)
        self.wake()

    def sweep(self) -> None:
        while self._loose_ends:
            self._loose_ends.popleft()()

    def window(self, path: Path, number: int, size: int) -> Window:
        return self._peer(path).window(number, size)

    def _make_peer(self, path: Path, codec: Codec, way: Neighbour | None) -> Peer:
        notes = None if path == self.path else self.open_notes()
        return Peer(self.path, path, codec, way, self.accept, notes=notes)

    def _keep(self, peer: Peer) -> None:
        """Something is said to it, or has come from it: the codecs at both ends remember that now."""
        self._peers[peer.path] = peer
        self._strangers.pop(peer.path, None)

    def _peer(self, path: Path) -> Peer:
        peer = self._peers.get(path) or self._strangers.get(path)
        if peer is None:
            way = self._way_to(path)
            side: Literal[0, 1] = 0 if self.path < path else 1
            codec = Codec(side=side, namespaces=self._namespaces, identities=self.identities)
            peer = self._make_peer(path, codec, way)
            peer.is_gone = way is None
            if way is not None:
                self._strangers[path] = peer
                peer.keep = self._keep
        return peer

    def codec_for(self, path: Path) -> Codec:
        peer = self._peer(path)
        self._keep(peer)
        return peer.codec

    def _way_to(self, path: Path) -> Neighbour | None:
        if path in self._direct:
            return self._direct[path]
        if path.startswith(self.path):
            return self._children.get(path[: len(self.path) + _STEP])
        return self.parent

    def open_notes(self) -> Notes | None:
        """Return the notes that are being taken here; None if nobody wants any."""
        return None if self.notes is None or self.notes.is_over else self.notes

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
        self._peers[neighbour.path] = self._make_peer(neighbour.path, neighbour.codec, neighbour)
        self.attach(neighbour)

    def attach(self, neighbour: Neighbour) -> None:
        """From now on, it is told what of its memory is free again."""

        def say(kind: int, number: int) -> None:
            neighbour.write(encode(kind, number), False)

        neighbour.bulk.attach(say, self.soon)

    def expect_parent(self, codec: Codec, bulk: Bulk | None = None) -> None:
        """Know the parent before anything is said to it: the first message may have send ports in it."""
        parent = Neighbour(self.parent_path, codec, nowhere, self.fail, bulk=bulk or Bulk())
        self.connect(parent, is_parent=True)

    def disconnect(self, neighbour: Neighbour) -> None:
        """A child is gone, and with it all behind it."""
        if self._children.pop(neighbour.path, None) is None:
            return
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
        self.attach(neighbour)

    def _introduce(self, one: Neighbour, other: Neighbour) -> None:
        """Have two children talk to each other directly, if both can."""
        if one.hand_over is None or other.hand_over is None:
            return
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                our_side, their_side = socket.socketpair()
                with our_side, their_side:
                    first = one.hand_over([ours.fileno(), our_side.fileno()])
                    second = other.hand_over([theirs.fileno(), their_side.fileno()])
        except OSError:  # no descriptors left, or too many on their way: it goes by us, as before
            return
        one.write(encode(INTRODUCE, first, [other.path]), True)
        other.write(encode(INTRODUCE, second, [one.path]), True)

    async def drained(self) -> None:
        """Wait until all that was said over direct links is on its way."""
        for neighbour in list(self._direct.values()):
            if neighbour.drained is not None:
                await neighbour.drained()

    def finish(self) -> bool:
        """Send what was said over direct links, read nothing more; return True if all is on its way."""
        are_done = [neighbour.finish() for neighbour in self._direct.values()]
        return all(are_done)

    def _lose(self, path: Path) -> None:
        for other in [other for other in self._direct if other.startswith(path)]:
            self._direct[other].end()
            del self._direct[other]
        for other in [other for other in self._peers if other.startswith(path)]:
            peer = self._peers.pop(other)
            for inbox in self._inboxes.values():
                inbox.forget(peer)
            peer.lose()
        for other, peer in list(self._strangers.items()):
            if other.startswith(path):
                peer.lose()
        for other in [other for other in self._relayed if other.startswith(path)]:
            for neighbour in self._relayed.pop(other):
                neighbour.write(encode(GONE, 0, [other]), True)

    # Frames.

    def take(
        self, neighbour: Neighbour, kind: int, ident: int, body: Chunk, buffers: Sequence[Buffer]
    ) -> bool:
        """A frame for ports has come from a neighbour. Return True if there is no hurry for the next one.

        Raises `ProtocolError`.
        """
        inbox = self._inboxes.get(ident) if kind == MESSAGE else None
        if inbox is not None and inbox.handler is None:  # by far the most
            return self._deliver(self._peers[neighbour.path], inbox, body, buffers)
        self._source = neighbour
        try:
            if kind == RELAY:
                self._take_relay(neighbour, body, buffers)
            elif kind == GONE:
                self._lose(bytes(body))
            elif kind in (PAUSE, RESUME):
                self._control(kind, ident)
            elif kind in (FREE, FORGET):
                neighbour.bulk.take(kind, ident)
            else:
                self.accept(self._peers[neighbour.path], kind, ident, body, buffers)
        except struct.error as exc:
            raise ProtocolError(f"a frame of kind {kind} with {len(body)} bytes") from exc
        finally:
            self._source = None
        return False

    def find_inbox(
        self, neighbour: Neighbour, kind: int, ident: int, body: Chunk
    ) -> tuple[Peer, Inbox, Chunk] | None:
        """Return who sent a message to which port of this isolate, and its pickle; None if it is for none.

        Raises `ProtocolError`.
        """
        peer = self._peers[neighbour.path]
        if kind == RELAY:
            kind, ident, destination, source, body = _open_relay(body)
            if destination != self.path or kind != MESSAGE:
                return None
            peer = self._peer(source)
            self._keep(peer)
        inbox = self._inboxes.get(ident) if kind == MESSAGE else None
        return None if inbox is None else (peer, inbox, body)

    def take_built(self, neighbour: Neighbour, peer: Peer, inbox: Inbox, body: Chunk) -> None:
        """A message that `find_inbox` has found a port for is built."""
        self._source = neighbour
        try:
            self.accept(peer, MESSAGE, inbox.number, body, ())
        finally:
            self._source = None

    def _take_relay(self, neighbour: Neighbour, body: Chunk, buffers: Sequence[Buffer]) -> None:
        kind, ident, destination, source, content = _open_relay(body)
        if destination == self.path:
            peer = self._peer(source)
            self._keep(peer)
            self.accept(peer, kind, ident, content, buffers)
            return
        way = self._way_to(destination)
        if way is None:
            neighbour.write(encode(GONE, 0, [destination]), True)
            return
        self._relayed.setdefault(destination, set()).add(neighbour)
        self._relayed.setdefault(source, set()).add(way)  # who must hear of it when the other is gone
        try:
            way.write(way.bulk.encode(RELAY, 0, [body], buffers), True)
        except UnsendableError as exc:  # more than 2 GiB handed over, with no descriptor left on this hop
            neighbour.on_error(exc)
        if source == neighbour.path and destination == way.path:
            neighbour.talks[destination] = talks = neighbour.talks.get(destination, 0) + 1
            if talks == _ACQUAINTED and way.talks.get(source, 0) < _ACQUAINTED:
                self._introduce(neighbour, way)

    def _deliver(self, peer: Peer, inbox: Inbox, body: Chunk, buffers: Sequence[Buffer]) -> bool:
        try:
            message = peer.codec.loads(body, buffers)
        except UnsendableError as exc:
            message = Unopened(exc)
        return inbox.deliver(peer, message)

    def accept(self, peer: Peer, kind: int, ident: int, body: Chunk, buffers: Sequence[Buffer]) -> None:
        """A frame for a port has come from a peer."""
        if kind in (MESSAGE, WAITING):
            inbox = self._inboxes.get(ident)
            if inbox is None:
                peer.send(SHUT, ident)
            elif kind == MESSAGE:
                self._deliver(peer, inbox, body, buffers)
            else:
                inbox.wait_for(peer)
        elif kind == DEFINE:
            peer.codec.define(ident, bytes(body))
        elif kind == SWITCH:
            if peer.neighbour is not None:
                peer.neighbour.on_switch()
        elif (window := peer.windows.get(ident)) is not None:
            if kind == CREDIT:
                window.credit(*COUNT.unpack(body))
            elif kind == SHUT:
                window.shut()

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
