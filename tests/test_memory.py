"""The page that a parent and its isolate share: who came first, who was cancelled, the last words."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_isolates._memory import PAGE_SIZE, RING, TAIL_SIZE, Page


@pytest.fixture(params=["local", "shared"])
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    with closing(Page.local() if request.param == "local" else Page.create(b"")) as made:
        yield made


# Who came first. "b5": the isolate begins call 5, and is told whether it must look; "t": it looks;
# "c5": the parent cancels call 5, and is told whether it may have begun.


@pytest.mark.parametrize(
    ("steps", "answers"),
    [
        ("b1 b2 b3", [False, False, False]),
        ("b1 c1 t", [False, True, [1]]),
        ("c1 b1 t", [False, True, [1]]),
        ("b1 c2 b2 t b3", [False, False, True, [2], False]),
        ("b5 c3", [False, True]),
        ("c7 c5 t", [False, False, [7, 5]]),
        ("b1 c1 b2 t b3 c9 b4 t", [False, True, True, [1], False, False, True, [9]]),
        ("c1 t b1 t", [False, [1], False, []]),
        ("c2 c2 t", [False, False, [2, 2]]),
    ],
)
def test_who_came_first(page: Page, steps: str, answers: list[object]) -> None:
    """Whichever of begin and cancel comes second knows of the other; each cancellation is told once."""
    found: list[object] = []
    for step in steps.split():
        if step == "t":
            found.append(page.take_cancelled())
        else:
            found.append((page.begin if step[0] == "b" else page.cancel)(int(step[1:])))
    assert found == answers


def test_begun(page: Page) -> None:
    """The parent sees which call was begun last, also after it has let go of the page."""
    assert page.begun == 0
    page.begin(2**40)
    assert page.begun == 2**40
    page.close()
    assert page.begun == 2**40
    page.close()


def test_the_ring_goes_round(page: Page) -> None:
    """More cancellations than there is room for arrive, in order, if the isolate looks in between."""
    expected: list[int] = []
    for turn in range(3):
        idents = list(range(turn * RING, turn * RING + RING - 7))
        for ident in idents:
            page.cancel(ident + 1)
        expected += idents
        assert page.take_cancelled() == [ident + 1 for ident in idents]
    assert len(expected) > 2 * RING


def test_a_full_ring(page: Page) -> None:
    """What finds no room is not told, and the parent must take it for begun; then there is room again."""
    assert not any(page.cancel(ident) for ident in range(1, RING + 1))
    assert page.cancel(RING + 1)
    assert page.take_cancelled() == list(range(1, RING + 1))
    assert not page.cancel(RING + 2)
    assert page.take_cancelled() == [RING + 2]


RACER = """
import sys
import time
from trio_isolates._memory import Page

page, beside = Page.attach(int(sys.argv[1]))
last = int(beside)
ran = bytearray(last + 1)
cancelled = set()
for ident in range(1, last + 1):
    if page.begin(ident):
        cancelled.update(page.take_cancelled())
    ran[ident] = ident not in cancelled
page.write_stderr(b"done")
sys.stdout.buffer.write(ran)
page.close()
"""


def test_the_race() -> None:
    """A call of which the parent was told that it had not begun never runs, however close it was."""
    last = 150_000
    certain: list[int] = []
    with closing(Page.create(b"%d" % last)) as page:
        racer = subprocess.Popen(
            [sys.executable, "-c", RACER, str(page.fd)], pass_fds=[page.fd], stdout=subprocess.PIPE
        )
        with racer:
            assert racer.stdout is not None
            os.set_blocking(racer.stdout.fileno(), False)
            told, ran = 0, b""
            while len(ran) <= last and racer.poll() is None:
                if page.begun >= told:  # always the next one: as close as it can be
                    told = page.begun + 1
                    if not page.cancel(told):
                        certain.append(told)
                if page.begun == last:
                    ran += racer.stdout.read() or b""
        assert racer.returncode == 0 and page.begun == last and page.stderr_tail() == "done"
    assert len(ran) == last + 1 and sum(ran) > 0
    assert len(certain) > 10 and not any(ran[ident] for ident in certain if ident <= last)


def test_attach() -> None:
    """Another process finds what lies beside the page, and sees and is seen."""
    beside = os.urandom(200_000)
    script = (
        "import sys; from trio_isolates._memory import Page; page, beside = Page.attach(int(sys.argv[1])); "
        "page.begin(sum(beside)); print(page.take_cancelled()); page.write_stderr(b'x' * 70_000 + b'end')"
    )
    with closing(Page.create(beside)) as page:
        assert os.fstat(page.fd).st_size == PAGE_SIZE + len(beside)
        assert not os.get_inheritable(page.fd)
        page.cancel(5)
        told = subprocess.run(
            [sys.executable, "-c", script, str(page.fd)], pass_fds=[page.fd], capture_output=True, check=True
        )
        assert told.stdout == b"[5]\n"
        assert page.begun == sum(beside)
        assert page.stderr_tail() == "x" * (TAIL_SIZE - 3) + "end"
        fd = page.fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# The last words.


@given(st.lists(st.tuples(st.integers(0, 70_000), st.sampled_from("ab\n")), max_size=8))
@example([(TAIL_SIZE, "a")])
@example([(TAIL_SIZE - 1, "a"), (1, "b")])
@example([(TAIL_SIZE, "a"), (TAIL_SIZE, "b"), (1, "a")])
def test_the_end_of_stderr_is_kept(writes: list[tuple[int, str]]) -> None:
    """Of all that was written, in whatever pieces, the last 64 KiB can be read."""
    page = Page.local()
    whole = ""
    for count, character in writes:
        page.write_stderr(character.encode() * count)
        whole += character * count
    assert page.stderr_tail() == whole[-TAIL_SIZE:]


@pytest.mark.parametrize("shift", range(5))
@pytest.mark.parametrize("character", "xé€😀")
def test_no_character_is_cut(character: str, shift: int) -> None:
    """A character of which only the end is left is not shown; what was never text is shown as that."""
    page = Page.local()
    page.write_stderr((character * 70_000).encode() + b"." * shift)
    tail = page.stderr_tail()
    assert set(tail) <= {character, "."} and TAIL_SIZE - 4 < len(tail.encode()) <= TAIL_SIZE
    page.write_stderr(b"\xff\n")
    assert page.stderr_tail().endswith("\ufffd\n")


def test_what_is_no_text_at_all() -> None:
    """A ring full of bytes that begin no character is shown nevertheless."""
    page = Page.local()
    page.write_stderr(b"\x80" * (TAIL_SIZE + 5))
    assert page.stderr_tail() == "\ufffd" * TAIL_SIZE


def test_since_when() -> None:
    """It is known when a call was begun, of the last few thousand; of others, nothing is made up."""
    page = Page.local()
    before = time.monotonic()
    for ident in range(1, 5001):
        page.begin(ident)
    after = time.monotonic()
    times = [page.began_at(ident) for ident in (1000, 5000, 5001)]
    assert times[0] is not None and times[1] is not None and times[2] is None
    assert before - 1e-6 <= times[0] <= times[1] <= after + 1e-6
    assert page.began_at(5000 - 4096) is None and page.began_at(5000 - 4095) is not None
    page.close()
    assert page.began_at(5000) is None
