"""The end of a supervisor: how its block comes out, and supervisors below supervisors."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

import contract
import supervising
from fifo import Fifo, within
from programs import running
from supervising import Family, states
from trio_isolates import (
    ChildSpec,
    ChildStatistics,
    IsolateSpawnError,
    RawReceivePort,
    Restart,
    RestartLimitExceeded,
    SupervisorSpec,
    SupervisorStatistics,
    open_supervisor,
)

kind, fifo, family = contract.kind, contract.fifo, supervising.family

NEVER = Restart(max_restarts=0)


# How the block is left.


@within(20)
async def test_gives_up(family: Family) -> None:
    """One end too many cancels the body and stops all, last first; the error has every cause, and is bare."""
    policy = Restart(max_restarts=2, within=1000, min_backoff=0, max_backoff=0)
    with pytest.raises(RestartLimitExceeded) as caught:
        async with open_supervisor(restart=policy, name="top") as supervisor:
            await family.start(supervisor, "ab")
            (c,) = await family.start(supervisor, "c")
            family.tell("c", "f")
            assert await family.hear(1) == ["c starts"]
            await family.listen("c")
            await family.kill(c)
            assert await family.hear(1) == ["c starts"]
            await family.listen("c")
            family.tell("b", "r")
            with pytest.raises(trio.Cancelled):
                await trio.sleep_forever()
            assert states(supervisor) == {"a": "running", "b": "ended", "c": "running"}
    assert await family.hear(2) == ["c stops", "a stops"]
    error = caught.value
    assert str(error).startswith("'top': 3 ends within 1000 seconds, more than max_restarts=2; the last: 'b'")
    assert [type(cause).__name__ for cause in error.causes] == [
        "ZeroDivisionError",
        "IsolateDied",
        "IsolateError",
    ]
    assert error.__cause__ is error.causes[-1]


@within(20)
async def test_gives_up_beside_the_body(family: Family) -> None:
    """What the body raises of itself comes out, and says that the supervisor has given up."""
    with pytest.raises(KeyError, match="body") as caught:
        async with open_supervisor(restart=NEVER) as supervisor:
            await family.start(supervisor, "a")
            family.tell("a", "f")
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("body")
    (note,) = caught.value.__notes__
    assert note.startswith("besides: RestartLimitExceeded: ")


@within(20)
async def test_the_body_fails(family: Family) -> None:
    """When the body fails, the children are stopped as when the block is left normally; the error is bare."""
    with pytest.raises(KeyError, match="body") as caught:
        async with open_supervisor() as supervisor:
            await family.start(supervisor, "abc")
            raise KeyError("body")
    assert not hasattr(caught.value, "__notes__")
    assert await family.hear(3) == ["c stops", "b stops", "a stops"]


@within(20)
async def test_the_block_is_cancelled(family: Family) -> None:
    """A cancellation from outside stops the children in the same way, and goes on its way."""
    with trio.CancelScope() as scope:
        async with open_supervisor() as supervisor:
            await family.start(supervisor, "abc")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert await family.hear(3) == ["c stops", "b stops", "a stops"]


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_handler_of_a_port(family: Family) -> None:
    """A handler of a port here that raises over what a child sends is no end of the child: it comes out."""

    def refuse(message: Any) -> None:
        raise KeyError(message)

    port = RawReceivePort(refuse)
    with pytest.raises(KeyError, match="word"):
        async with open_supervisor() as supervisor:
            await family.start(supervisor, "a")
            await supervisor.start(ChildSpec(port.send_port.send, ("word",)))
            await trio.sleep_forever()
    assert await family.hear(1) == ["a stops"]
    port.close()


# Supervisors below supervisors.


@within(20)
async def test_a_tree(family: Family) -> None:
    """A supervisor below is ready with its children; it restarts them itself, and is stopped in its turn."""
    below = SupervisorSpec([family.spec("b"), family.spec("c")], strategy="one_for_all", name="below")
    async with open_supervisor() as supervisor:
        await family.start(supervisor, "a")
        tree = await supervisor.start(below)
        assert await family.hear(2) == ["b starts", "c starts"]
        await family.listen("bc")
        assert tree.isolate is None
        assert tree.supervisor is not None
        assert tree.supervisor.name == "below"
        assert tree.statistics() == ChildStatistics("below", None, "running", 0, None)
        await family.start(tree.supervisor, "d")
        await family.start(supervisor, "e")
        family.tell("b", "f")
        assert await family.hear(5) == ["d stops", "c stops", "b starts", "c starts", "d starts"]
        await family.listen("bcd")
        assert supervisor.statistics() == SupervisorStatistics(children=3, running=3, restarts=0)
    assert await family.hear(5) == ["e stops", "d stops", "c stops", "b stops", "a stops"]


@within(20)
async def test_a_tree_that_does_not_start(family: Family) -> None:
    """A supervisor below, one of whose children does not start, stops the others, and has not started."""
    family.make_ill("c")
    below = SupervisorSpec([family.spec("a"), SupervisorSpec([family.spec("b"), family.spec("c")])])
    async with open_supervisor() as supervisor:
        with pytest.raises(IsolateSpawnError, match="c does not start"):
            await supervisor.start(below)
        assert supervisor.children() == ()
        assert await family.hear(2) == ["a starts", "b starts"]


# A whole program.

PROGRAM = """
    import math, sys, trio
    from pathlib import Path
    from supervised import hold_out
    from trio_isolates import ChildSpec, SupervisorSpec, open_supervisor

    fifo, shutdown, mode = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]

    def spec(name, shutdown):
        return ChildSpec(hold_out, (fifo, name), shutdown=shutdown)

    async def main():
        async with open_supervisor() as supervisor:
            for name in "ab":
                await supervisor.start(spec(name, shutdown))
            if mode == "tree":
                await supervisor.start(SupervisorSpec([spec("c", shutdown)]))
            else:
                child = await supervisor.start(spec("c", math.inf))
                await child.isolate.ping()
                trio.lowlevel.spawn_system_task(supervisor.stop, child)
            print("READY", flush=True)
            await trio.sleep_forever()

    trio.run(main)
"""


@pytest.mark.parametrize("shutdown", ["0.1", "inf"])
@within(30)
async def test_ctrl_c(shutdown: str, tmp_path: Path, fifo: Fifo) -> None:
    """A Ctrl-C stops the children one after another, a second one kills them; it is raised as itself."""
    async with running(tmp_path, PROGRAM, fifo.path, shutdown, "tree") as program:
        await program.wait_for("READY")
        assert {await fifo.line() for _ in range(3)} == {"a starts", "b starts", "c starts"}
        found = program.descendants()
        os.killpg(program.process.pid, signal.SIGINT)
        assert await fifo.line() == "c stops"
        if shutdown == "inf":
            os.killpg(program.process.pid, signal.SIGINT)
        else:
            assert [await fifo.line(), await fifo.line()] == ["b stops", "a stops"]
        await program.ends_bare(found)


@within(30)
async def test_ctrl_c_while_one_is_stopped(tmp_path: Path, fifo: Fifo) -> None:
    """A second Ctrl-C kills also a child that somebody else was stopping."""
    async with running(tmp_path, PROGRAM, fifo.path, 0.1, "stop") as program:
        await program.wait_for("READY")
        assert {await fifo.line() for _ in range(4)} == {"a starts", "b starts", "c starts", "c stops"}
        found = program.descendants()
        os.killpg(program.process.pid, signal.SIGINT)
        assert [await fifo.line(), await fifo.line()] == ["b stops", "a stops"]
        os.killpg(program.process.pid, signal.SIGINT)
        await program.ends_bare(found)
