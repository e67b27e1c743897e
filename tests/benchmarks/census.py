"""Counting what a process holds: file descriptors, threads, children, resident memory. Linux only (/proc)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mib(pid: int | str = "self") -> float:
    """Resident memory, shared pages included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / (1 << 20)


def descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def descendants(pid: int) -> list[int]:
    """The children of a process and theirs, zombies included."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def threads() -> int:
    """Threads of this process without those that Trio keeps for later."""
    return sum(not thread.name.startswith("Trio thread") for thread in threading.enumerate())


def census() -> dict[str, float]:
    """What this process and its descendants hold at this moment."""
    below = descendants(os.getpid())
    return {
        "fds": descriptors(),
        "threads": threads(),
        "children": len(below),
        "RSS": resident_mib(),
        "fds below": sum(map(descriptors, below)),
        "RSS below": sum(map(resident_mib, below)),
    }
