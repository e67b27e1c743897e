"""A `memoryview` to a pickle and back: it arrives as a view of the receiver's own copy, of the same shape.

Its memory goes beside the pickle, as that of an array. This module does not know how.
"""

from __future__ import annotations

from pickle import PickleBuffer
from typing import Any


def reduce_view(view: memoryview) -> tuple[Any, ...]:
    """Raises `TypeError` for items of which Python itself makes no views, `ValueError` if it is released."""
    shape = view.shape
    try:
        memoryview(bytes(view.itemsize)).cast(view.format)  # type: ignore[call-overload]
    except ValueError:
        raise TypeError(f"cannot pickle a memoryview of items of the format {view.format!r}") from None
    if view.ndim > 1 and not view.nbytes:
        raise TypeError(f"cannot pickle an empty memoryview of the shape {shape}")
    content: Any = view.cast("B") if view.c_contiguous else bytearray(view.tobytes())
    return _view, (PickleBuffer(content), view.format, shape, view.readonly)


def _view(content: Any, item: Any, shape: tuple[int, ...], is_readonly: bool) -> memoryview:
    view: Any = memoryview(content).cast("B")
    if is_readonly:
        view = view.toreadonly()
    found: memoryview = view.cast(item, shape) if len(shape) != 1 else view.cast(item)
    return found
