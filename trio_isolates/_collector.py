"""What the cyclic garbage collector does about a large message that is built.

The collector looks through all that is new whenever some thousand objects have been made; of millions,
which are all in use, it would do nothing else. This module does not know what is built, nor how.

Its state is never held for longer than a piece of work takes, and `gc.enable()` and `gc.disable()`
are the program's own at any time.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Final, final

from ._options import GcPolicy

_INTERPRETERS: Final = 1000  # Python 3.12 itself freezes some hundred objects; who freezes all has thousands
_UNCOLLECTED: Final = 10.0  # seconds of building after which the garbage of the time is looked for


@final
class _State:
    """The collector of this process, which runs of Trio in several threads may share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pieces = 0  # that are being built now
        self.thresholds: Any = ()
        self.anything_is_frozen = False
        self.full_collections = 0
        self.built = 0.0  # seconds since the last of these


_state = _State()


@contextmanager
def spared(policy: GcPolicy) -> Generator[None, None, None]:
    """Do a piece of building in this block; what it makes is then old, or frozen, and not looked through."""
    if policy == "leave" or not gc.isenabled():
        yield
        return
    if gc.get_count()[0]:
        gc.collect(0)  # what others have made since the last piece; else it would count as old as well
    _hold()
    start = perf_counter()
    try:
        yield
    finally:
        _settle(policy)
        _release()
    _collect_sometimes(perf_counter() - start)


def _hold() -> None:
    with _state.lock:
        _state.pieces += 1
        if _state.pieces == 1:
            _state.thresholds = gc.get_threshold()
            gc.set_threshold(0)  # with gc.disable(), a gc.disable() of the program's would be lost


def _release() -> None:
    with _state.lock:
        _state.pieces -= 1
        if not _state.pieces and not gc.get_threshold()[0]:  # else somebody has set them meanwhile
            gc.set_threshold(*_state.thresholds)


def _settle(policy: GcPolicy) -> None:
    """Spare all that is new the collection of the young, at no cost: there is a way by the frozen."""
    if policy == "freeze":
        _state.anything_is_frozen = True
        gc.freeze()
    elif not _state.anything_is_frozen:
        # What the program has frozen could not be told apart afterwards.
        _state.anything_is_frozen = gc.get_freeze_count() > _INTERPRETERS
        if not _state.anything_is_frozen:
            gc.freeze()
            gc.unfreeze()


def _collect_sometimes(seconds: float) -> None:
    """Look for garbage after so long: while it counts as old from the first, nothing else would."""
    full = gc.get_stats()[-1]["collections"]
    if full != _state.full_collections:
        _state.full_collections, _state.built = full, 0.0
    _state.built += seconds
    if _state.built >= _UNCOLLECTED:
        _state.built = 0.0
        gc.collect()
