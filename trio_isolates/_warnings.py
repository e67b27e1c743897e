"""The warning filters of a program, in words that an isolate understands without importing anything.

A library may add filters with categories of its own when it is imported, as numpy does: an isolate that
had to import it for that would take several times as long to start. This module does not know how the
words travel.
"""

from __future__ import annotations

import builtins
import sys
import warnings
from types import ModuleType
from typing import Any, Final, TypeAlias, cast, final

Name: TypeAlias = tuple[str, str]
"""The module of a category, and its qualified name there."""
Words: TypeAlias = tuple[str, Any, list[Name], Any, int]
"""A filter: its action, its pattern for messages, the names of its category or categories, its pattern for
modules, its line."""


_NOTHING: Final = ModuleType("nothing")


@final
class _ByName(type):
    """The type of a category of which only the name is known; the real one's subclasses are its own."""

    stands_for: tuple[str, str]

    def __subclasscheck__(cls, other: type) -> bool:
        return any((base.__module__, base.__qualname__) == cls.stands_for for base in other.__mro__)


def _find(module: str, name: str) -> type[Warning]:
    """Return the category itself if it is here, else one that stands for it."""
    found = vars(builtins if module == "builtins" else sys.modules.get(module, _NOTHING)).get(name)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    stand_in = _ByName(name, (Warning,), {})
    stand_in.stands_for = module, name
    return cast("type[Warning]", stand_in)


def _find_all(names: list[Name]) -> type[Warning] | tuple[type[Warning], ...]:
    found = tuple(_find(*name) for name in names)
    return found[0] if len(found) == 1 else found


def capture() -> list[Words]:
    """Return the filters that are in force."""
    entries: list[Any] = list(warnings.filters)
    return [
        (action, message, _names(category), module, line)
        for action, message, category, module, line in entries
    ]


def _names(category: object) -> list[Name]:
    """Return the names of a category, or of a tuple of them, as `issubclass` takes it; others have none."""
    if isinstance(category, tuple):
        parts = cast("tuple[object, ...]", category)
        return [name for part in parts for name in _names(part)]
    if isinstance(category, _ByName):
        return [category.stands_for]
    return [(category.__module__, category.__qualname__)] if isinstance(category, type) else []


def apply(filters: list[Words]) -> None:
    """Have these filters, and no others."""
    warnings.filters[:] = [  # type: ignore[index]
        (action, message, _find_all(names), module, line) for action, message, names, module, line in filters
    ]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # else the cache of warnings already seen stands
