"""Progress: what handlers say on their way, and what becomes of the call when it is not well received."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio

import contract
import stream_handlers as work
from contract import Kind, those_with
from fifo import Fifo, within
from trio_isolates import UnsendableError, open_pool, open_worker, report_progress, run

kind, fifo = contract.kind, contract.fifo

Handler = Callable[..., Any]

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


def each(*handlers: Handler) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("handler", handlers)


both = each(work.report, work.report_async)


@both
@pytest.mark.usefixtures("kind")
@within(20)
async def test_progress(handler: Handler) -> None:
    """What the handler reports arrives, in order, before the call returns; whatever can be pickled."""
    heard: list[Any] = []
    values = [0.5, "half", {"a": [1]}, None, b"x" * 1_000_000]
    async with open_worker(handler) as worker:
        assert await worker.call(*values, on_progress=heard.append) == "done"
        assert heard == values
        assert await worker.call(on_progress=heard.append) == "done"
        assert await worker.call(*values) == "done"
        assert heard == values


@both
@pytest.mark.usefixtures("kind")
@within(20)
async def test_progress_in_a_pool(handler: Handler) -> None:
    """The calls of a pool report each to their own caller."""
    heard: dict[int, list[int]] = {number: [] for number in range(10)}

    async def call(number: int) -> None:
        await pool.call(number, number + 1, on_progress=heard[number].append)

    async with open_pool(handler, workers=2) as pool, trio.open_nursery() as nursery:
        for number in heard:
            nursery.start_soon(call, number)
    assert heard == {number: [number, number + 1] for number in range(10)}


@pytest.mark.usefixtures("kind")
@within(20)
async def test_calls_side_by_side() -> None:
    """Calls that run side by side in one worker report each to their own caller."""
    heard: dict[str, list[Any]] = {"a": [], "b": [], "c": []}

    async def call(tag: str) -> None:
        await worker.call(tag, 12, on_progress=heard[tag].append)

    async with open_worker(work.report_late) as worker, trio.open_nursery() as nursery:
        for tag in heard:
            nursery.start_soon(call, tag)
    assert heard == {tag: [(tag, number) for number in range(12)] for tag in heard}


@each(work.flood, work.flood_async)
@pytest.mark.usefixtures("kind")
@within(30)
async def test_the_latest_wins(handler: Handler) -> None:
    """A handler that reports faster than its caller hears is never held up; what is heard is in order."""
    heard: list[int] = []
    async with open_worker(handler) as worker:
        assert await worker.call(50_000, on_progress=heard.append) == 50_000
    assert heard == sorted(set(heard))
    assert heard[0] == 0
    assert heard[-1] == 49_999


@each(work.flood, work.flood_async)
@pytest.mark.usefixtures("kind")
@within(30)
async def test_the_last_value_arrives(handler: Handler) -> None:
    """However many values gave way to later ones, the last one arrives before the call returns."""
    async with open_worker(handler) as worker:
        for limit in (*range(1, 60), 100, 1000):
            heard: list[int] = []
            await worker.call(limit, on_progress=heard.append)
            assert heard[-1] == limit - 1
            assert heard == sorted(set(heard))


@each(work.report_then_fail, work.report_then_fail_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_progress_of_a_call_that_fails(handler: Handler) -> None:
    """What a handler reported before it raised is heard before the call raises."""
    async with open_worker(handler) as worker:
        for _ in range(5):
            heard: list[int] = []
            with pytest.raises(ZeroDivisionError, match="after all"):
                await worker.call(*range(10), on_progress=heard.append)
            assert heard == list(range(10))


@those_with("interrupts sync code")
@each(work.report_and_spin, work.report_and_sleep)
@within(20)
async def test_on_progress_raises(kind: Kind, fifo: Fifo, handler: Handler) -> None:
    """What `on_progress` raises cancels the call, whose work has stopped when it comes out as itself."""

    def refuse(value: str) -> None:
        raise KeyError(value)

    async with open_worker(handler) as worker:
        for _ in range(2):
            with pytest.raises(KeyError, match="begun"):
                await worker.call(fifo.path, on_progress=refuse)
            assert await fifo.line() == "stopped"
        assert worker.statistics().cancelled == 2


@both
@pytest.mark.usefixtures("kind")
@within(20)
async def test_on_progress_raises_in_the_end(handler: Handler) -> None:
    """What `on_progress` raises over a value comes out in the place of the result, too."""

    def refuse(value: int) -> None:
        if value == 9:
            raise KeyError(value)

    async with open_worker(handler) as worker:
        for _ in range(5):
            with pytest.raises(KeyError, match="9"):
                await worker.call(*range(10), on_progress=refuse)


@those_with("interrupts sync code")
@each(work.report_and_spin, work.report_and_sleep)
@within(20)
async def test_the_caller_is_cancelled(kind: Kind, fifo: Fifo, handler: Handler) -> None:
    """`on_progress` may cancel its own call, as anybody may."""
    async with open_worker(handler) as worker:
        with trio.CancelScope() as scope:
            await worker.call(fifo.path, on_progress=lambda _: scope.cancel())
        assert scope.cancelled_caught
        assert await fifo.line() == "stopped"


@both
@pytest.mark.usefixtures("kind")
@within(20)
async def test_not_async(handler: Handler) -> None:
    """An async `on_progress` is refused, also one that only turns out to be one: nobody would await it."""

    async def hear(_: Any) -> None:
        raise AssertionError("it was awaited")

    async with open_worker(handler) as worker, open_pool(handler, workers=1) as pool:
        for one in (worker, pool):
            with pytest.raises(TypeError, match="must be a sync function"):
                await one.call(1, on_progress=hear)
            with pytest.raises(TypeError, match="must be a sync function"):
                await one.call(1, on_progress=lambda value: hear(value))  # noqa: PLW0108
            with pytest.raises(TypeError, match="must be a sync function"):
                await one.call(1, on_progress="no function")
            assert await one.call(1) == "done"


@each(work.report_unsendable, work.report_unsendable_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_what_cannot_be_sent(handler: Handler) -> None:
    """A value that cannot be pickled is the handler's error, where it was reported; later ones arrive."""
    heard: list[Any] = []
    async with open_worker(handler) as worker:
        assert "['port']" in await worker.call(on_progress=heard.append)
        assert heard == ["after it"]
        assert await worker.call() == "nothing was raised"  # nobody asked, so nobody looked


