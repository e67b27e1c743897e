"""Request ids to those who wait for the answers.

Sans-IO: this module knows which calls are unanswered, which of them have begun, and what is to
become of each when the isolate ends. It does not know how anybody waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, final

W = TypeVar("W")


@final
class Calls(Generic[W]):
    """The calls that were sent to one isolate and are not yet answered.

    Ids rise by one from 1, in the order of sending, and an isolate begins calls in that order:
    one number, the mark of the last call begun, says of every call whether it has begun.
    """

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[int, W] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[W]:
        return iter(list(self._waiting.values()))

    @property
    def next_ident(self) -> int:
        """The id that the next call will get."""
        return self._last + 1

    def unbegun(self, mark: int) -> Iterator[tuple[int, W]]:
        """Give the id and the waiter of each call that is behind the mark, the first first."""
        return ((ident, waiter) for ident, waiter in self._waiting.items() if ident > mark)

    def add(self, waiter: W) -> int:
        """Give `waiter` the next id and keep it until its answer comes."""
        self._last = ident = self._last + 1
        self._waiting[ident] = waiter
        return ident

    def waiting(self, ident: int) -> W | None:
        """Return who waits for the answer to `ident`, if anybody does."""
        return self._waiting.get(ident)

    def answer(self, ident: int) -> W | None:
        """Return who waited for the answer to `ident`, once; None if nobody does, or not any more."""
        return self._waiting.pop(ident, None)

    def end(self, mark: int) -> tuple[list[W], list[W]]:
        """The isolate is gone and `mark` was the last call begun: return the begun and the unbegun.

        Each in the order of sending. Nothing is left waiting.
        """
        waiting, self._waiting = self._waiting, {}
        begun = [waiter for ident, waiter in waiting.items() if ident <= mark]
        unbegun = [waiter for ident, waiter in waiting.items() if ident > mark]
        return begun, unbegun
