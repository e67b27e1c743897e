"""Cancellation against everything else: at every bytecode, between two processes, at random and for long."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import outcome
import pytest
import trio
from attrs import Factory, define

import interrupt_handlers as work
from fifo import within
from interrupting import AnyWorker, capture, opened
from trio_isolates import CallInterrupted, _interrupt, _memory, _service, _sync_server
from trio_isolates._exchange import Exchange
from trio_isolates._interrupt import SIGNAL, Interrupter
from trio_isolates._memory import Page
from trio_isolates._messages import CALL, CANCELLED, DROPPED, VALUE, Chunk, Frame, Spec
from trio_isolates._pickling import Codec
from trio_isolates._service import Service
from trio_isolates._sync_server import SyncServer
from trio_isolates._wire import HEADER

# In one process: a signal at each bytecode of the loop.


@define
class FakeLink:
    """Gives these frames, one at a time, and keeps the answers."""

    frames: list[Frame]
    answers: list[tuple[int, int]] = Factory(list)  # ident and kind

    def read(self) -> list[Frame]:
        return [self.frames.pop(0)] if self.frames else []

    def write(self, chunks: list[Chunk]) -> None:
        _, ident, _, kind, _ = HEADER.unpack_from(chunks[0])
        self.answers.append((ident, kind))


def work_a_little() -> int:
    return sum(range(3)) + len("work")


class Sweep:
    """Has the loop serve two calls, and cancels the first at its n-th bytecode.

    signals: at which of the bytecodes from there on the signal comes.
    """

    files: Final = {module.__file__ for module in (_interrupt, _memory, _service, _sync_server)}

    def __init__(self, number: int, signals: range, make: Callable[[Page], Interrupter]) -> None:
        self.left = number
        self.signals = signals
        self.begun: bool | None = None
        self.ran: list[int] = []
        page = Page.local()
        self.parents_page = Page(page._memory)
        self.interrupter = make(page)
        codec = Codec(side=0)
        calls = [codec.dumps((ident,), "args")[0] for ident in (1, 2)]
        frames = [(CALL, ident, b"".join(map(bytes, call)), ()) for ident, call in enumerate(calls, 1)]
        self.link = FakeLink(list(frames))
        spec = Spec("sweep", self.handle, None, None, None, (), None, None)
        link: Any = self.link
        exchange = Exchange(b"program." + bytes(4))
        codec = Codec(side=1)
        exchange.expect_parent(codec)
        service = Service(spec, codec, self.interrupter, "sweep", lambda: None, exchange=exchange)
        self.server = SyncServer(service, link)

    def handle(self, ident: int) -> int:
        work_a_little()
        self.ran.append(ident)
        return work_a_little()

    def run(self) -> None:
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # before the trace function is set: 3.12 looks only then
        sys.settrace(self.trace)
        try:
            self.server._serve()
        finally:
            sys.settrace(before)

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self.files and code is not work_a_little.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                self.begun = self.parents_page.cancel(1)
            if -self.left in self.signals:
                self.interrupter._on_signal(SIGNAL, frame)
        return self.trace

    def faults(self) -> str:
        """Say what went wrong; "" if nothing did."""
        first = [kind for ident, kind in self.link.answers if ident == 1]
        second = [kind for ident, kind in self.link.answers if ident == 2]
        if second != [VALUE] or self.ran.count(2) != 1:
            return "the second call was hit"
        if len(first) != 1 or first[0] not in (VALUE, CANCELLED, DROPPED):
            return "not exactly one answer"
        if self.begun is False and (first != [DROPPED] or 1 in self.ran):
            return "it had not begun, and was not dropped"
        if first == [VALUE] and self.ran.count(1) != 1:
            return "it did not run, and has a value"
        return ""


def sweep(
    signals: range, make: Callable[[Page], Interrupter] = Interrupter
) -> tuple[Counter[str], Counter[int]]:
    """Sweep all places; return how often which fault was found, and which answer the first call got."""
    faults, answers = Counter[str](), Counter[int]()
    number = 0
    while True:
        number += 1
        attempt = Sweep(number, signals, make)
        try:
            attempt.run()
        except CallInterrupted:
            faults["it came out of the loop"] += 1
            continue
        if attempt.left > 0:
            return faults, answers
        faults[attempt.faults()] += 1
        answers[dict(attempt.link.answers).get(1, 0)] += 1


@pytest.mark.parametrize("signals", [range(1), range(10_000), range(45, 10_000)], ids=["one", "many", "late"])
def test_signal_at_every_bytecode(signals: range) -> None:
    """Wherever the signal lands in the loop, the call is answered once and the next one is not touched."""
    faults, answers = sweep(signals)
    print(f"{faults.total()} places: {answers}")
    assert set(faults) == {""}
    assert faults.total() > 200
    assert set(answers) == {VALUE, CANCELLED, DROPPED}


def test_sweep_finds_faults() -> None:
    """The same search finds that a handler which does not look at the id hits the next call."""

    def make(page: Page) -> Interrupter:
        def raise_if_running(number: int, frame: FrameType) -> None:
            if interrupter.running:
                interrupter.running = 0
                raise CallInterrupted

        interrupter = Interrupter(page)
        setattr(interrupter, "_on_signal", raise_if_running)  # noqa: B010
        return interrupter

    faults, _ = sweep(range(1), make)
    assert faults["the second call was hit"] > 5


# Between two processes: begun or cancelled, whichever came first, both sides know.

BEGIN_ALL = """
import os
import sys
from trio_isolates._interrupt import Interrupter
from trio_isolates._memory import Page

