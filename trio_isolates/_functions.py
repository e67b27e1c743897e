"""What kind of function a callable is, whatever it is wrapped in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial


def _is_a(kind: Callable[[object], bool], function: object) -> bool:
    """True for functions of the kind, objects whose `__call__` is one, and partials of either."""
    while isinstance(function, partial):
        function = function.func
    return kind(function) or kind(getattr(type(function), "__call__", None))  # noqa: B004


def is_async(function: object) -> bool:
    return _is_a(inspect.iscoroutinefunction, function)


def is_generator(function: object) -> bool:
    """True for generator functions, sync and async."""
    return _is_a(inspect.isgeneratorfunction, function) or _is_a(inspect.isasyncgenfunction, function)


def is_async_generator(function: object) -> bool:
    return _is_a(inspect.isasyncgenfunction, function)


def parameter_names(function: Callable[..., object]) -> tuple[str, ...]:
    """Return the names that a callable gives its parameters, as far as that can be known."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # not all that is callable has a signature
        return ()
