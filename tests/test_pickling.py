"""Messages of a codec: what is sent once, what fails, and the globals of functions that arrive."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from ends import End, Pair
from trio_isolates import ProtocolError, UnsendableError


@pytest.fixture
def pair() -> Pair:
    return Pair()


# The globals of functions.


def test_globals_are_shared_across_messages(pair: Pair) -> None:
    """Functions of the main program see the same globals in the worker, whichever message they came in."""
    pair.parent.run("""
        count = 0
        def add():
            global count
            count += 1
        def get(): return count
    """)
    pair.there(pair.parent["add"])()
    assert pair.there(pair.parent["get"])() == 1
    pair.there(lambda: None)
    pair.parent.run("more = lambda: count + 1")
    assert pair.there(pair.parent["more"])() == 2
    assert pair.parent["count"] == 0


def test_a_global_is_set_once(pair: Pair) -> None:
    """A global keeps the value with which it first arrived, or that the worker gave it."""
    pair.parent.run("def helper(): return 'first'\nrate = 1\ndef f(): return helper(), rate")
    f = pair.there(pair.parent["f"])
    pair.worker["rate"]
    vars(pair.worker.main)["rate"] = 2
    pair.parent.run("def helper(): return 'second'\nrate = 3\ndef g(): return helper(), rate")
    assert pair.there(pair.parent["g"])() == f() == ("first", 2)


def test_a_name_of_the_workers_own_program_is_kept(pair: Pair) -> None:
    """What the worker's main program has already is not replaced."""
    vars(pair.worker.main)["setting"] = "mine"
    pair.parent.run("setting = 'yours'\ndef f(): return setting, __name__")
    assert pair.there(pair.parent["f"])() == ("mine", "__main__")


def test_only_globals_are_set(pair: Pair) -> None:
    """A class that merely has the name of a global is not taken for it."""
    pair.parent.run("""
        Row = "the global"
        def f(): return Row
        dynamic = type("Row", (), {"__module__": "__main__"})
    """)
    pair.there(pair.parent["dynamic"])
    assert pair.there(pair.parent["f"])() == "the global"


def test_what_comes_home_leaves_the_program_alone(pair: Pair) -> None:
    """Functions that a worker makes bring their globals along, but the parent's program gets none of them."""
    pair.worker.run("own = 1\nother = 2\nf = lambda: (own, other)")
    pair.parent.run("own = 'mine'")
    names = dict(vars(pair.parent.main))
    assert pair.back(pair.worker["f"])() == (1, 2)
    assert vars(pair.parent.main) == names


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An importable module with a decorator, and a helper that has a common name."""
    module = ModuleType("a_library")
    source = """
import functools
def helper(x): return ("the library's", x)
def decorate(f):
    @functools.wraps(f)
    def wrapper(*args): return helper(f(*args))
    return wrapper
"""
    exec(compile(source, "a_library.py", "exec", dont_inherit=True), vars(module))
    monkeypatch.setitem(sys.modules, "a_library", module)
    return module


def test_a_decorator_has_globals_of_its_own(pair: Pair, library: ModuleType) -> None:
    """A function that claims the main program's module, as after functools.wraps, keeps its own globals."""
    pair.parent.run("""
        from a_library import decorate
        def helper(x): return ("mine", x)
        def plain(x): return helper(x)
        @decorate
        def f(x): return plain(x)
    """)
    assert pair.parent["f"].__module__ == "__main__"
    for _ in range(2):
        assert pair.there(pair.parent["f"])(1) == ("the library's", ("mine", 1))
    assert pair.there(pair.parent["plain"])(1) == ("mine", 1)
    assert "functools" not in vars(pair.worker.main)


def test_functions_of_exec_have_globals_of_their_own(pair: Pair) -> None:
    """Functions with globals of no module share them in a message, and with nobody else."""
    pair.parent.run("""
        made = []
        for n in (1, 2):
            names = {"n": n}
            exec("def get(): return n\\ndef add():\\n    global n\\n    n += 10", names)
            made.append((names["get"], names["add"]))
    """)
    (get1, add1), (get2, _) = pair.there(pair.parent["made"])
    add1()
    assert (get1(), get2()) == (11, 2)
    assert "n" not in vars(pair.worker.main)
    assert pair.parent["made"][0][0]() == 1


# Context variables.

importable: ContextVar[Any] = ContextVar("importable", default=threading.Lock())  # noqa: B039  # never asked for
_hidden: list[ContextVar[int]] = [ContextVar("hidden")]


