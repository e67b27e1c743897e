"""Which part of a value cannot be sent, and the words for it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest

from ends import Pair
from trio_isolates import UnsendableError
from trio_isolates._pickling import Codec

LOCK = threading.Lock()


class Plain:
    """An object with attributes."""

    def __init__(self, **names: Any) -> None:
        vars(self).update(names)

    def method(self) -> None: ...


class Slots:
    """An object with slots, one of them empty."""

    __slots__ = ("empty", "lock")

    def __init__(self, lock: object) -> None:
        self.lock = lock


class Careful(Plain):
    """Leaves its own lock behind."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "own"}


class Refuses:
    """Refuses by itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("not me")


class BadInt(int):
    """A number that cannot be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("not me")


class BadKey:
    """A key that cannot be printed, with a lock."""

    def __init__(self) -> None:
        self.lock = LOCK

    def __repr__(self) -> str:
        raise SystemExit


@attrs.define
class Attrs:
    lock: Any


@dataclasses.dataclass
class Data:
    jobs: list[Any]


Row = collections.namedtuple("Row", "a b")  # noqa: PYI024


class Words(list[Any]):
    """A list with an attribute."""

    extra: Any = None


def words(items: list[Any], extra: Any = None) -> Words:
    made = Words(items)
    made.extra = extra
    return made


def closure() -> Callable[[], Any]:
    lock = LOCK
    return lambda: lock


def uses_global() -> Callable[[], Any]:
    return lambda: [LOCK for _ in "a"]


def defaults() -> Callable[..., Any]:
    def function(a: Any = 1, b: Any = (LOCK,), *, c: Any = None) -> None: ...

    return function


def only_keywords() -> Callable[..., Any]:
    def function(*, c: Any = LOCK) -> None: ...

    return function


def with_attribute() -> Callable[..., Any]:
    def function() -> None: ...

    function.cache = {"k": LOCK}  # type: ignore[attr-defined]
    return function


def local_class() -> type:
    class Local:
        jobs = (1, LOCK)

    return Local


def property_class() -> type:
    lock = LOCK

    class Local:
        @property
        def x(self) -> Any:
            return lock

    return Local


