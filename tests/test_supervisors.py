"""Supervisors: which children are started again, in what order, and how each end of the block comes out."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import contract
from contract import Kind, those_with
from fifo import Fifo, wait_gone, within
from programs import running
from supervised import Family, listen_sync
from trio_isolates import (
    ChildSpec,
    ChildStatistics,
    IsolateDied,
    IsolateSpawnError,
    RawReceivePort,
    ReceivePort,
    Restart,
    RestartLimitExceeded,
    Supervisor,
    SupervisorSpec,
    SupervisorStatistics,
    UnsendableError,
    open_supervisor,
)
from trio_isolates._child_spec import RestartType

kind, fifo = contract.kind, contract.fifo

AT_ONCE = Restart(max_restarts=1000, within=1000, min_backoff=0, max_backoff=0)
NEVER = Restart(max_restarts=0)


@pytest.fixture
def family(tmp_path: Path, kind: Kind) -> Iterator[Family]:
    family = Family(tmp_path, kind)
    yield family
    family.close()


def states(supervisor: Supervisor) -> dict[str, str]:
    return {child.name: child.state for child in supervisor.children()}


async def until(supervisor: Supervisor, **expected: str) -> None:
    """Wait until the children are these, in these states."""
    while states(supervisor) != expected:
        await trio.lowlevel.checkpoint()


# The life of a child.


@within(20)
async def test_start_and_leave(family: Family) -> None:
    """`start` returns a child that is ready; the block, left normally, stops all of them, last first."""
    async with open_supervisor(name="top") as supervisor:
        assert supervisor.name == "top"
        a, b = await family.start(supervisor, "ab")
        assert a.isolate is not None
        assert a.supervisor is None
        assert a.statistics() == ChildStatistics("a", a.isolate.pid, "running", 0, None)
        assert supervisor.children() == (a.statistics(), b.statistics())
        assert supervisor.statistics() == SupervisorStatistics(children=2, running=2, restarts=0)
    assert await family.hear(2) == ["b stops", "a stops"]
    assert a.statistics() == ChildStatistics("a", None, "ended", 0, None)


@pytest.mark.parametrize("how", ["returns", "fails", "dies", "is closed", "is killed"])
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@within(20)
async def test_ends(family: Family, restart: RestartType, how: str) -> None:
    """Permanent children come back whatever their end, transient ones after a failure, temporary never."""
    async with open_supervisor() as supervisor:
        (child,) = await family.start(supervisor, "a", restart)
        isolate, pid = child.isolate, child.statistics().pid
        assert isolate is not None
        if how == "dies":
            family.kill(child)
        elif how == "is closed":
            await isolate.aclose()
            assert await family.hear(1) == ["a stops"]
        elif how == "is killed":
            family.will_die(child)
            isolate.kill()
        else:
            family.tell("a", how[0])
        is_failure = how in {"fails", "dies", "is killed"}
        is_restarted = restart == "permanent" or (restart == "transient" and is_failure)
        if is_restarted:
            assert await family.hear(1) == ["a starts"]
            await until(supervisor, a="running")
        else:
            await until(supervisor)
        assert child.statistics().restarts == supervisor.statistics().restarts == is_restarted
        failure = child.statistics().failure
        if how == "fails":
            assert isinstance(failure, ZeroDivisionError)
            assert failure.args == ("a",)
        else:
            assert isinstance(failure, IsolateDied) if is_failure else failure is None
        assert (child.statistics().pid not in {pid, None}) == is_restarted
        assert (child.isolate is not isolate and child.isolate is not None) == is_restarted


@those_with("blocks")
@within(20)
async def test_a_sync_entry(kind: Kind) -> None:
    """A sync entry is a child as any other: started again when it dies, interrupted when it is stopped."""
    port: ReceivePort[Any] = ReceivePort()
    async with open_supervisor() as supervisor:
        child = await supervisor.start(ChildSpec(listen_sync, (port.send_port,)))
        pid = await port.receive()
        assert pid == child.statistics().pid
        os.kill(pid, signal.SIGKILL)
        assert await port.receive() not in {pid, None}
        await until(supervisor, **{child.name: "running"})
        assert child.isolate is not None
        await child.isolate.ping()  # it waits by now
    assert await port.receive() == "interrupted"


@within(20)
async def test_failures_are_logged(family: Family, caplog: pytest.LogCaptureFixture) -> None:
    """What a child raises is a warning with its traceback, also when it is stopped; a return is none."""
    async with open_supervisor() as supervisor:
        await family.start(supervisor, "abc")
        family.tell("a", "f")
        assert await family.hear(1) == ["a starts"]
        family.tell("b", "r")
        assert await family.hear(1) == ["b starts"]
        await family.listen("ab")
        family.tell("c", "F")
        assert await family.hear(1) == ["c has heard"]
    assert await family.hear(3) == ["c stops", "b stops", "a stops"]
    records = [record for record in caplog.records if record.name == "trio_isolates.supervisor"]
    assert {record.levelno for record in records} == {logging.WARNING}
    assert [(r.getMessage(), str(r.exc_info and r.exc_info[1])) for r in records] == [
        ("'a' has failed", "a"),
        ("'c' has failed", "c, in its clean-up"),
    ]


# Who is started again.


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("one_for_one", ["b starts"]),
        ("one_for_all", ["d stops", "c stops", "a stops", "a starts", "b starts", "c starts", "d starts"]),
        ("rest_for_one", ["d stops", "c stops", "b starts", "c starts", "d starts"]),
    ],
)
@within(20)
async def test_strategies(family: Family, strategy: Any, said: list[str]) -> None:
    """Those concerned are stopped in reverse order, and started again in order, each when it is its turn."""
    async with open_supervisor(strategy) as supervisor:
        children = await family.start(supervisor, "abcd")
        pids = [child.statistics().pid for child in children]
        family.tell("b", "f")
        assert await family.hear(len(said)) == said
        await until(supervisor, a="running", b="running", c="running", d="running")
        assert supervisor.statistics().restarts == 1
        for child, pid in zip(children, pids, strict=True):
            assert (child.statistics().pid == pid) == (f"{child.name} starts" not in said)


@within(20)
async def test_siblings_of_other_kinds(family: Family) -> None:
    """A sweep leaves temporary children out, and takes along transient ones that had ended well."""
    async with open_supervisor("one_for_all") as supervisor:
        await family.start(supervisor, "a")
        await family.start(supervisor, "bc", "transient")
        await family.start(supervisor, "d", "temporary")
        family.tell("c", "r")
        await until(supervisor, a="running", b="running", c="ended", d="running")
        family.tell("a", "f")
        assert await family.hear(5) == ["d stops", "b stops", "a starts", "b starts", "c starts"]
        await until(supervisor, a="running", b="running", c="running")


@within(20)
async def test_those_that_die_together(family: Family) -> None:
    """Children that are killed together are started again together, and count once."""
    policy = Restart(max_restarts=1, within=1000)
    async with open_supervisor("one_for_all", policy) as supervisor:
        for child in await family.start(supervisor, "abc"):
            family.kill(child)
        assert await family.hear(3) == ["a starts", "b starts", "c starts"]
        await until(supervisor, a="running", b="running", c="running")
        assert supervisor.statistics().restarts == 1


# Starting and stopping.


@pytest.mark.usefixtures("kind")
@within(20)
async def test_a_first_start_that_fails(family: Family) -> None:
    """A child that cannot be started the first time is an error of `start`, and of nobody else."""
    cure = family.make_ill("a")
    port: ReceivePort[Any] = ReceivePort()
    async with open_supervisor(restart=NEVER) as supervisor:
        with pytest.raises(IsolateSpawnError, match="a does not start"):
            await supervisor.start(family.spec("a"))
        with pytest.raises(IsolateSpawnError):
            await supervisor.start(ChildSpec("no_such_module:entry"))
        with pytest.raises(UnsendableError):
            await supervisor.start(ChildSpec(lambda: port))
        with pytest.raises(UnsendableError) as caught:
            await supervisor.start(ChildSpec(print, ({"deep": [port]},)))
        assert caught.value.path == "args[0]['deep'][0]"
        with pytest.raises(TypeError, match="must be a ChildSpec"):
            await supervisor.start(print)  # type: ignore[arg-type]
        assert supervisor.children() == ()
        cure()
        await family.start(supervisor, "a")


@within(20)
async def test_starts_again_that_fail(family: Family) -> None:
    """A start again that fails counts as an end; in a sweep for all, those started before it stop again."""
    async with open_supervisor("one_for_all", AT_ONCE) as supervisor:
        await family.start(supervisor, "abc")
        cure = family.make_ill("b")
        family.tell("c", "f")
        assert await family.hear(3) == ["b stops", "a stops", "a starts"]
        while (said := await family.hear(1)) != ["a starts"]:  # maybe it had not begun
            assert said == ["a stops"]
        cure()
        while (said := await family.hear(1)) != ["b starts"]:  # more tries, if they were fast
            assert said in (["a starts"], ["a stops"])
        assert await family.hear(1) == ["c starts"]
        await until(supervisor, a="running", b="running", c="running")
        assert supervisor.statistics().restarts >= 2


@within(20)
async def test_stop(family: Family) -> None:
    """A child that is stopped is no child any more, and gone when `stop` returns; it can be said twice."""
    async with open_supervisor("one_for_all") as supervisor:
        _, b, _ = await family.start(supervisor, "abc")
        isolate = b.isolate
        await supervisor.stop(b)
        assert await family.hear(1) == ["b stops"]
        assert isolate is not None
        assert not isolate.statistics().is_running
        await supervisor.stop(b)
        assert states(supervisor) == {"a": "running", "c": "running"}
        family.tell("a", "f")
        assert await family.hear(3) == ["c stops", "a starts", "c starts"]
    with pytest.raises(ValueError, match="is no child of"):
        async with open_supervisor() as other:
            await other.stop(b)


@within(20)
async def test_where_it_belongs(family: Family) -> None:
    """A supervisor is used in its own Trio run, as long as its block is not left, and cannot be sent."""

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="belongs to another"):
            await supervisor.start(family.spec("a"))

    async with open_supervisor() as supervisor:
        await trio.to_thread.run_sync(trio.run, elsewhere)
        (child,) = await family.start(supervisor, "b")
        for what in (supervisor, child):
            with pytest.raises(UnsendableError, match="cannot be sent"):
                await supervisor.start(ChildSpec(print, (what,)))
    with pytest.raises(trio.ClosedResourceError):
        await supervisor.start(family.spec("a"))
    await supervisor.stop(child)


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
            family.kill(c)
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
    import sys, trio
    from pathlib import Path
    from supervised import hold_out
    from trio_isolates import ChildSpec, SupervisorSpec, open_supervisor

    def spec(name):
        return ChildSpec(hold_out, (Path(sys.argv[1]), name), shutdown=float(sys.argv[2]))

    async def main():
        async with open_supervisor() as supervisor:
            for name in "ab":
                await supervisor.start(spec(name))
            await supervisor.start(SupervisorSpec([spec("c")]))
            await trio.sleep_forever()

    trio.run(main)
"""


@pytest.mark.parametrize("shutdown", ["0.1", "inf"])
@within(30)
async def test_ctrl_c(shutdown: str, tmp_path: Path, fifo: Fifo) -> None:
    """A Ctrl-C stops the children one after another, a second one kills them; it is raised as itself."""
    async with running(tmp_path, PROGRAM, fifo.path, shutdown) as program:
        assert {await fifo.line() for _ in range(3)} == {"a starts", "b starts", "c starts"}
        found = program.descendants()
        os.killpg(program.process.pid, signal.SIGINT)
        assert await fifo.line() == "c stops"
        if shutdown == "inf":
            os.killpg(program.process.pid, signal.SIGINT)
        else:
            assert [await fifo.line(), await fifo.line()] == ["b stops", "a stops"]
        text = await program.rest()
        assert program.process.returncode == -signal.SIGINT
        assert text.rstrip().endswith("KeyboardInterrupt")
        assert "Group" not in text
        for pid in found:
            await wait_gone(pid)