@each(work.report, work.report_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_what_cannot_be_received(handler: Handler) -> None:
    """A value that does not unpickle at home cancels the call, and is raised."""
    async with open_worker(handler) as worker:
        with pytest.raises(UnsendableError, match="does not want to arrive"):
            await worker.run(handler, 1)
            await worker.call(Returning(), on_progress=print)
        assert await worker.call(1) == "done"


class Returning:
    """Travels there, and does not unpickle when it comes back."""

    def __init__(self, journeys: int = 1) -> None:
        self.journeys = journeys

    def __reduce__(self) -> tuple[Any, ...]:
        return (Returning, (self.journeys - 1,)) if self.journeys else (arrive, ())


def arrive() -> None:
    raise ValueError("it does not want to arrive")


@both
@pytest.mark.usefixtures("kind")
@within(20)
async def test_context(handler: Handler) -> None:
    """`on_progress` runs in the context of the call."""
    heard: list[str] = []
    token = WHO.set("the caller")
    async with open_worker(handler) as worker:
        await worker.call(1, on_progress=lambda _: heard.append(WHO.get()))
    WHO.reset(token)
    assert heard == ["the caller"]


@each(work.report_in_silence, work.report_in_silence_async)
@pytest.mark.usefixtures("kind")
@within(20)
async def test_nobody_asked(handler: Handler) -> None:
    """Where nobody asked, reporting does nothing: in a call, in `run`, in the program itself."""
    report_progress(1)
    assert await run(handler) == "done"
    async with open_worker(handler) as worker:
        assert await worker.run(handler) == "done"
        assert await worker.call() == "done"
