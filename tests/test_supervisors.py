"""Supervisors: which children are started again, in what order, and how each end of the block comes out."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

import pytest
import trio

import contract
import supervising
from contract import Kind, those_with
from fifo import within
from supervised import listen_sync
from supervising import Family, states, until
from trio_isolates import (
    ChildSpec,
    ChildStatistics,
    IsolateDied,
    IsolateSpawnError,
    ReceivePort,
    Restart,
    RestartLimitExceeded,
    SupervisorSpec,
    SupervisorStatistics,
    UnsendableError,
    open_supervisor,
)
from trio_isolates._child_spec import RestartType

kind, fifo, family = contract.kind, contract.fifo, supervising.family

AT_ONCE = Restart(max_restarts=1000, within=1000, min_backoff=0, max_backoff=0)
NEVER = Restart(max_restarts=0)


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
            await family.kill(child)
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
    async with open_supervisor(name="home") as supervisor:
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
        ("'home': 'a' has failed, and is started again at once", "a"),
        ("'home': 'c' has failed while it was being stopped", "c, in its clean-up"),
    ]


@within(20)
async def test_deaths_are_logged(family: Family, caplog: pytest.LogCaptureFixture) -> None:
    """A death is one line, without frames; so is a supervisor that gives up, whose log has said it all."""
    never = Restart(max_restarts=0)
    with pytest.raises(RestartLimitExceeded):
        async with open_supervisor(restart=never, name="top") as supervisor:
            spec = SupervisorSpec([family.spec("a")], policy=never, name="below")
            below = (await supervisor.start(spec)).supervisor
            assert below is not None
            assert await family.hear(1) == ["a starts"]
            await family.listen("a")
            (b,) = await family.start(below, "b", "temporary")
            await family.kill(b)
            while len(below.children()) > 1:
                await trio.lowlevel.checkpoint()
            family.tell("a", "f")
            await trio.sleep_forever()
    records = [record for record in caplog.records if record.name == "trio_isolates.supervisor"]
    dead, failed, gone = [record.getMessage() for record in records]
    assert dead.startswith("'below': 'b' has failed, and is not started again: isolate 'b' (pid ")
    assert failed == "'below': 'a' has failed, and the supervisor gives up"
    assert gone.startswith("'top': 'below' has failed, and the supervisor gives up: 'below': 1 ends within ")
    assert [bool(record.exc_info) for record in records] == [False, True, False]


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
            await family.kill(child)
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
        assert supervisor._siblings.starting == []  # or those would be kept as long as the block lasts
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
