"""The socket beside a link, by which descriptors travel under numbers that frames speak of.

A descriptor is sent before the frame that speaks of it, so that it is there when that is read.
This module does not know what the descriptors are for.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol, final

from attrs import define, field

from ._errors import ProtocolError
from ._link import receive_fds, send_fds

_NUMBER: Final = struct.Struct("<Q")


class Side(Protocol):
    """One end."""

    def send(self, fds: Sequence[int], /) -> int:
        """Give the other end copies; return their number there. Never waits: raises `OSError` instead."""
        ...

    def take(self, number: int, /) -> list[int]:
        """Return what came under the number: the caller's own from now on.

        Raises `ProtocolError` if nothing did, `OSError` if it got lost, for want of descriptors here.
        """
        ...

    def close(self) -> None: ...


@final
class SocketSide:
    """A `Side` over a connected stream socket, which is closed with it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sent = 0
        self._here: dict[int, list[int]] = {}

    def send(self, fds: Sequence[int]) -> int:
        send_fds(self._socket, _NUMBER.pack(self._sent + 1), fds)
        self._sent += 1
        return self._sent

    def take(self, number: int) -> list[int]:
        while number not in self._here:
            try:
                data, fds = receive_fds(self._socket, _NUMBER.size)
            except OSError as exc:
                raise ProtocolError(f"no descriptor was handed over under the number {number}") from exc
            if len(data) < _NUMBER.size:
                raise ProtocolError(f"no descriptor was handed over under the number {number}")
            self._here[_NUMBER.unpack(data)[0]] = fds
        fds = self._here.pop(number)
        if not fds:
            raise OSError(errno.EMFILE, "no descriptor is left for what another isolate has sent")
        return fds

    def close(self) -> None:
        here, self._here = self._here, {}
        for fds in here.values():
            for fd in fds:
                os.close(fd)
        self._socket.close()


@define(eq=False)
class _Post:
    """What is on its way to one end."""

    waiting: dict[int, list[int]] = field(factory=dict[int, list[int]])
    is_closed: bool = False


@final
class NearSide:
    """A `Side` whose other end is in the same process. Made in pairs, by `open_pair`."""

    def __init__(self, there: _Post, here: _Post) -> None:
        self._there = there
        self._here = here
        self._sent = 0

    @classmethod
    def open_pair(cls) -> tuple[NearSide, NearSide]:
        there, back = _Post(), _Post()
        return cls(there, back), cls(back, there)

    def send(self, fds: Sequence[int]) -> int:
        if self._there.is_closed:
            raise BrokenPipeError(errno.EPIPE, "the other end is closed")
        self._sent += 1
        copies = self._there.waiting[self._sent] = list[int]()
        copies.extend(map(os.dup, fds))
        return self._sent

    def take(self, number: int) -> list[int]:
        if number not in self._here.waiting:
            raise ProtocolError(f"no descriptor was handed over under the number {number}")
        return self._here.waiting.pop(number)

    def close(self) -> None:
        self._here.is_closed = True
        while self._here.waiting:
            for fd in self._here.waiting.popitem()[1]:
                os.close(fd)
