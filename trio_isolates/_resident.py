"""How much memory a process holds."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def check_can_measure() -> None:
    """Raise `ImportError` where psutil is needed for it and is not there."""
    if sys.platform != "linux":
        _psutil()


def _psutil() -> Any:
    try:
        import psutil
    except ImportError:
        raise ImportError("max_memory= needs psutil on this system: pip install psutil") from None
    return psutil


def resident_bytes(pid: int, segments: int = 0) -> int:
    """Return the resident memory of a process, shared pages included; 0 if it is gone.

    segments: bytes of large messages that it has mapped, which are not counted: they are not its own.
    """
    if sys.platform != "linux":
        psutil = _psutil()
        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            resident, shared = [int(field) * _PAGE for field in file.read().split()[1:3]]
            return resident - min(segments, shared)
    except OSError:
        return 0
