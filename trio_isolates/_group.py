"""The process group of an isolate, in which is all that it starts, unless that has left it.

This module knows how a group is made and ended; it does not know when.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from contextlib import suppress
from typing import NoReturn


def make_group() -> None:
    """Give this process a group of its own."""
    os.setpgid(0, 0)


def end_others() -> None:
    """Kill everything in this group but this process, which is about to end.

    Its parent does the same when it is dead; but that may be gone as well by then.
    """
    group, child = os.getpgrp(), 0
    if group != os.getpid():  # a forked child, which goes on where it was forked
        return
    with suppress(OSError):
        os.setpgid(0, os.getpgid(os.getppid()))
    if os.getpgrp() == group:  # who has started it is gone: there is no other group to go to
        child = _make_child()
        os.setpgid(child, child)
        os.setpgid(0, child)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _make_child() -> int:
    """Fork a process that does nothing, for a second at most."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are threads: what it does needs none
        child = os.fork()
    if not child:
        time.sleep(1)
        os._exit(0)
    return child


def end_all() -> NoReturn:
    """Kill this process and its group."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)
