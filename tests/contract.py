"""The engines under contract: how to make one, how to kill an isolate of it, and what it cannot do."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import outcome
import pytest
import trio
from attrs import field, frozen

import handlers
import port_handlers
from fifo import Fifo, open_fifo
from trio_isolates import Pool, Worker, open_pool
from trio_isolates._engine import Engine, ProcessEngine, current_engine
from trio_isolates.testing import InlineEngine

# A wheel has the plugin at the top level.
_is_source = importlib.util.find_spec("trio_isolates._pytest_plugin") is not None
plugin = importlib.import_module("trio_isolates._pytest_plugin" if _is_source else "_trio_isolates_pytest")

AnyPool: TypeAlias = Pool[..., Any]
AnyWorker: TypeAlias = Worker[..., Any] | AnyPool
Entry: TypeAlias = Callable[..., Any]
Ability: TypeAlias = Literal["own process", "interrupts sync code", "own modules", "blocks"]


@frozen
class Kind:
    """An engine, as the suite sees it.

    kill: how an isolate of it dies by no doing of its parent's.
    cannot: the abilities that it does not have, each with the reason.
    """

    name: str
    engine: Engine
    kill: Callable[[AnyWorker], None]
    cannot: dict[Ability, str] = field(factory=dict)


def process() -> Kind:
    def kill(worker: AnyWorker) -> None:
        pid = worker.pid if isinstance(worker, Worker) else worker.pids[0]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    return Kind("process", ProcessEngine(), kill)


def inline() -> Kind:
    engine = InlineEngine()
    return Kind(
        "inline",
        engine,
        engine.kill,
        {
            "own process": "an inline isolate is a task: its pid is made up, and no signal reaches it",
            "interrupts sync code": "while a sync function runs in the only thread, nobody else does",
            "own modules": "what can be imported is there once, for the parent and all its isolates",
            "blocks": "sync code that waits for a message would block the only thread, and wait for ever",
        },
    )


KINDS: dict[str, Callable[[], Kind]] = {"process": process, "inline": inline}


def those_with(ability: Ability) -> pytest.MarkDecorator:
    """Run a test on the engines that have this ability; show the others as skipped, with their reason."""
    params = []
    for name, make in KINDS.items():
        reason = make().cannot.get(ability)
        params.append(pytest.param(name, marks=[] if reason is None else pytest.mark.skip(reason=reason)))
    return pytest.mark.parametrize("kind", params, indirect=True)


def each_way(sync: object, asynchronous: object) -> pytest.MarkDecorator:
    """Run a test with an entry that blocks and with its async twin, on the engines that can."""
    params = []
    for name, make in KINDS.items():
        reason = make().cannot.get("blocks")
        marks = () if reason is None else pytest.mark.skip(reason=reason)
        params.append(pytest.param(name, sync, id=f"{name}-sync", marks=marks))
        params.append(pytest.param(name, asynchronous, id=f"{name}-async"))
    return pytest.mark.parametrize(("kind", "entry"), params, indirect=["kind"])


serving = each_way(port_handlers.serve, port_handlers.serve_async)
counting = each_way(port_handlers.count_up, port_handlers.count_up_async)
filling = each_way(port_handlers.fill, port_handlers.fill_async)

both_loops = pytest.mark.parametrize("handler", handlers.APPLIES, ids=["sync", "async"])


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Each engine in turn, in force for the test."""
    made = KINDS[request.param]()
    token = current_engine.set(made.engine)
    yield made
    current_engine.reset(token)
    port_handlers.forget_all()


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    """What the isolate tells the test."""
    with open_fifo(tmp_path) as opened:
        yield opened


@final
class Gate:
    """Where calls wait for the test. The path is what goes to the isolate."""

    def __init__(self, path: Path) -> None:
        self._fifo = Fifo(path)
        self.path = path

    def let_pass(self, count: int = 1) -> None:
        """Let so many calls go on: those that wait now, or come next."""
        with self.path.open("wb") as file:
            file.write(b"x" * count)

    def close(self) -> None:
        self._fifo.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


@pytest.fixture(params=handlers.APPLIES, ids=["sync", "async"])
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[AnyPool]:
    """A pool of one process; whatever a test has done to it, it answers."""
    async with open_pool(request.param, workers=1) as opened:
        yield opened
        assert await opened.call(handlers.echo, "still here") == "still here"


# What tests do with calls.


async def cancel_when_begun(
    fifo: Fifo, call: Callable[..., Awaitable[Any]], *args: Any
) -> outcome.Outcome[Any] | None:
    """Make a call, cancel it when its handler has begun; return its outcome, None for Cancelled."""

    async def cancel() -> None:
        assert await fifo.line() == "begun"
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with trio.CancelScope() as scope:
            return await capture(call, *args)
    return None


async def capture(call: Callable[..., Awaitable[Any]], *args: Any) -> outcome.Outcome[Any]:
    try:
        return outcome.Value(await call(*args))
    except Exception as exc:
        return outcome.Error(exc)


class Kept:
    """Calls made in the background, and what became of each."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.outcomes: list[outcome.Outcome[Any]] = []

    def start(self, call: Callable[..., Awaitable[Any]], *args: Any) -> None:
        async def keep() -> None:
            self.outcomes.append(await capture(call, *args))

        self._nursery.start_soon(keep)

    @property
    def errors(self) -> list[BaseException]:
        return [result.error for result in self.outcomes if isinstance(result, outcome.Error)]


async def wait_until_noticed(worker: Worker[..., Any], pid: int | None) -> None:
    """Wait until the isolate of that pid is known to be gone."""
    while worker.pid == pid:
        await trio.lowlevel.checkpoint()


@contextmanager
def takes(seconds: float) -> Iterator[None]:
    """Check that the block takes exactly so long, by Trio's clock."""
    start = trio.current_time()
    yield
    assert trio.current_time() - start == pytest.approx(seconds, abs=1e-6)
