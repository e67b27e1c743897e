"""Exceptions that arrive as RemoteError: because they must not cross as themselves, or cannot."""

from __future__ import annotations

import dataclasses
import sys
import threading
import traceback
from typing import Any, NoReturn

import attrs
import pytest
import trio

from ends import Pair, caught, home, links
from trio_isolates import CallInterrupted, RemoteError, UnsendableError
from trio_isolates._exceptions import load_error


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.mark.parametrize(
    "kind",
    [
        *(BaseException, SystemExit, KeyboardInterrupt, GeneratorExit, CallInterrupted),
        *(StopIteration, StopAsyncIteration, trio.EndOfChannel),
    ],
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
    assert (type(error), error.type_name, error.text) == (
        RemoteError,
        f"{__name__}.{type(exc).__name__}",
        text,
    )
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

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenData, (self.x,)


@attrs.frozen
class FrozenAttrs(Exception):
    x: int


class NoNotes(Exception):
    __notes__ = "not a list"  # type: ignore[assignment]

    def add_note(self, note: str, /) -> None:
        raise ValueError("no notes")


@pytest.mark.parametrize(
    "exc", [FrozenData(3), FrozenAttrs(3), NoNotes(3)], ids=lambda exc: type(exc).__name__
)
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
    """An exception of which nothing can be read arrives as a RemoteError, alone or in a group."""
    error = home(pair, Hostile("w"))
    assert (type(error), error.type_name, error.text) == (RemoteError, "Hostile", "a word")
    assert "RuntimeError: no __" in str(error.__cause__)
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
