"""Finding the part of a value that cannot be pickled, and the words for it.

This module walks values as pickling does, and names their parts as a reader would. It does not
know what has crossed before: it is given a function that says why a part fails, if it does.
"""

from __future__ import annotations

# What is walked here may be of any type:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
import copyreg
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final, TypeAlias, final

from ._by_value import REDUCERS, STAYS, function_state, is_importable, reduce_class
from ._errors import CallInterrupted, UnsendableError

_ATOMS: Final = frozenset({int, float, complex, str, bytes, bytearray, bool, type(None)})
_MOST_TRIES: Final = 2_000
_DEEPEST: Final = 100  # steps of a path; each may pickle all that is below it
_LONGEST_KEY: Final = 80  # characters

Fails: TypeAlias = Callable[[object], BaseException | None]
_Part: TypeAlias = tuple[str, object, object]  # how it is named, with {} for the key; the key; the part


def type_name(value: object) -> str:
    """The type's name with its module; without one for what is built in."""
    cls = type(value)
    module, name = getattr(cls, "__module__", "?"), str.__str__(cls.__qualname__)
    return name if module == "builtins" else f"{module}.{name}"


def try_str(value: object) -> str:
    """`str`, or what it raised; always exactly a `str`."""
    try:
        return str.__str__(str(value))
    except BaseException as exc:
        return f"<its str() raised {type(exc).__name__}>"


def unsendable(value: object, root: str, cause: BaseException, fails: Fails) -> UnsendableError:
    """Return the exception that says which part of `value` cannot be pickled, and why.

    root is what the value itself is called; cause is what pickling it raised.
    """
    try:
        path, culprit, reason = _Search(fails).run(_Step(root, value, cause))
    except Exception:  # too deep in the stack, or in a value that changes while it is looked at
        path, culprit, reason = root, value, cause
    name, why = type_name(culprit), try_str(reason)
    words = f"{path}: cannot pickle '{name}'"
    if isinstance(reason, RecursionError):
        words += ": it is nested too deeply"
    elif f"'{name}'" not in why and f"'{type(culprit).__name__}'" not in why:
        words += f": {type(reason).__name__}: {why}" if why else f": {type(reason).__name__}"
    return UnsendableError(words, path=path, type_name=name)


@final
class _Step:
    """A part that fails by itself, on the way to the innermost one."""

    def __init__(self, path: str, value: object, reason: BaseException) -> None:
        self.found = path, value, reason
        self.parts: list[_Part] | None = None
        self.next = 0  # the first part not looked at yet
        self.has_child = False
        self.is_circular = False  # contains what contains it, and may fail for that alone


@final
class _Search:
    """Goes down from a value that fails to a part that fails while none of its own parts does."""

    def __init__(self, fails: Fails) -> None:
        self._fails = fails
        self._tries = 0
        self._seen: dict[int, object] = {}  # all that has failed, kept alive: it is known by its id

    def run(self, root: _Step) -> tuple[str, object, BaseException]:
        steps, dead_end = [root], root
        self._seen[id(root.found[1])] = root.found[1]
        while steps:
            step = steps[-1]
            # What is nested too deeply has no guilty part; the root is only what we made of the arguments.
            is_too_deep = isinstance(step.found[2], RecursionError) and step is not root
            child = None if is_too_deep else self._next_child(step)
            if len(steps) > _DEEPEST or self._tries > _MOST_TRIES:
                return step.found
            if child is not None:
                step.has_child = True
                steps.append(child)
            elif not (step.has_child or step.is_circular):
                return step.found
            else:
                if not step.has_child and dead_end is root:
                    dead_end = step
                steps.pop()
        return dead_end.found

    def _next_child(self, step: _Step) -> _Step | None:
        path, value, _ = step.found
        if step.parts is None:
            step.parts = _parts(value)
        while step.next < len(step.parts):
            index = self._narrow(step.parts, step.next)
            step.next = index + 1
            template, key, part = step.parts[index]
            if id(part) in self._seen:
                step.is_circular = True
            elif (reason := self._why(part)) is not None:
                self._seen[id(part)] = part
                return _Step((path + template.format(_short(key))).lstrip("."), part, reason)
            elif self._tries > _MOST_TRIES:
                return None
        return None

    def _why(self, part: object) -> BaseException | None:
        self._tries += 1
        return self._fails(part)

    def _narrow(self, parts: list[_Part], start: int) -> int:
        """Return the first part that fails if one does: by halves, so that all is pickled only once more."""
        end = len(parts)
        while end - start > 1:
            middle = (start + end) // 2
            if self._why([part for _, _, part in parts[start:middle]]) is None:
                start = middle
            else:
                end = middle
        return start


