"""Which objects are the same one in all isolates of a program.

A class of the script that reaches an isolate by two ways, from its parent and by a port from a third
isolate, say, is to be one class there. So an object that is defined on a link has an id that is the
same on all links. This module remembers them weakly, and does not know how they travel.
"""

from __future__ import annotations

import os
import weakref
from itertools import count
from typing import Any, Final, final

ID_SIZE: Final = 16


@final
class Identities:
    """The objects that this isolate has told others of, or heard of from them, by their ids."""

    def __init__(self) -> None:
        self._origin = os.urandom(8)
        self._numbers = count()
        self._objects: dict[bytes, weakref.ref[Any]] = {}
        self._ids: dict[int, bytes] = {}  # by id()

    def of(self, obj: object) -> bytes:
        """Return the id of an object, a new one if it has none yet."""
        return self._ids.get(id(obj)) or self.add(
            self._origin + next(self._numbers).to_bytes(8, "little"), obj
        )

    def add(self, identity: bytes, obj: object) -> bytes:
        """Take note of an object that has come under this id."""
        address = id(obj)

        def forget(_: object) -> None:
            self._objects.pop(identity, None)
            self._ids.pop(address, None)

        try:
            self._objects[identity] = weakref.ref(obj, forget)
            self._ids[address] = identity
        except TypeError:  # it cannot be remembered without being kept, as a ContextVar
            pass
        return identity

    def find(self, identity: bytes) -> Any:
        """Return the object that has this id; None if there is none here."""
        known = self._objects.get(identity)
        return None if known is None else known()
