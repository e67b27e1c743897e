"""Large messages to their objects, while the loop goes on: a piece at each turn of it.

Whoever builds in this run of Trio takes turns, so that two large messages hold others up no longer
than one. This module does not know where messages come from, nor who waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, cast, final

import outcome
import trio

from ._collector import spared
from ._messages import Chunk
from ._options import GcPolicy
from ._pieces import Work
from ._unpickling import Built

_turn: trio.lowlevel.RunVar[trio.StrictFIFOLock] = trio.lowlevel.RunVar("trio_isolates_turn")


@final
class Builder:
    """Builds the large messages of one isolate, one after the other.

    seconds: how long it has built, by Trio's clock.
    """

    def __init__(self, name: str, policy: GcPolicy) -> None:
        self._name = f"trio_isolates: a message of {name}"
        self._policy: GcPolicy = policy
        self._seconds = 0.0
        self._since: float | None = None

    @property
    def is_busy(self) -> bool:
        return self._since is not None

    @property
    def seconds(self) -> float:
        return self._seconds + (0.0 if self._since is None else trio.current_time() - self._since)

    async def build(
        self,
        load: Callable[[Chunk, Sequence[memoryview]], Any],
        body: Chunk,
        buffers: Sequence[memoryview],
        is_wanted: Callable[[], bool],
    ) -> Chunk | None:
        """Return what stands in for the body of a message, opened; None if it is not wanted any more.

        To open that returns, or raises, what `load` has made of it. Cancelled: the work is stopped.
        """
        if not is_wanted():
            return None
        self._since = trio.current_time()
        try:
            result = await self._do(lambda: load(body, buffers), is_wanted)
        finally:
            self._seconds, self._since = self.seconds, None
        return None if result is None else cast(Chunk, Built(result))

    async def _do(self, fn: Callable[[], Any], is_wanted: Callable[[], bool]) -> outcome.Outcome[Any] | None:
        try:
            work = Work(_as_here(fn), self._name)
        except RuntimeError:  # there can be no more threads
            whole: outcome.Outcome[Any] = outcome.capture(fn)
            return whole
        try:
            turn = current_turn()
            is_done = False
            while not is_done:
                async with turn:
                    if not is_wanted():
                        return None
                    with spared(self._policy):
                        is_done = work.step()
            return work.result()
        finally:
            work.stop()


def _as_here(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Return what calls a function as here, wherever it is called: it may find ports, and set events.

    For Trio this thread and the one that it is called in are the same, as they take turns.
    """
    run_context: Any = trio._core._run.GLOBAL_RUN_CONTEXT  # pyright: ignore[reportPrivateUsage]
    here: dict[str, Any] = dict(run_context.__dict__)  # of this thread, as it is a threading.local
    context = copy_context()

    def call() -> Any:
        run_context.__dict__.update(here)
        return context.run(fn)

    return call


def current_turn() -> trio.StrictFIFOLock:
    """Return what whoever builds in this run of Trio holds for the length of a piece."""
    try:
        return _turn.get()
    except LookupError:
        turn = trio.StrictFIFOLock()
        _turn.set(turn)
        return turn