def _short(key: object) -> str:
    try:
        text = repr(key) if type(key) is not _Name else key
    except BaseException:
        text = f"<a {type_name(key)}>"
    return text if len(text) <= _LONGEST_KEY else text[: _LONGEST_KEY - 3] + "..."


class _Name(str):
    """A key that is written without quotes."""

    __slots__ = ()


def _parts(value: Any) -> list[_Part]:
    kind = type(value)
    if kind in STAYS:
        return []
    if kind is list or kind is tuple:
        return [("[{}]", index, item) for index, item in enumerate(value) if type(item) not in _ATOMS]
    if kind is dict:
        found = _items(value.items())
    elif kind is set or kind is frozenset:
        found = ((".<item {}>", item, item) for item in value)
    elif kind is partial:
        found = ((f".{name}", None, getattr(value, name)) for name in ("func", "args", "keywords"))
    elif kind is MethodType:
        found = ((f".{name}", None, getattr(value, name)) for name in ("__self__", "__func__"))
    elif isinstance(value, type):
        found = iter(()) if is_importable(value) else _class_parts(value)
    elif kind is FunctionType:
        found = iter(()) if is_importable(value) else _function_parts(value)
    else:
        found = _reduced_parts(value)
    return [part for part in found if type(part[2]) not in _ATOMS]


def _items(items: Any) -> Iterator[_Part]:
    for key, item in items:
        yield "[{}]", key, item
        yield ".<key {}>", key, key


def _names(prefix: str, names: dict[str, Any]) -> Iterator[_Part]:
    for name, item in names.items():
        yield prefix + ".{}", _Name(name), item


def _class_parts(cls: type) -> Iterator[_Part]:
    try:
        _, args, state, *_ = reduce_class(cls)
    except CallInterrupted:
        raise
    except BaseException:  # fails by itself
        return
    yield from _names("", state[0])
    yield ".__bases__", None, args
    yield ".<members>", None, state[1]


def _function_parts(function: FunctionType) -> Iterator[_Part]:
    attributes, slots = function_state(function)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield ".<closure>.{}", _Name(name), cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    yield from _names(".<globals>", slots["__globals__"])
    for name in ("__defaults__", "__kwdefaults__", "__annotations__"):
        yield "." + name, None, slots[name]
    yield from _names("", attributes)


def _reduced_parts(value: Any) -> Iterator[_Part]:
    kind = type(value)
    reduce = REDUCERS.get(kind) or copyreg.dispatch_table.get(kind)
    reduced: Any = None
    try:
        reduced = value.__reduce_ex__(5) if reduce is None else reduce(value)
    except CallInterrupted:
        raise
    except BaseException:  # fails by itself
        return
    if not isinstance(reduced, tuple):
        return
    parts: Any = (*reduced, None, None, None)
    function, args, state, items, pairs = parts[:5]
    if isinstance(value, BaseException) and args == value.args:
        yield ".args", None, args
    else:
        if function is copyreg.__newobj__:  # type: ignore[attr-defined]
            function, *args = args
        yield ".__class__", None, function
        template = "[{}]" if isinstance(value, tuple) else ".<args>[{}]"
        yield from ((template, index, arg) for index, arg in enumerate(args))
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        yield from _names("", state[1])
        state = state[0]
    if isinstance(state, dict):
        yield from _names("", state)
    elif state is not None:
        yield ".<state>", None, state
    yield from (("[{}]", index, item) for index, item in enumerate(items or ()))
    yield from _items(pairs or ())
