"""The engines under contract: how to make one, how to kill an isolate of it, and what it cannot do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import pytest
from attrs import field, frozen

from trio_isolates import Pool, Worker
from trio_isolates._engine import Engine, ProcessEngine, current_engine
from trio_isolates.testing import InlineEngine

AnyWorker: TypeAlias = Worker[..., Any] | Pool[..., Any]
Ability: TypeAlias = Literal["own process", "interrupts sync code", "own modules"]


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


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Each engine in turn, in force for the test."""
    made = KINDS[request.param]()
    token = current_engine.set(made.engine)
    yield made
    current_engine.reset(token)
