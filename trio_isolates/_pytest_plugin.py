"""Fixtures for tests of programs that use isolates: `inline_isolates` and `isolate_leak_check`.

A wheel has this file as the top-level module `_trio_isolates_pytest`, so that pytest, which loads the
plugins of all installed packages, does not import the package for them (and Trio with it): it knows
nothing of trio_isolates until a test asks for one of the fixtures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trio_isolates.testing import InlineEngine

_PATIENCE = 2.0  # seconds that what was killed may take until it is reaped


@pytest.fixture
def inline_isolates() -> Iterator[InlineEngine]:
    """Have all isolates of the test be inline ones: tasks of this process (see `trio_isolates.testing`).

    It gives the engine, with which the test can kill and stall isolates and have things fail. It
    holds for what is opened without an `engine=` of its own.
    """
    from trio_isolates._engine import current_engine
    from trio_isolates.testing import InlineEngine

    engine = InlineEngine()
    token = current_engine.set(engine)
    yield engine
    current_engine.reset(token)


@pytest.fixture
def isolate_leak_check() -> Iterator[None]:
    """Fail the test if an isolate, or anything that one needed, is still there when the test is over.

    Seen are processes below this one, zombies included, and the descriptors and threads of
    isolates; what was there before the test is not counted, nor are the forkserver and the resource
    tracker of the standard library, which stay once they are started.
    """
    before = _found()
    yield
    deadline = time.monotonic() + _PATIENCE
    while left := {key: text for key, text in _found().items() if key not in before}:
        if time.monotonic() > deadline:
            text = "\n  ".join(left.values())
            pytest.fail(f"left behind {_PATIENCE} seconds after the test:\n  {text}", pytrace=False)
        time.sleep(0.01)


def _found() -> dict[object, str]:
    """All that is there: what identifies it, and how to name it to a reader."""
    return dict([*_processes(), *_descriptors(), *_threads()])


def _processes() -> Iterator[tuple[object, str]]:
    table = dict(_proc_table() if os.path.exists("/proc/self/stat") else _ps_table())
    below = {os.getpid()}
    kept = _servers()
    while found := {pid for pid, (parent, _) in table.items() if parent in below and pid not in below}:
        below |= found
    for pid in below - kept - {os.getpid()}:
        yield pid, f"process {pid}: {table[pid][1]}"


def _servers() -> set[object]:
    """The pids of the processes that the standard library starts once and keeps."""
    forkserver: Any = sys.modules.get("multiprocessing.forkserver")
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    return {
        forkserver and forkserver._forkserver._forkserver_pid,
        tracker and tracker._resource_tracker._pid,
    }


def _proc_table() -> Iterator[tuple[int, tuple[int, str]]]:
    """Each process with its parent, and its name and state."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    text = file.read()
            except OSError:  # it has just ended
                continue
            name = text[text.index("(") + 1 : text.rindex(")")]
            state, parent = text[text.rindex(")") + 2 :].split()[:2]
            yield int(entry), (int(parent), f"{name} (zombie)" if state == "Z" else name)


def _ps_table() -> Iterator[tuple[int, tuple[int, str]]]:
    with subprocess.Popen(
        ["ps", "-A", "-o", "pid=,ppid=,state=,comm="], stdout=subprocess.PIPE, text=True
    ) as ps:
        assert ps.stdout is not None
        for line in ps.stdout:
            pid, parent, state, name = line.split(maxsplit=3)
            if int(pid) != ps.pid:
                yield int(pid), (int(parent), f"{name.strip()} (zombie)" if state[0] == "Z" else name.strip())


def _descriptors() -> Iterator[tuple[object, str]]:
    """The pages that are shared with isolates, and the descriptors of their processes."""
    if not os.path.isdir("/proc/self/fd"):
        return
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the one that lists the folder
            continue
        if "memfd:trio_isolates" in target or target == "anon_inode:[pidfd]":
            yield (number, target), f"descriptor {number} -> {target}"


def _threads() -> Iterator[tuple[object, str]]:
    for thread in threading.enumerate():
        if thread.name.startswith("trio_isolates"):
            yield thread, f"thread {thread.name!r}"
