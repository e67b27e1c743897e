"""How the process of an isolate is set up: what users ask for is seen from inside, and only there."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import contract
from contract import Kind
from fifo import within
from trio_isolates import (
    IsolateSpawnError,
    ReceivePort,
    SendPort,
    actor_worker,
    open_actor,
    open_isolate,
    open_pool,
    open_worker,
    run,
)
from trio_isolates._environment import _set_affinity

kind = contract.kind

# As somebody would call them who has no type checker.
DOORS: list[Callable[..., Any]] = [open_worker, open_pool, open_actor, open_isolate, run]
THREADS = ["OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR"]


def look() -> dict[str, Any]:
    return {
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        "cwd": os.getcwd(),
        "set": os.environ.get("ISOLATE_SET"),
        "removed": os.environ.get("ISOLATE_REMOVED"),
        "kept": os.environ.get("ISOLATE_KEPT"),
    }


class Eye:
    def look(self) -> dict[str, Any]:
        return look()


def look_and_send(home: SendPort[Any]) -> None:
    home.send_sync(look())


async def look_further() -> dict[str, Any]:
    return await run(look)


def count_threads_of_numpy() -> tuple[bool, int]:
    before = len(os.listdir("/proc/self/task"))
    was_there = "numpy" in sys.modules
    import numpy  # noqa: F401

    return was_there, len(os.listdir("/proc/self/task")) - before


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of which each makes a difference."""
    monkeypatch.setenv("ISOLATE_REMOVED", "here")
    monkeypatch.setenv("ISOLATE_KEPT", "kept")
    options: dict[str, Any] = {
        "nice": os.getpriority(os.PRIO_PROCESS, 0) + 3,
        "env": {"ISOLATE_SET": "wert=ä", "ISOLATE_REMOVED": None, "ISOLATE_NEVER": None},
        "cwd": tmp_path,
    }
    if hasattr(os, "sched_setaffinity"):
        options["cpu_affinity"] = [max(os.sched_getaffinity(0))]
    return options


def expected(asked: dict[str, Any]) -> dict[str, Any]:
    cpus = set(asked["cpu_affinity"]) if "cpu_affinity" in asked else None
    return {
        "nice": asked["nice"],
        "cpus": cpus,
        "cwd": str(asked["cwd"]),
        "set": "wert=ä",
        "removed": None,
        "kept": "kept",
    }


@within(20)
async def test_seen_from_inside(asked: dict[str, Any]) -> None:
    """Every door takes them; the isolate has them, also after a restart, and its parent does not."""
    before = look()
    async with open_worker(look, **asked) as worker:
        assert await worker.call() == expected(asked)
    async with open_pool(look, workers=1, **asked) as pool:
        await pool.run(_check, expected(asked))
        (pid,) = pool.pids
        os.kill(pid, 9)
        assert await pool.call() == expected(asked)
    assert await run(look, **asked) == expected(asked)
    async with open_actor(Eye, **asked) as eye:
        assert await actor_worker(eye).run(look) == expected(asked)
    port: ReceivePort[dict[str, Any]] = ReceivePort()
    async with open_isolate(look_and_send, port.send_port, **asked):
        assert await port.receive() == expected(asked)
    assert look() == before
    assert await run(look) == before


def _check(wanted: dict[str, Any]) -> None:
    assert look() == wanted


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
@within(20)
async def test_as_many_workers_as_cpus() -> None:
    """A pool that is not told how many has one isolate for each CPU that they may use."""
    cpus = [min(os.sched_getaffinity(0))]
    async with open_pool(look, cpu_affinity=cpus) as pool:
        assert pool._crew.posts.size == 1
    async with open_pool(look, cpu_affinity=cpus, workers=2) as pool:
        assert pool._crew.posts.size == 2


@within(20)
async def test_passed_on(asked: dict[str, Any]) -> None:
    """The isolates that an isolate opens have what it has."""
    assert await run(look_further, **asked) == expected(asked)


