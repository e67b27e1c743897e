"""What can still be told of a process that is dead: where it crashed, its memory, who killed it.

This module reads what the kernel, the forkserver and faulthandler have left. It does not know what
the process was there for.
"""

from __future__ import annotations

# pyright: reportPrivateUsage=false
import os
import re
from pathlib import Path
from typing import Final

_OURS: Final = re.compile(rb'  File "%b/' % re.escape(os.fsencode(Path(__file__).parent)))


def shorten_dump(dump: bytes) -> bytes:
    """Return what faulthandler wrote without the frames that are always there, the crashed thread first.

    Those are ours, and what called us. Where nothing else is, the innermost of ours stays.
    """
    head, *threads = dump.split(b"\n\n")
    kept: list[bytes] = []
    for thread in threads:
        lines = thread.splitlines()
        end = next((number for number, line in enumerate(lines) if _OURS.match(line)), len(lines))
        if lines and lines[0].startswith(b"Current thread"):
            kept.insert(0, b"\n".join(lines[: max(2, end)]))
        elif end > 1 or len(lines) == 1:
            kept.append(b"\n".join(lines[:end]))
    return b"\n\n".join([head, *kept]).rstrip() + b"\n" if dump else b""
