"""Exceptions across a link that arrive as themselves: their frames, their chains, their groups."""

from __future__ import annotations

import gc
import sys
import threading
import traceback
import weakref
from functools import partial
from typing import Any, NoReturn, Self

import pytest

from ends import TITLE, Pair, caught, home, links
from trio_isolates import RemoteError
from trio_isolates._interrupt import Interrupter
from trio_isolates._memory import Page


@pytest.fixture
def pair() -> Pair:
    return Pair()


def inner(word: str) -> NoReturn:
    raise KeyError(word)


def outer(word: str) -> NoReturn:
    inner(word)


def test_an_exception_is_itself(pair: Pair) -> None:
    """It arrives with its type, arguments and attributes, its frames, and the remote text as a note."""
    exc = caught(outer, "w")
    exc.add_note("a note of its own")
    exc.detail = [1, 2]  # type: ignore[attr-defined]
    error = home(pair, exc)
    assert (type(error), error.args, error.detail) == (KeyError, ("w",), [1, 2])
    frames = traceback.extract_tb(error.__traceback__)
    line = inner.__code__.co_firstlineno + 1
    assert [frame.filename for frame in frames[-2:]] == [__file__, __file__]
    assert [frame.name for frame in frames[-2:]] == ["outer", "inner"]
    assert (frames[-1].lineno, frames[-1].line) == (line, "raise KeyError(word)")
    assert error.__notes__[0] == "a note of its own"
    title, _, text = error.__notes__[1].partition("\n")
    assert title == f"Remote traceback ({TITLE}):"
    assert text.startswith("Traceback (most recent call last):") and f'", line {line}, in inner' in text
    assert text.endswith("KeyError: 'w'")  # and the note is not said twice