def test_a_context_variable_of_a_module(pair: Pair) -> None:
    """A variable of an importable module is found there, also if the main program has imported it."""
    vars(pair.parent.main)["importable"] = importable
    assert pair.there(importable) is importable
    assert pair.back(importable) is importable


def test_a_context_variable_of_the_main_program(pair: Pair) -> None:
    """A variable of the main program is one variable in the worker, with its default, and itself at home."""
    pair.parent.run("""
        from contextvars import ContextVar
        plain = ContextVar("its name")
        kept = ContextVar("kept", default=[3])
        none = ContextVar("none", default=None)
        def f(): return kept.get()
    """)
    plain, kept, none = (pair.parent[name] for name in ("plain", "kept", "none"))
    theirs = pair.there([plain, kept, none])
    assert [var.name for var in theirs] == ["its name", "kept", "none"]
    assert (theirs[1].get(), theirs[2].get()) == ([3], None)
    with pytest.raises(LookupError):
        theirs[0].get()
    assert pair.there(kept) is theirs[1] is pair.worker["kept"]
    f = pair.there(pair.parent["f"])
    theirs[1].set("changed")
    assert f() == "changed"
    home = pair.back(theirs)
    assert all(mine is var for mine, var in zip(home, (plain, kept, none), strict=True))


def test_a_context_variable_that_nobody_can_find(pair: Pair) -> None:
    """A variable that is no module's is refused in words that say so."""
    with pytest.raises(UnsendableError, match=r"value\[0\]: .*ContextVar.*no module-level variable"):
        pair.parent.dumps(_hidden)


# Definitions.


