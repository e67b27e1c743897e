"""Exceptions across a link: as themselves where that is safe, as RemoteError where it is not."""

from __future__ import annotations

import dataclasses
import gc
import sys
import threading
import traceback
import weakref
from typing import Any, NoReturn

import attrs
import pytest
import trio
from ends import End, Pair

from trio_isolates import CallInterrupted, RemoteError, UnsendableError
from trio_isolates._exceptions import dump_error, load_error

TITLE = "isolate 'w' (pid 1)"


@pytest.fixture
def pair() -> Pair:
    return Pair()


def carry(sender: End, receiver: End, exc: BaseException) -> Any:
    with sender.at_work():
        pickled = dump_error(sender.codec, exc, TITLE)
    receiver.define(pickled)
    with receiver.at_work():
        return load_error(receiver.codec, b"".join(pickled[0]), pickled[1])


def home(pair: Pair, exc: BaseException) -> Any:
    """The exception that the parent gets for one that was raised in the worker."""
    return carry(pair.worker, pair.parent, exc)


def caught(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def links(exc: BaseException | None) -> list[str]:
    """The chain as a reader of the traceback sees it."""
    seen: list[str] = []
    while exc is not None:
        seen.append(str(exc))
        if exc.__cause__ is not None:
            exc = exc.__cause__
            seen.append("from")
        else:
            exc = None if exc.__suppress_context__ else exc.__context__
    return seen


def inner(word: str) -> NoReturn:
    raise KeyError(word)


def outer(word: str) -> NoReturn:
    inner(word)


def test_an_exception_is_itself(pair: Pair) -> None:
    """It arrives with its type, arguments and attributes, the remote frames, and the remote text as a note."""
    exc = caught(outer, "w")
    exc.add_note("a note of its own")
    exc.detail = [1, 2]  # type: ignore[attr-defined]
    error = home(pair, exc)
    assert (type(error), error.args, error.detail) == (KeyError, ("w",), [1, 2])
    frames = traceback.extract_tb(error.__traceback__)
    line = inner.__code__.co_firstlineno + 1
    assert [(frame.filename, frame.name) for frame in frames[-2:]] == [(__file__, "outer"), (__file__, "inner")]
    assert (frames[-1].lineno, frames[-1].line) == (line, "raise KeyError(word)")
    assert error.__notes__[0] == "a note of its own"
    title, _, text = error.__notes__[1].partition("\n")
    assert title == f"Remote traceback ({TITLE}):"
    assert text.startswith("Traceback (most recent call last):") and f'", line {line}, in inner' in text
    assert "a note of its own" in text


def test_what_a_reader_sees(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is raised again the traceback shows the receiver's frames, then the sender's, with their lines."""

    def here() -> NoReturn:
        raise error

    error = home(pair, caught(outer, "w"))
    exc = caught(here)
    text = "".join(traceback.format_exception(exc))
    sys.__excepthook__(type(exc), exc, exc.__traceback__)
    for shown in (text, capsys.readouterr().err):
        places = [shown.index(f"in {name}\n") for name in ("here", "outer", "inner")]
        assert places == sorted(places)
        assert f'File "{__file__}", line {inner.__code__.co_firstlineno + 1}, in inner\n    raise KeyError(word)\n' in shown


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
    assert (type(error).__name__, error.code, error.args, isinstance(error, ValueError)) == ("Own", 3, ("x",), True)
    assert pair.there(error).__class__ is pair.worker["Own"]


def test_two_hops(pair: Pair) -> None:
    """An exception that crosses two links has the frames of both, and says where it has been."""
    above = Pair()
    error = home(pair, caught(outer, "w"))

    def between() -> NoReturn:
        raise error

    last = home(above, caught(between))
    names = [frame.name for frame in traceback.extract_tb(last.__traceback__)]
    assert type(last) is KeyError and names[-3:] == ["between", "outer", "inner"]
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
    assert "previous line repeated" in error.__notes__[0]


# What must not cross as itself.


@pytest.mark.parametrize(
    "kind",
    [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration, trio.EndOfChannel]
    + [CallInterrupted, BaseException],
)
def test_what_would_end_the_caller(pair: Pair, kind: type[BaseException]) -> None:
    """What would end a loop, a task or the program arrives as a RemoteError that says what it was."""

    def raises() -> NoReturn:
        raise kind("a reason") from OSError("cause")

    error = home(pair, caught(raises))
    assert type(error) is RemoteError
    module = "" if kind.__module__ == "builtins" else kind.__module__ + "."
    assert (error.type_name, error.text) == (module + kind.__name__, "a reason")
    assert f"{error.type_name}: a reason" in error.traceback and "in raises" in error.traceback
    assert type(error.__cause__) is OSError
    assert traceback.extract_tb(error.__traceback__)[-1].name == "raises"


def cancelled() -> BaseException:
    """A real `Cancelled`."""
    found: list[BaseException] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                found.append(exc)
                raise

    trio.run(main)
    return found[0]


@pytest.mark.parametrize("cut", [cancelled, CallInterrupted], ids=["Cancelled", "CallInterrupted"])
def test_cancellations_are_cut_out(pair: Pair, cut: Any) -> None:
    """A cancellation in a chain or in a group is left out, and what hangs on it is kept."""
    exc, link = ValueError("x"), cut()
    link.__context__ = OSError("before")
    exc.__context__ = link
    assert links(home(pair, exc)) == ["x", "before"]
    exc.__cause__ = cut()
    assert links(home(pair, exc)) == ["x"]
    group = BaseExceptionGroup("g", [cut(), ValueError("kept"), BaseExceptionGroup("only", [cut(), cut()])])
    exc = ValueError("y")
    exc.__context__ = BaseExceptionGroup("only", [cut()])
    error = home(pair, group)
    assert type(error) is ExceptionGroup and [str(leaf) for leaf in error.exceptions] == ["kept"]
    assert links(home(pair, exc)) == ["y"]
    only = home(pair, BaseExceptionGroup("only", [cut()]))
    assert (type(only), only.type_name) == (RemoteError, "BaseExceptionGroup")


class Locked(Exception):
    """Cannot be pickled."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.lock = threading.Lock()


class TwoArguments(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, code: int, word: str) -> None:
        super().__init__(f"{code} {word}")


class Exits(Exception):
    """Exits the process that pickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise SystemExit(3)


class ExitsThere(Exception):
    """Exits the process that opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


class Interrupts(Exception):
    """Is interrupted where it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return interrupt, ()


def interrupt() -> NoReturn:
    raise CallInterrupted


class Changes(Exception):
    """Unpickles as something else."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ValueError, ("changed",)


class Shy(Exception):
    """Has no text, and cannot be pickled either."""

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __reduce__ = Exits.__reduce__


@pytest.mark.parametrize(
    ("exc", "text", "why"),
    [
        (Locked("w"), "w", "exception.lock: cannot pickle '_thread.lock'"),
        (TwoArguments(1, "w"), "1 w", "missing 1 required positional argument"),
        (Exits("w"), "w", "SystemExit: 3"),
        (ExitsThere("w"), "w", "cannot unpickle the message: SystemExit: 3"),
        (Interrupts("w"), "w", None),
        (Changes("w"), "w", "unpickled as a ValueError"),
        (Shy("w"), "<its str() raised KeyboardInterrupt>", "SystemExit: 3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_cannot_cross(pair: Pair, exc: Exception, text: str, why: str | None) -> None:
    """What does not survive pickling arrives as a RemoteError whose cause says why; the codecs work on."""
    error = home(pair, caught(raise_it, exc))
    assert (type(error), error.type_name, error.text) == (RemoteError, f"{__name__}.{type(exc).__name__}", text)
    assert "in raise_it" in error.traceback
    if why is None:
        assert isinstance(error.__cause__, CallInterrupted)
    else:
        assert isinstance(error.__cause__, UnsendableError) and why in str(error.__cause__)
    assert home(pair, ValueError("next")).args == ("next",)


def raise_it(exc: BaseException) -> NoReturn:
    raise exc


def test_a_remote_error_crosses(pair: Pair) -> None:
    """A RemoteError crosses a second link as itself."""
    error = home(pair, home(pair, SystemExit("w")))
    assert (type(error), error.type_name, error.text) == (RemoteError, "SystemExit", "w")
    assert "SystemExit: w" in error.traceback


# Exceptions that fight back.


@dataclasses.dataclass(frozen=True)
class FrozenData(Exception):
    x: int


@attrs.frozen
class FrozenAttrs(Exception):
    x: int


class NoNotes(Exception):
    __notes__ = "not a list"  # type: ignore[assignment]

    def add_note(self, note: str, /) -> None:
        raise ValueError("no notes")


@pytest.mark.parametrize("exc", [FrozenData(3), FrozenAttrs(3), NoNotes(3)], ids=lambda exc: type(exc).__name__)
def test_exceptions_that_forbid_changes(pair: Pair, exc: Exception) -> None:
    """An exception that lets nobody set its attributes or notes still gets its chain, frames and note."""
    exc = caught(lambda: raise_with_cause(exc))  # type: ignore[assignment]
    error = home(pair, exc)
    assert type(error) is type(exc) and vars(error).get("x", 3) == 3
    assert str(error.__cause__) == "cause" and error.__suppress_context__
    assert traceback.extract_tb(error.__traceback__)[-1].name == "raise_with_cause"
    assert vars(error)["__notes__"][-1].startswith("Remote traceback")


def raise_with_cause(exc: BaseException) -> NoReturn:
    raise exc from OSError("cause")


class Word(str):
    """A text that cannot be pickled."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise ValueError("no")


class Hostile(Exception):
    def __str__(self) -> str:
        return Word("a word")

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


def test_an_exception_that_cannot_be_looked_at(pair: Pair) -> None:
    """An exception of which nothing can be read arrives as a RemoteError, and so does what it is a part of."""
    error = home(pair, Hostile("w"))
    assert (type(error), error.type_name, error.text) == (RemoteError, "Hostile", "a word")
    assert "no __cause__" in str(error.__cause__)
    group = home(pair, ExceptionGroup("g", [Hostile("w"), ValueError("x")]))
    assert [type(leaf) for leaf in group.exceptions] == [RemoteError, ValueError]


def test_a_very_long_text(pair: Pair) -> None:
    """The text beside an exception is cut in the middle when it is very long; its arguments are not."""
    error = home(pair, ValueError("a" * 3_000_000 + "z"))
    assert len(error.args[0]) == 3_000_001
    assert len(error.__notes__[0]) < 1_100_000 and error.__notes__[0].endswith("az")


@pytest.mark.parametrize("body", [b"", b"garbage", b"\x80\x05N."])
def test_a_message_that_is_none(pair: Pair, body: bytes) -> None:
    """An error message that cannot be opened is a RemoteError that says so."""
    error = load_error(pair.parent.codec, body)
    assert isinstance(error, RemoteError) and "could not be opened" in error.text
    assert error.__cause__ is not None