def test_what_a_reader_sees(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """Raised again, its traceback shows the receiver's frames, then the sender's, with their lines."""

    def here() -> NoReturn:
        raise error

    error = home(pair, caught(outer, "w"))
    exc = caught(here)
    text = "".join(traceback.format_exception(exc))
    sys.__excepthook__(type(exc), exc, exc.__traceback__)
    for shown in (text, capsys.readouterr().err):
        places = [shown.index(f"in {name}\n") for name in ("here", "outer", "inner")]
        assert places == sorted(places)
        place = f'File "{__file__}", line {inner.__code__.co_firstlineno + 1}, in inner'
        assert f"{place}\n    raise KeyError(word)\n" in shown


def test_nothing_is_kept_alive(pair: Pair) -> None:
    """An exception that arrived is gone as soon as nobody holds it, without a collection."""
    pair.parent.run("class E(Exception):\n    pass")
    cls = pair.there(pair.parent["E"])
    gc.collect()
    gc.disable()
    try:
        error = home(pair, cls("x"))
        alive = weakref.ref(error)
        del error
        assert alive() is None
    finally:
        gc.enable()


def test_a_class_of_the_main_program(pair: Pair) -> None:
    """An exception of the parent's own class comes home as one; of the worker's own class, as itself, too."""
    pair.parent.run("class Refused(Exception):\n    pass")
    theirs = pair.there(pair.parent["Refused"])
    assert type(home(pair, theirs(3))) is pair.parent["Refused"]
    pair.worker.run("class Own(ValueError):\n    code = 3")
    error = home(pair, pair.worker["Own"]("x"))
    assert (type(error).__name__, error.code, error.args) == ("Own", 3, ("x",))
    assert isinstance(error, ValueError)
    assert pair.there(error).__class__ is pair.worker["Own"]


def test_our_own_frames_are_left_out(pair: Pair) -> None:
    """The frames of this package that lead to a handler's are not shown; each has its own line."""
    _, exc = Interrupter(Page.local()).run(1, partial(outer, "w"))
    tb = home(pair, exc).__traceback__
    lines = [(tb.tb_frame.f_code.co_name, tb.tb_lineno, tb.tb_frame.f_globals["__name__"])]
    tb = tb.tb_next
    lines += [(tb.tb_frame.f_code.co_name, tb.tb_lineno, tb.tb_frame.f_globals["__name__"])]
    assert tb.tb_next is None
    assert lines == [(f.__name__, f.__code__.co_firstlineno + 1, __name__) for f in (outer, inner)]


def test_two_hops(pair: Pair) -> None:
    """An exception that crosses two links has the frames of both, and says where it has been."""
    above = Pair()
    error = home(pair, caught(outer, "w"))

    def between() -> NoReturn:
        raise error

    last = home(above, caught(between))
    names = [frame.name for frame in traceback.extract_tb(last.__traceback__)]
    assert type(last) is KeyError and names == ["caught", "between", "caught", "outer", "inner"]
    assert sum(note.startswith("Remote traceback") for note in last.__notes__) == 2


# Chains.


def raise_from(word: str, cause: BaseException | None) -> NoReturn:
    try:
        inner("context")
    except KeyError:
        raise ValueError(word) from cause


def raise_within(word: str) -> NoReturn:
    try:
        inner("context")
    except KeyError:
        raise ValueError(word)  # noqa: B904


@pytest.mark.parametrize(
    ("raises", "expected"),
    [
        (lambda: raise_within("x"), ["x", "'context'"]),
        (lambda: raise_from("x", None), ["x"]),
        (lambda: raise_from("x", OSError("cause")), ["x", "from", "cause"]),
        (lambda: raise_from("x", caught(raise_within, "cause")), ["x", "from", "cause", "'context'"]),
    ],
)
def test_chains(pair: Pair, raises: Any, expected: list[str]) -> None:
    """Causes and contexts arrive as they were, with their own frames, suppressed where they were."""
    exc = caught(raises)
    error = home(pair, exc)
    assert links(error) == links(exc) == expected
    assert [type(link) for link in (error.__cause__, error.__context__)] == [
        type(link) for link in (exc.__cause__, exc.__context__)
    ]
    assert traceback.extract_tb(error.__context__.__traceback__)[-1].name == "inner"


def test_a_long_chain(pair: Pair) -> None:
    """Each link of a long chain is sent once: fifty links take no longer than fifty exceptions."""
    exc: BaseException | None = None
    for number in range(51):
        exc = caught(raise_from, str(number), exc)
    assert exc is not None
    error = home(pair, exc)
    assert links(error) == links(exc) and len(links(error)) == 101


def test_a_chain_without_end(pair: Pair) -> None:
    """A chain that is a ring arrives as a ring, one that is too long loses its far end."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    error = home(pair, first)
    assert error.__cause__.__context__ is error
    exc: BaseException | None = None
    for number in range(300):
        exc, cause = ValueError(number), exc
        exc.__cause__ = cause
    assert exc is not None
    assert 50 < len(links(home(pair, exc))) < 400


def test_many_frames(pair: Pair) -> None:
    """Of very many frames the first and the last arrive."""

    def deeper(depth: int) -> NoReturn:
        deeper(depth + 1)

    error = home(pair, caught(deeper, 0))
    frames = traceback.extract_tb(error.__traceback__)
    assert isinstance(error, RecursionError)
    assert 20 < len(frames) <= 100
    assert frames[0].name == "caught" and frames[-1].name == "deeper"
    assert "Previous line repeated" in error.__notes__[0]


# Groups.


class WithCode(ExceptionGroup[Exception]):
    """A group that takes one argument more, and can be derived from."""

    code: int

    def __new__(cls, message: str, exceptions: list[Exception], code: int) -> Self:
        self = super().__new__(cls, message, exceptions)
        self.code = code
        return self

    def derive(self, excs: Any, /) -> Any:
        return WithCode(self.message, excs, self.code)


class Stubborn(ExceptionGroup[Exception]):
    """A group that takes one argument more, and cannot be derived from."""

    def __new__(cls, exceptions: list[Exception]) -> Self:
        return super().__new__(cls, "stubborn", exceptions)

    def derive(self, excs: Any, /) -> Any:
        raise ValueError("no")


class Simple(ExceptionGroup[Exception]):
    """A group of another name."""


def leaf(number: int) -> Exception:
    exc = caught(inner, str(number))
    assert isinstance(exc, Exception)
    exc.__cause__ = OSError(number)
    return exc


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        (ExceptionGroup("g", [leaf(1), leaf(2)]), ExceptionGroup),
        (BaseExceptionGroup("g", [leaf(1), leaf(2)]), ExceptionGroup),
        (Simple("g", [leaf(1), leaf(2)]), Simple),
        (WithCode("g", [leaf(1), leaf(2)], 7), WithCode),
        (Stubborn([leaf(1), leaf(2)]), ExceptionGroup),
    ],
    ids=lambda value: "" if isinstance(value, type) else type(value).__name__,
)
def test_groups(pair: Pair, group: BaseExceptionGroup[Exception], kind: type[Any]) -> None:
    """A group arrives as its kind if that is possible, each of its members with its own frames and chain."""
    group.add_note("noted")
    group.detail = 3  # type: ignore[attr-defined]
    error = home(pair, group)
    assert type(error) is kind and (error.message, error.detail) == (group.message, 3)
    assert getattr(error, "code", None) == getattr(group, "code", None)
    assert error.__notes__[0] == "noted" and "Remote traceback" in error.__notes__[1]
    assert [repr(member) for member in error.exceptions] == ["KeyError('1')", "KeyError('2')"]
    for number, member in enumerate(error.exceptions, 1):
        assert traceback.extract_tb(member.__traceback__)[-1].name == "inner"
        assert member.__cause__.args == (number,)
        assert not hasattr(member, "__notes__")


def test_groups_in_groups(pair: Pair) -> None:
    """Groups in groups keep their shape; a member that cannot cross is replaced alone."""
    shared = ValueError("shared")
    inside = ExceptionGroup("inside", [shared, StopIteration("x")])
    error = home(pair, BaseExceptionGroup("outside", [inside, SystemExit(3), shared]))
    assert (type(error), error.message) == (ExceptionGroup, "outside")
    assert [type(member) for member in error.exceptions] == [ExceptionGroup, RemoteError, ValueError]
    assert [type(member) for member in error.exceptions[0].exceptions] == [ValueError, RemoteError]
    assert error.exceptions[0].exceptions[0] is error.exceptions[2]
    assert error.exceptions[1].type_name == "SystemExit"


def test_groups_nested_too_deeply(pair: Pair) -> None:
    """Of groups nested without end the innermost arrive as one RemoteError."""
    group: Exception = ValueError("innermost")
    for _ in range(300):
        group = ExceptionGroup("g", [group])
    error: Any = home(pair, group)
    depth = 0
    while type(error) is ExceptionGroup:
        depth += 1
        error = error.exceptions[0]
    assert 50 < depth < 300
    assert isinstance(error, RemoteError) and error.type_name == "ExceptionGroup"


def test_a_group_that_its_member_speaks_of(pair: Pair) -> None:
    """A group that is the context of its own member arrives so."""
    member = ValueError("m")
    group = ExceptionGroup("g", [member])
    member.__context__ = group
    error = home(pair, group)
    assert error.exceptions[0].__context__ is error


def test_a_group_with_attributes_that_cannot_cross(pair: Pair) -> None:
    """Of a group whose attributes cannot be sent the notes arrive."""
    group = Simple("g", [leaf(1)])
    group.lock = threading.Lock()  # type: ignore[attr-defined]
    group.add_note("noted")
    error = home(pair, group)
    assert error.__notes__[0] == "noted" and repr(error.exceptions[0]) == "KeyError('1')"
