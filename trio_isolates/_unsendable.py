"""Finding the part of a value that cannot be pickled.

This module walks values as a reader would name their parts. It does not know how anything is
pickled: it is given a function that says whether a part fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final

_ATOMS: Final = (int, float, complex, str, bytes, bytearray, bool, type(None))
_MOST_TRIES: Final = 10_000

Fails = Callable[[object], BaseException | None]


def type_name(value: object) -> str:
    """The type's name with its module; without one for what is built in."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def locate(value: object, root: str, cause: BaseException, fails: Fails) -> tuple[str, object, BaseException]:
    """Return the path of the innermost part that fails by itself, that part, and why it fails."""
    path, tries, seen = root, 0, {id(value)}
    while True:
        for suffix, part in _parts(value):
            if isinstance(part, _ATOMS) or id(part) in seen:
                continue
            tries += 1
            if tries > _MOST_TRIES:
                return path, value, cause
            reason = fails(part)
            if reason is not None:
                seen.add(id(part))
                path, value, cause = (path + suffix).lstrip("."), part, reason
                break
        else:
            return path, value, cause


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"[{key!r}]", item
            yield f".<key {key!r}>", key
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield f".<item {item!r}>", item
    elif isinstance(value, partial):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, FunctionType):
        yield from _function_parts(value)
    elif isinstance(value, type):
        for name, item in vars(value).items():
            yield f".{name}", item
    if isinstance(value, BaseException):
        yield ".args", value.args
    if not isinstance(value, type | FunctionType):
        yield from _attributes(value)


def _function_parts(function: FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".<closure>.{name}", cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f".<globals>.{name}", function.__globals__[name]
    yield ".__defaults__", function.__defaults__


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    for name, item in list(getattr(value, "__dict__", {}).items()):
        yield f".{name}", item
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                yield f".{name}", getattr(value, name)
            except AttributeError:
                continue
