"""What is to become of a document: the whole tree, what an expression selects, what a function makes
of it, or a value of a type.

A `Shape` is checked where it is asked for and applied where the document is. It does not know where
documents come from, nor how results travel; but it knows which of them are plain trees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, final

from attrs import frozen

from ._json_decode import Decoder, check_type
from ._json_place import Text
from ._selection import Search, SelectionError, compile_selection

_KEPT: Final = 64


@final
@frozen
class Shape:
    """At most one of them is not None."""

    select: str | None = None
    transform: Callable[[Any], Any] | None = None
    type: Any = None

    @property
    def is_plain(self) -> bool:
        """True if what it gives is a plain tree, whatever the document."""
        return self.transform is None and self.type is None

    def apply(self, decoder: Decoder, text: Text, source: str) -> Any:
        """Return what becomes of a text. Raises `JsonError`, and what the function or the type raises."""
        if self.type is not None:
            return decoder.decode_as(self.type, text, source)
        return self.of_tree(decoder.decode(text, source))

    def of_tree(self, tree: Any) -> Any:
        """Return what becomes of a tree, but for its type. Raises `ValueError` if it does not fit."""
        if self.select is not None:
            return search(self.select, tree)
        return tree if self.transform is None else self.transform(tree)


def make_shape(select: str | None, transform: Callable[[Any], Any] | None, type: Any) -> Shape:
    """Check what was asked for. Raises `TypeError`, `ValueError` or `ImportError`."""
    given = {"select": select, "transform": transform, "type": type}
    names = [f"{name}=" for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise TypeError(f"{' and '.join(names)} were given: at most one of select=, transform= and type=")
    if select is not None:
        check_select(select)
    if transform is not None and not callable(transform):
        raise TypeError(f"transform= must be callable, not {transform!r}")
    if type is not None:
        check_type(type)
    return Shape(select, transform, type)


def check_select(expression: str) -> None:
    """Raise unless it is an expression: `TypeError`, `ValueError`, or `ImportError`."""
    if not isinstance(expression, str):
        raise TypeError(f"select= must be a JMESPath expression, a str, not {expression!r}")
    try:
        _compiled(expression)
    except SelectionError as exc:
        place = "" if exc.position is None else f" at character {exc.position + 1}"
        raise ValueError(f"select={expression!r}{place}: {exc.text}") from None
    except ImportError:
        raise ImportError("select= needs jmespath: pip install 'trio-isolates[json]'") from None


@lru_cache(_KEPT)
def _compiled(expression: str) -> Search:
    return compile_selection(expression)


def search(expression: str, tree: Any) -> Any:
    """Return what an expression selects. Raises `ValueError` if it does not fit this tree."""
    try:
        found = _compiled(expression)(tree)
    except (RecursionError, MemoryError):
        raise
    except Exception as exc:  # what an expression can meet is open-ended
        raise ValueError(f"select={expression!r}: {str(exc)[:200]}") from None
    if type(found) not in (dict, list, str, int, float, bool, type(None)):
        raise ValueError(f"select={expression!r}: it selects a {type(found).__name__}, which is no JSON")
    return found