LOCKED = "cannot pickle '_thread.lock'"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "args"),
        ([1, LOCK], "args[1]"),
        ({"jobs": [1, 2, 3, Plain(lock=LOCK)]}, "args['jobs'][3].lock"),
        ({("a", 1): {2: LOCK}}, "args[('a', 1)][2]"),
        ({LOCK: 1}, f"args.<key {LOCK!r}>"),
        ((((LOCK,),),), "args[0][0][0]"),
        ({LOCK}, f"args.<item {LOCK!r}>"),
        (frozenset({1, LOCK}), f"args.<item {LOCK!r}>"),
        (Plain(a=1, b=Plain(c=[LOCK])), "args.b.c[0]"),
        (Slots(LOCK), "args.lock"),
        (Attrs([LOCK]), "args.lock[0]"),
        (Data([0, LOCK]), "args.jobs[1]"),
        (Row(1, {"k": LOCK}), "args[1]['k']"),
        (SimpleNamespace(x=LOCK), "args.x"),
        (collections.OrderedDict(a=LOCK), "args['a']"),
        (collections.defaultdict(list, a=[LOCK]), "args['a'][0]"),
        (collections.defaultdict(closure()), "args.<args>[0].<closure>.lock"),
        (collections.deque([1, LOCK]), "args[1]"),
        (words([1, LOCK]), "args[1]"),
        (words([1], LOCK), "args.extra"),
        (np.array([1, LOCK], dtype=object), "args.<state>[4][1]"),
        (closure(), "args.<closure>.lock"),
        (uses_global(), "args.<globals>.LOCK"),
        (defaults(), "args.__defaults__[1][0]"),
        (only_keywords(), "args.__kwdefaults__['c']"),
        (with_attribute(), "args.cache['k']"),
        (functools.partial(print, 1, [LOCK]), "args.args[1][0]"),
        (functools.partial(print, end=LOCK), "args.keywords['end']"),
        (functools.partial(closure()), "args.func.<closure>.lock"),
        (Plain(lock=LOCK).method, "args.__self__.lock"),
        (ValueError("x", [LOCK]), "args.args[1][0]"),
        (ExceptionGroup("g", [ValueError(LOCK)]), "args.args[1][0].args[0]"),
        (Careful(own=LOCK, other=[LOCK]), "args.other[0]"),
        (local_class(), "args.jobs[1]"),
        (local_class()(), "args.__class__.jobs[1]"),
        (property_class(), "args.x.<args>[0].<closure>.lock"),
        ([{"k": BadKey()}], "args[0]['k'].lock"),
        ({BadKey(): 1}, f"args.<key <a {__name__}.BadKey>>.lock"),
        ({"x" * 500: LOCK}, f"args['{'x' * 76}...]"),
        ({"{}": LOCK}, "args['{}']"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_path(value: object, path: str) -> None:
    """The path leads to the innermost part that cannot be pickled, as a reader would write it."""
    with pytest.raises(UnsendableError) as caught:
        Codec(side=0).dumps(value, "args")
    assert (caught.value.path, str(caught.value)) == (path, f"{path}: {LOCKED}")
    assert caught.value.type_name == "_thread.lock"
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([Refuses()], f"args[0]: cannot pickle '{__name__}.Refuses': ValueError: not me"),
        ([1, BadInt(3)], f"args[1]: cannot pickle '{__name__}.BadInt': ValueError: not me"),
        ((x for x in "a"), "args: cannot pickle 'generator'"),
        ([memoryview(bytearray(9999)).cast("B"), socket], None),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_words(value: object, message: str | None) -> None:
    """The message names the type, and the reason where the type alone does not say it."""
    if message is None:
        Codec(side=0).dumps(value, "args")
        return
    with pytest.raises(UnsendableError) as caught:
        Codec(side=0).dumps(value, "args")
    assert str(caught.value) == message


def test_a_function_of_the_main_program() -> None:
    """The path goes through the globals of the main program's functions, as far as those call each other."""
    pair = Pair()
    pair.parent.run("""
        import threading
        lock = threading.Lock()
        class Job:
            def run(self): return helper()
        def helper(): return lock
        job = Job()
    """)
    with pytest.raises(UnsendableError) as caught:
        pair.parent.dumps({"k": pair.parent["job"]})
    assert caught.value.path == "value['k'].__class__.run.<globals>.helper.<globals>.lock"


def ring() -> Plain:
    a, b = Plain(), Plain()
    a.b, b.a, b.list = b, a, [a, b]  # type: ignore[attr-defined]
    a.lock = LOCK  # type: ignore[attr-defined]
    return a


def ring_of_lists() -> list[Any]:
    first: list[Any] = []
    second: list[Any] = [first, 1]
    first += [second, [[LOCK]], second]
    return first


@pytest.mark.parametrize(
    ("make", "path"), [(ring, "args.lock"), (ring_of_lists, "args[1][0][0]")], ids=["objects", "lists"]
)
def test_values_that_contain_themselves(make: Callable[[], object], path: str) -> None:
    """In a value that contains itself the guilty part is found, not one that merely leads back to it."""
    with pytest.raises(UnsendableError) as caught:
        Codec(side=0).dumps(make(), "args")
    assert caught.value.path == path


class FailsOnce:
    """Cannot be pickled the first time only."""

    failed = False

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.failed:
            self.failed = True
            raise ValueError("once")
        return int, ()


def test_a_failure_that_does_not_repeat() -> None:
    """A part that fails only once is not found, and the whole is named instead."""
    with pytest.raises(UnsendableError, match=r"^args: cannot pickle 'list': ValueError: once$") as caught:
        Codec(side=0).dumps([1, FailsOnce()], "args")
    assert caught.value.path == "args"


class Item:
    """One of very many."""

    def __init__(self, number: int) -> None:
        self.number = number


MANY = range(1_000_000)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: [*MANY, LOCK, *MANY], "args[1000000]"),
        (lambda: [*((n,) for n in MANY), LOCK, *((n,) for n in MANY[:600_000])], "args[1000000]"),
        (lambda: {number: [number] for number in MANY[:300_000]} | {-1: [LOCK]}, "args[-1][0]"),
        (lambda: [[Item(1) for _ in MANY[:50_000]], {"k": [Item(1)] * 1000 + [LOCK]}], "args[1]['k'][1000]"),
    ],
    ids=["numbers", "tuples", "dict", "objects"],
)
def test_large_values(make: Callable[[], object], path: str) -> None:
    """In a very large value the guilty part is found in about the time that it takes to pickle it twice."""
    value = make()
    started = time.perf_counter()
    with pytest.raises(UnsendableError) as caught:
        Codec(side=0).dumps(value, "args")
    assert caught.value.path == path
    assert time.perf_counter() - started < 5  # seconds; each takes about one on an idle machine


def test_a_deep_value() -> None:
    """In a value of many steps the path ends after a hundred of them."""
    value: Any = LOCK
    for _ in range(200):
        value = [value]
    with pytest.raises(UnsendableError) as caught:
        Codec(side=0).dumps(value, "args")
    assert caught.value.path == "args" + 100 * "[0]"
