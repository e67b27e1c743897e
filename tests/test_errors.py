"""The words for what can go wrong: what they say, what they carry, and that they travel."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable

import pytest
import trio_parallel

import trio_isolates
from trio_isolates import (
    CallInterrupted,
    IsolateDied,
    IsolateError,
    IsolateSpawnError,
    ProtocolError,
    RemoteError,
    RestartLimitExceeded,
    UnsendableError,
)

DIED = IsolateDied(
    "w", pid=7, exitcode=-9, signal="SIGKILL", maybe_executed=False, stderr_tail="last\nwords\n"
)

STDERR = "the end of its stderr:\n  last\n  words"

CRASH = "before\nFatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n" + "".join(
    f"  File {number}\n" for number in range(100)
)
CRASHED = (
    "isolate 'w' (pid 7) was killed by SIGSEGV; the call may have been executed\nthe end of its stderr:\n"
    "  Fatal Python error: Aborted\n  Current thread 0x1 (most recent call first):\n"
) + "\n".join(f"    File {number}" for number in range(10))

ALL: list[BaseException] = [
    IsolateError("base"),
    DIED,
    IsolateDied("w"),
    IsolateDied("w", call="f", seconds=1.5, peak_rss=5, out_of_memory=True),
    IsolateSpawnError("no start"),
    UnsendableError("args[0].lock: no", path="args[0].lock", type_name="_thread.lock"),
    UnsendableError("no"),
    RemoteError("m.T", "text", "Traceback ..."),
    RemoteError("m.T", ""),
    RestartLimitExceeded("too often", causes=[ValueError(1), OSError(2)]),
    ProtocolError("garbage"),
    CallInterrupted(),
]


@pytest.mark.parametrize("travel", [lambda exc: pickle.loads(pickle.dumps(exc)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("exc", ALL, ids=repr)
def test_each_travels(exc: BaseException, travel: Callable[[BaseException], BaseException]) -> None:
    """Each pickles and copies with its arguments, its attributes and the notes that were added to it."""
    exc = copy.copy(exc)
    exc.add_note("noted")
    there = travel(exc)
    assert type(there) is type(exc) and str(there) == str(exc)
    assert repr(there.args) == repr(exc.args)
    assert {name: repr(value) for name, value in vars(there).items()} == {
        name: repr(value) for name, value in vars(exc).items()
    }
    assert there.__notes__ == ["noted"]


@pytest.mark.parametrize("exc", ALL, ids=repr)
def test_each_is_named_as_users_know_it(exc: BaseException) -> None:
    """In a traceback each stands under the name by which it is imported."""
    (line,) = (line for line in traceback.format_exception_only(exc) if line.startswith("trio_isolates"))
    assert line.startswith(f"trio_isolates.{type(exc).__name__}")
    assert getattr(trio_isolates, type(exc).__name__) is type(exc)


def test_the_family() -> None:
    """All but CallInterrupted are IsolateErrors, and some are what others know them as."""
    for exc in ALL:
        assert isinstance(exc, IsolateError) != isinstance(exc, CallInterrupted)
    assert issubclass(IsolateDied, trio_parallel.BrokenWorkerError)
    assert issubclass(UnsendableError, TypeError)
    assert not issubclass(CallInterrupted, Exception)


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (
            DIED,
            "isolate 'w' (pid 7) was killed by SIGKILL; no call had begun\n" + STDERR,
        ),
        (
            IsolateDied("w", pid=7, exitcode=3),
            "isolate 'w' (pid 7) exited with code 3; the call may have been executed",
        ),
        (
            IsolateDied("w"),
            "isolate 'w' (pid None) ended, and nobody could tell why; the call may have been executed",
        ),
        (
            IsolateDied(
                "w", pid=7, signal="SIGKILL", call="f", seconds=0.0123, peak_rss=5 << 20, out_of_memory=True
            ),
            (
                "isolate 'w' (pid 7) was killed by SIGKILL, likely out of memory, 12 ms into f, "
                "peak memory 5 MiB; the call may have been executed"
            ),
        ),
        (
            IsolateDied("w", pid=7, exitcode=3, call="a.f", seconds=12.34, peak_rss=3 << 29),
            (
                "isolate 'w' (pid 7) exited with code 3, 12.3 s into a.f, peak memory 1.5 GiB; "
                "the call may have been executed"
            ),
        ),
        (
            IsolateDied("w", pid=7, exitcode=3, call="f", seconds=3600.4),
            "isolate 'w' (pid 7) exited with code 3, 3600 s into f; the call may have been executed",
        ),
        (
            IsolateDied("w", pid=7, exitcode=3, call="f"),
            "isolate 'w' (pid 7) exited with code 3, in f; the call may have been executed",
        ),
        (IsolateDied("w", pid=7, exitcode=-11, signal="SIGSEGV", stderr_tail=CRASH), CRASHED),
        (RemoteError("m.T", "text"), "m.T: text"),
        (RemoteError("m.T", ""), "m.T"),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value),
)
def test_what_they_say(exc: BaseException, text: str) -> None:
    """Their texts say what happened, to whom, and what that means for the call."""
    assert str(exc) == text


def test_only_the_end_of_a_long_stderr_is_shown() -> None:
    """The text has the last eight lines of what the isolate wrote; the attribute has all."""
    exc = IsolateDied("w", stderr_tail="".join(f"{number}\n" for number in range(100)))
    assert str(exc).splitlines()[-8:] == [f"  {number}" for number in range(92, 100)]
    assert len(str(exc).splitlines()) == 10 and exc.stderr_tail.startswith("0\n")


class Mine(UnsendableError):
    """A user's own, with the constructor that it inherits."""


def test_subclasses_travel() -> None:
    """A subclass that keeps the constructor travels as itself."""
    exc = Mine("no", path="p", type_name="t")
    exc.more = 1  # type: ignore[attr-defined]
    there = pickle.loads(pickle.dumps(exc))
    assert (type(there), there.args, there.path, there.type_name, there.more) == (Mine, ("no",), "p", "t", 1)