@within(20)
async def test_as_they_were_given(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is what was said when it was opened, and for a relative folder where that was."""
    folder: Path = asked["cwd"]
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder)
    asked["cwd"] = "sub"
    opened = open_worker(look, **asked)
    monkeypatch.chdir("/")
    asked["env"]["ISOLATE_SET"] = "later"
    async with opened as worker:
        assert await worker.call() == {**expected(asked), "cwd": str(folder / "sub")}


@within(20)
async def test_another_folder_is_another_place_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parent imports from its own folder, an isolate in another one imports from there, too."""
    (tmp_path / "isolate_neighbour.py").write_text("def where():\n    import os\n    return os.getcwd()\n")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    async with open_worker("isolate_neighbour:where", cwd="sub") as worker:
        assert await worker.call() == str(tmp_path / "sub")


@within(20)
async def test_threads() -> None:
    """The libraries are told before they can be loaded; what `env` says has the last word."""
    found = await run(_getenv, threads=3, env={"MKL_NUM_THREADS": "5", "BLIS_NUM_THREADS": None})
    wanted = {"OMP": "3", "OPENBLAS": "3", "MKL": "5", "BLIS": None, "NUMEXPR": "3"}
    assert found == wanted
    assert await run(_getenv) == {name: os.environ.get(f"{name}_NUM_THREADS") for name in THREADS}


def _getenv() -> dict[str, str | None]:
    return {name: os.environ.get(f"{name}_NUM_THREADS") for name in THREADS}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not show threads as files")
@within(30)
async def test_numpy_keeps_to_one_thread() -> None:
    """numpy is not there before the isolate loads it, and then starts no thread of its own."""
    assert await run(count_threads_of_numpy, threads=1) == (False, 0)


@within(20)
async def test_where_there_is_no_process(kind: Kind, asked: dict[str, Any]) -> None:
    """Any engine takes them; without processes they make no difference."""
    before = look()
    async with open_worker(look, threads=1, **asked) as worker:
        assert await worker.call() == (expected(asked) if "own process" not in kind.cannot else before)
    with pytest.raises(ValueError, match="nice="):
        open_worker(look, nice=99)


# What is refused.


@pytest.mark.parametrize(
    ("option", "value", "error", "match"),
    [
        ("nice", 20, ValueError, r"nice= must be from -20 to 19, not 20"),
        ("nice", -21, ValueError, r"nice= must be from -20 to 19, not -21"),
        ("nice", 1.0, TypeError, r"nice= must be an int, not 1.0"),
        ("nice", True, TypeError, r"nice= must be an int, not True"),
        ("cpu_affinity", [], ValueError, r"cpu_affinity= must name at least one CPU"),
        ("cpu_affinity", [0, -1], ValueError, r"a CPU in cpu_affinity= must be from 0 to \d+, not -1"),
        ("cpu_affinity", [10**6], ValueError, r"a CPU in cpu_affinity= must be from 0 to \d+, not 1000000"),
        ("cpu_affinity", ["0"], TypeError, r"a CPU in cpu_affinity= must be an int, not '0'"),
        ("cpu_affinity", 0, TypeError, r"cpu_affinity= must be the numbers of CPUs, not 0"),
        ("env", ["A=1"], TypeError, r"env= must be a mapping, not \['A=1'\]"),
        ("env", {"A": 1}, TypeError, r"env= must map str to str, or None to remove it, not 'A' to 1"),
        ("env", {b"A": "1"}, TypeError, r"env= must map str to str"),
        ("env", {"A=": "1"}, ValueError, r"env=: there can be no variable 'A=' with the value '1'"),
        ("env", {"": None}, ValueError, r"env=: there can be no variable ''"),
        ("env", {"A": "\0"}, ValueError, r"env=: there can be no variable 'A' with the value '\\x00'"),
        ("cwd", "/does/not/exist", ValueError, r"cwd= must be a directory, and '/does/not/exist' is none"),
        ("cwd", Path(__file__), ValueError, r"cwd= must be a directory, and '.*' is none"),
        ("cwd", b"/", TypeError, r"cwd= must be a str or a path, not b'/'"),
        ("cwd", 3, TypeError, r"cwd= must be a str or a path, not 3"),
        ("threads", 0, ValueError, r"threads= must be at least 1, not 0"),
        ("threads", math.inf, TypeError, r"threads= must be an int, not inf"),
    ],
)
@within(20)
async def test_what_makes_no_sense(option: str, value: object, error: type[Exception], match: str) -> None:
    """What makes no sense is said at once, at every door, by the option's name."""
    if option == "cpu_affinity" and not hasattr(os, "sched_setaffinity"):
        match = "cpu_affinity= is not possible on this system"
        error = ValueError
    for door in DOORS:
        with pytest.raises(error, match=match):
            opened = door(Eye if door is open_actor else look, **{option: value})
            if door is run:
                await opened


@within(20)
async def test_what_the_system_refuses(tmp_path: Path) -> None:
    """What the system refuses when the isolate starts is the reason why it could not be started."""
    folder = tmp_path / "folder"
    folder.mkdir()
    opened = open_worker(look, cwd=folder)
    folder.rmdir()
    with pytest.raises(IsolateSpawnError, match=r"cwd='.*folder'") as caught:
        async with opened:
            pass
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
@within(20)
async def test_cpus_that_are_not_there() -> None:
    """The kernel leaves out CPUs that are not there without a word; the isolate does not."""
    with pytest.raises(OSError, match=r"may not use \[1000\]"):
        await run(_set_affinity, {min(os.sched_getaffinity(0)), 1000})


def hold(size: int) -> int:
    return len(bytearray(size))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit is not heeded")
@within(20)
async def test_a_hard_limit_of_memory() -> None:
    """A limit that `init` sets holds: what goes beyond it is a MemoryError, and the isolate lives."""
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (2 << 30, 2 << 30))
    async with open_pool(hold, workers=1, init=limit) as pool:
        pids = pool.pids
        with pytest.raises(MemoryError):
            await pool.call(4 << 30)
        assert await pool.call(3) == 3
        assert pool.pids == pids