fd, size, *cpus = map(int, sys.argv[1:])
os.sched_setaffinity(0, cpus)
page, _ = Page.attach(fd)
interrupter = Interrupter(page)
ran = bytearray(size + 1)
sys.stdout.buffer.write(b"ready")
sys.stdout.buffer.flush()
sys.stdin.buffer.read(1)
for ident in range(1, size + 1):
    ran[ident] = interrupter.begin(ident)
sys.stdout.buffer.write(ran)
"""


@pytest.fixture
def other_cpus() -> Iterator[list[int]]:
    """Keep this process on one processor; give the others to whom it races with, if there are any."""
    before = os.sched_getaffinity(0)
    mine, *others = before
    os.sched_setaffinity(0, {mine})
    yield others or [mine]
    os.sched_setaffinity(0, before)


def test_begun_against_cancelled(other_cpus: list[int]) -> None:
    """A call that was cancelled before it had begun never runs, however close the two are."""
    size, had_begun = 300_000, dict[int, bool]()
    page = Page.create(b"")
    command = [sys.executable, "-c", BEGIN_ALL, *map(str, (page.fd, size, *other_cpus))]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, pass_fds=[page.fd], **pipes) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.read(5) == b"ready"
        child.stdin.write(b"x")
        child.stdin.flush()
        for pause in itertools.cycle(range(0, 200, 7)):
            ident = page.begun + 1
            if ident > size:
                break
            if ident not in had_begun:
                for _ in range(pause):
                    pass
                had_begun[ident] = page.cancel(ident)
        ran = child.stdout.read()
    page.close()
    counts = Counter((begun, bool(ran[ident])) for ident, begun in had_begun.items())
    print(f"(had begun, ran): {counts}")
    assert counts[False, True] == 0
    # Else it was no race. It is none where the two take turns on one processor.
    assert min(counts[False, False], counts[True, True]) > 100 or other_cpus == [*os.sched_getaffinity(0)]


# All at once, with a real worker.


async def race(worker: AnyWorker, rng: random.Random, calls: int, callers: int) -> Counter[str]:
    """Make calls that are cancelled at random; return what became of them."""
    counts = Counter[str]()
    numbers = iter(range(calls))
    live: dict[int, trio.CancelScope] = {}

    async def call() -> None:
        for number in numbers:
            with trio.CancelScope() as live[number]:
                result = await capture(worker.call, work.count_start, number, rng.randrange(200))
                assert result == outcome.Value(number)
                counts["value"] += 1
            counts["cancelled"] += live.pop(number).cancelled_caught

    async def cancel() -> None:
        while True:
            for _ in range(rng.randrange(8)):
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            if live:
                rng.choice(list(live.values())).cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        async with trio.open_nursery() as inner:
            for _ in range(callers):
                inner.start_soon(call)
        nursery.cancel_scope.cancel()
    starts = Counter[int](await worker.call(work.take_starts))
    assert set(starts.values()) <= {1}
    assert counts.total() == calls
    assert counts["value"] <= starts.total() <= calls
    counts["started"] = starts.total()
    return counts


@pytest.mark.parametrize("callers", [1, 2, 4, 8])
@within(50)
async def test_race(callers: int) -> None:
    """Thousands of short calls, cancelled at any moment, end once each, in one and the same worker."""
    seed = random.randrange(2**32)
    async with opened() as worker:
        counts = await race(worker, random.Random(seed), 5_000, callers)
    print(f"seed {seed}: {counts}")
    assert min(counts.values()) > 50
