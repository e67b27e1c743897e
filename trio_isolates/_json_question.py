"""What is asked of a JSON pool, checked and made ready to travel. It does not know what is done with it."""

from __future__ import annotations

import math
import os
import pickle
from typing import Any, cast

from ._checks import check_int


def how(retries: object, priority: object) -> dict[str, Any]:
    if retries != 0:
        check_int("retries", retries, 0)
    if not isinstance(priority, int | float) or math.isnan(priority):
        raise TypeError(f"priority= must be a number, not {priority!r}")
    return {"retries": retries, "priority": priority}


def sendable(text: object) -> Any:
    if isinstance(text, str | bytes | bytearray):
        return text
    if isinstance(text, memoryview):
        view = cast("memoryview[int]", text)
        return pickle.PickleBuffer(view) if view.contiguous else bytes(view)
    raise TypeError(
        f"the text must be str, bytes, bytearray or memoryview, not {text!r}; for files: parse_file"
    )


def paths(path: object) -> tuple[str, str]:
    """Return a path as it was given, and such that it is the same file from any working directory."""
    fspath = getattr(path, "__fspath__", None)
    shown: object = path if fspath is None else fspath()
    if not isinstance(shown, str):
        raise TypeError(f"a path must be a str or an os.PathLike of one, not {path!r}")
    return shown, os.path.abspath(shown)


def renamed(error: OSError, path: str, source: str) -> OSError:
    """Have an error of the system call a file as the caller does."""
    if error.filename == path:
        error.filename = source
    return error
