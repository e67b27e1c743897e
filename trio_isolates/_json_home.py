"""Answers of a JSON pool's workers to trees, in the parent, without a pickle and without a long stall.

This module knows what an answer looks like; it does not know what was asked.
"""

from __future__ import annotations

import json
from typing import Any

import trio

from ._building import current_turn
from ._collector import spared
from ._data import Data
from ._errors import JsonError
from ._json_desk import SIZE
from ._json_pieces import join
from ._options import GcPolicy


@trio.lowlevel.enable_ki_protection  # the collector must not stay held off
async def build(data: Data, source: str, gc: GcPolicy) -> tuple[Any, int]:
    """Return the tree that an answer holds, and the bytes of its document.

    A large one is built a piece at a time, with a checkpoint after each. Raises `ProtocolError`, and
    ends the isolate, if it is no such answer. Cancelled: what was built so far is dropped.
    """
    if gc == "freeze" and not data.pieces:
        gc = "pause"
    try:
        (size,) = SIZE.unpack_from(data.head)
        steps = join(memoryview(data.head)[SIZE.size :], data.pieces)
        turn = current_turn()
        while True:
            async with turn:
                try:
                    with spared(gc):
                        next(steps)
                except StopIteration as end:
                    return end.value, size
    except RecursionError:
        raise JsonError("nested too deeply to be built here", source) from None
    except Exception as exc:
        raise data.distrust(f"it sent an answer that is none: {type(exc).__name__}: {exc}") from None


def open_record(data: Data, *types: type | tuple[type, ...]) -> list[Any]:
    """Return a short answer: a list in JSON, with items of these types. Raises `ProtocolError` as `build`."""
    try:
        record: list[Any] = list(json.loads(data.head))
        if not all(isinstance(item, kind) for item, kind in zip(record, types, strict=True)):
            raise TypeError("it has other items")
    except Exception as exc:
        raise data.distrust(f"it sent an answer that is none: {type(exc).__name__}: {exc}") from None
    else:
        return record
