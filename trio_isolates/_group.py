"""The process group of an isolate, in which is all that it starts, unless that has left it.

This module knows how a group is made and ended; it does not know when.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import NoReturn


def make_group() -> None:
    """Give this process a group of its own."""
    os.setpgid(0, 0)


def end_others() -> None:
    """Kill everything in this group but this process, which is about to end.

    Its parent does the same when it is dead; but that may be gone as well by then.
    """
    group = os.getpgrp()
    with suppress(OSError):
        os.setpgid(0, os.getpgid(os.getppid()))
    if os.getpgrp() == group:  # who has started it is gone: there is no other group to go to
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def end_all() -> NoReturn:
    """Kill this process and its group."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)