class Picky(type):
    """A metaclass that refuses to make classes, or counts them."""

    refuses = False
    made = 0

    def __new__(mcs, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
        if Picky.refuses:
            raise ValueError("refused")
        Picky.made += 1
        return super().__new__(mcs, name, bases, names)


def picky(pair: Pair) -> Any:
    vars(pair.parent.main)["Picky"] = Picky
    pair.parent.run("class C(metaclass=Picky):\n    x = 1\nclass Other:\n    y = 2")
    Picky.made = 0
    return pair.parent["C"]


def test_a_definition_is_opened_when_it_is_needed(pair: Pair) -> None:
    """What was defined by a message that nobody opened is there for the next one; opened once, if ever."""
    cls = picky(pair)
    pair.worker.define(pair.parent.dumps(cls))
    assert Picky.made == 0
    theirs = pair.worker.loads(pair.parent.dumps([cls, cls()]))
    assert theirs[0] is type(theirs[1]) is pair.there(cls)
    assert Picky.made == 1


def test_a_definition_that_fails_to_open(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A definition that raises fails the messages that need it, each time; the others arrive."""
    cls = picky(pair)
    pair.worker.define(pair.parent.dumps((cls, pair.parent["Other"])))
    monkeypatch.setattr(Picky, "refuses", True)
    for _ in range(3):
        with pytest.raises(UnsendableError, match="cannot unpickle the message: ValueError: refused"):
            pair.there(cls)
        assert pair.there(pair.parent["Other"]).y == 2
    monkeypatch.setattr(Picky, "refuses", False)
    assert pair.there(cls).x == 1


def test_what_has_never_arrived(pair: Pair) -> None:
    """A message whose definition was lost fails with words for it."""
    pickled = pair.parent.dumps(picky(pair))
    with pytest.raises(UnsendableError, match="number 0 has never arrived"):
        pair.worker.loads(pickled)


def test_a_failed_dump_defines_nothing(pair: Pair) -> None:
    """A class that was first used in a message that failed is defined by the next one."""
    cls = picky(pair)
    for dumps in (pair.parent.codec.dumps, pair.parent.codec.dumps_whole):
        with pair.parent.at_work(), pytest.raises(UnsendableError):
            dumps([cls, cls(), threading.Lock()])
    assert type(pair.there(cls())) is pair.worker["C"]


def test_a_whole_message_defines_too(pair: Pair) -> None:
    """`dumps_whole` gives one piece, with the definitions that it needs."""
    cls = picky(pair)
    with pair.parent.at_work():
        body, definitions = pair.parent.codec.dumps_whole([cls(), np.arange(10_000)])
    theirs = pair.worker.receive(([body], [], definitions))
    assert type(theirs[0]) is pair.worker["C"] and theirs[1].sum() == sum(range(10_000))
    assert pair.there(cls) is pair.worker["C"]


@pytest.mark.parametrize(
    "blob", [b"", b"1234567", bytes(8), b"\xff" * 100, (3).to_bytes(8, "little") + bytes(23)], ids=repr
)
def test_a_definition_that_is_none(pair: Pair, blob: bytes) -> None:
    """A definition that cannot be one is a ProtocolError, and takes no memory."""
    with pytest.raises(ProtocolError):
        pair.worker.codec.define(1, blob)


def test_lambdas_are_not_kept(pair: Pair) -> None:
    """What is no module's is let go of by both ends, however often such things are sent."""

    def make(number: int) -> Callable[[], int]:
        return lambda: number

    names = {"value": {1}}
    exec("def of_no_module(): return value", names)
    functions = [make(1), names.pop("of_no_module")]
    functions += [pair.there(function) for function in functions]
    references = [weakref.ref(thing) for thing in (*functions, names["value"])]
    del functions, names
    gc.collect()
    assert [reference() for reference in references] == [None] * 5


def test_a_cycle_of_messages(pair: Pair) -> None:
    """A value that contains itself, and values that share a part, do so at the other end."""
    inner: list[Any] = []
    value = {"a": inner, "b": inner}
    inner.append(value)
    theirs = pair.there(value)
    assert theirs["a"] is theirs["b"] and theirs["a"][0] is theirs


# Messages in messages.


class Nested:
    """While it is pickled it pickles another message with the same codec, which is sent at once."""

    def __init__(self, end: End, other: End, value: object) -> None:
        self.send: Callable[[], Any] = lambda: other.receive(end.codec.dumps(value))
        self.sent: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        sent = self.send()
        self.sent = self.sent or sent  # the path to what fails is found by pickling again
        return int, (3,)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_message_sent_while_another_is_made(pair: Pair, is_first: bool) -> None:
    """A message sent from a `__reduce__` stands for itself, whatever the one around it has defined so far."""
    cls = picky(pair)
    nested = Nested(pair.parent, pair.worker, [cls, bytes(100_000)])
    outer = [nested, cls, bytes(70_000)] if is_first else [cls, nested, bytes(70_000)]
    theirs = pair.there(outer)
    assert nested.sent[0] is theirs[is_first] is pair.worker["C"]
    assert theirs[not is_first] == 3 and len(theirs[2]) == 70_000 and len(nested.sent[1]) == 100_000
    assert pair.back(theirs[is_first]) is cls


def test_a_message_sent_while_another_fails(pair: Pair) -> None:
    """What a message from within a failed one has defined stays defined."""
    cls = picky(pair)
    nested = Nested(pair.parent, pair.worker, cls)
    with pytest.raises(UnsendableError):
        pair.parent.dumps([cls, nested, threading.Lock()])
    assert pair.there(cls) is nested.sent


def test_a_message_that_fails_while_another_is_made(pair: Pair) -> None:
    """An inner message that cannot be sent fails the outer one that lets its error pass, and none after."""
    cls = picky(pair)
    with pytest.raises(UnsendableError, match=r"value\[1\]: cannot pickle '.*Nested'.*'_thread.lock'"):
        pair.parent.dumps([cls, Nested(pair.parent, pair.worker, threading.Lock())])
    assert pair.there(cls).x == 1


def test_a_message_opened_while_another_is() -> None:
    """A message of another link can be opened inside one: each finds its own end's classes."""
    outer, inner = Pair(), Pair()
    for pair in (outer, inner):
        pair.parent.run("class C:\n    pass")
    pickled = inner.parent.dumps(inner.parent["C"])
    inner.worker.define(pickled)
    opener = Opener(lambda: inner.worker.loads(pickled))
    with outer.worker.at_work():
        first, opened, last = outer.there([outer.parent["C"](), opener, outer.parent["C"]()])
    assert opened is inner.worker["C"] is not outer.worker["C"]
    assert type(first) is type(last) is outer.worker["C"]


class Opener:
    """Opens a message while it is itself opened."""

    opens: ClassVar[list[Callable[[], Any]]] = []

    def __init__(self, opens: Callable[[], Any]) -> None:
        self.opens[:] = [opens]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_inner, ()


def open_inner() -> Any:
    return Opener.opens[0]()


def test_a_message_is_opened_only_at_its_link(pair: Pair) -> None:
    """What refers to a definition cannot be opened by plain pickle, and says so."""
    chunks, _, _ = pair.parent.dumps(picky(pair))
    with pytest.raises(pickle.UnpicklingError, match="end of its link"):
        pickle.loads(b"".join(chunks))
