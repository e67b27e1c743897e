"""What has come for a port and is not yet received, and what its senders are owed for it.

This module knows who gets the next message, and when a sender hears that there is room again. It
does not know how anybody waits.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol, final

import outcome
import trio
from attrs import define

from ._errors import CallInterrupted, UnsendableError
from ._messages import CREDIT, SHUT
from ._notes import TAKEN
from ._peers import Peer

COUNT: Final = struct.Struct("<I")


class Owner(Protocol):
    """The isolate that the port is in."""

    is_paused: bool

    def remove_inbox(self, inbox: Inbox, /) -> None: ...

    def handler_failed(self, error: BaseException, /) -> bool: ...


@final
class Unopened:
    """In the place of a message that could not be unpickled."""

    def __init__(self, error: UnsendableError) -> None:
        self.error = error


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

    def __init__(self, owner: Owner, number: int, size: int) -> None:
        self._owner = owner
        self._buffer: deque[tuple[Account, Any]] = deque()
        self._accounts: dict[Peer, Account] = {}
        self.number = number
        self.size = size
        self.is_closed = False
        self._is_noted = False  # that the next message is received
        self._is_serving = False
        self._has_failed = False  # the handler, so that it is not called again
        self._low = size // 4
        self.receiver: Callable[[outcome.Outcome[Any]], None] | None = None
        self.handler: Callable[[Any], object] | None = None

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def waiting_senders(self) -> int:
        return sum(account.is_waiting for account in self._accounts.values())

    @property
    def has_item(self) -> bool:
        return bool(self._buffer) and not self._owner.is_paused

    def account(self, peer: Peer) -> Account:
        account = self._accounts.get(peer)
        if account is None:
            account = self._accounts[peer] = Account(peer)
        return account

    def deliver(self, peer: Peer, item: object) -> bool:
        """A message has come. Return True if there are enough others before it."""
        account = self.account(peer)
        if self.receiver is not None and not self._owner.is_paused and not self._buffer:
            receiver, self.receiver = self.receiver, None
            self._took(account, item)
            receiver(outcome.Error(item.error) if type(item) is Unopened else outcome.Value(item))
            return False
        self._buffer.append((account, item))
        if self.handler is not None:
            self.serve()
        return len(self._buffer) > self._low

    def serve(self) -> None:
        """Hand out what is here to who waits for it."""
        if self.receiver is not None and self.has_item:
            receiver, self.receiver = self.receiver, None
            receiver(outcome.capture(self.pop))
        if self._is_serving:  # a handler may send to its own port
            return
        self._is_serving = True
        try:
            while self.handler is not None and self.has_item and not self._has_failed:
                try:
                    self.handler(self.pop())
                except CallInterrupted:
                    raise
                except BaseException as exc:
                    self._has_failed = not self._owner.handler_failed(exc)
        finally:
            self._is_serving = False

    def pop(self) -> Any:
        """Take the next message out. There must be one. Raises `UnsendableError` in its place."""
        account, item = self._buffer.popleft()
        self._took(account, item)
        if len(self._buffer) == self._low and account.peer.neighbour is not None:
            account.peer.neighbour.read_on()
        if type(item) is Unopened:
            raise item.error
        return item

    def note_next(self) -> None:
        """Note that the next message is received, before it is: what it brings about may be the end."""
        account, item = self._buffer[0]
        if account.peer.notes is not None and not self._is_noted:
            self._is_noted = True
            account.peer.note(perf_counter(), TAKEN, self.number, item)
            account.peer.notes.rest()

    def _took(self, account: Account, item: object) -> None:
        account.taken += 1
        if self._is_noted:
            self._is_noted = False
        elif account.peer.notes is not None:
            account.peer.note(perf_counter(), TAKEN, self.number, item)
        if 2 * account.taken >= self.size:
            self.pay(account)
        elif account.is_waiting:
            neighbour = account.peer.neighbour
            if not self._buffer or neighbour is None or neighbour.is_near:
                self.pay(account)
            else:
                neighbour.owed[account] = partial(self.pay, account)
                neighbour.on_debt()

    def pay(self, account: Account) -> None:
        """Give the sender back the places of the messages that have been received."""
        if not account.taken:
            return
        places, account.taken, account.is_waiting = account.taken, 0, False
        account.peer.send(CREDIT, self.number, ([COUNT.pack(places)], [], []))

    def wait_for(self, peer: Peer) -> None:
        """That sender waits for a place."""
        account = self.account(peer)
        account.is_waiting = True
        self.pay(account)

    def forget(self, peer: Peer) -> None:
        self._accounts.pop(peer, None)

    def close(self) -> None:
        """Drop what is buffered, and tell all who have sent to it."""
        if self.is_closed:
            return
        self.is_closed = True
        self._owner.remove_inbox(self)
        self._buffer.clear()
        accounts, self._accounts = self._accounts, {}
        for account in accounts.values():
            account.peer.send(SHUT, self.number)
        if self.receiver is not None:
            receiver, self.receiver = self.receiver, None
            receiver(outcome.Error(trio.ClosedResourceError("the port was closed")))
