"""Isolates for Trio: workers with their own memory that end with their block.

Read the modules from the top of this list, each builds on those before it: `_errors`, `_messages`
(the words); `_wire`, `_pickling`, `_exceptions`, `_calls`, `_restart` (no I/O); `_memory`, `_link`
(bytes that move); `_interrupt`, `_worker`, `_boot` (inside the isolate); `_engine`, `_isolate`
(starting one, and its life); `_client`, `_supervisor` (calls, and who serves them); `_open_worker`,
`_run`, `_pool` (the doors).
"""

import sys as _sys

if _sys.platform == "win32":
    raise ImportError("trio_isolates needs POSIX: signals, process groups and descriptors that can be handed over")

from ._errors import (
    CallInterrupted as CallInterrupted,
    IsolateDied as IsolateDied,
    IsolateError as IsolateError,
    IsolateSpawnError as IsolateSpawnError,
    ProtocolError as ProtocolError,
    RemoteError as RemoteError,
    RestartLimitExceeded as RestartLimitExceeded,
    UnsendableError as UnsendableError,
)
from ._open_worker import Worker as Worker, WorkerStatistics as WorkerStatistics, open_worker as open_worker
from ._pool import Pool as Pool, PoolStatistics as PoolStatistics, open_pool as open_pool
from ._restart import Restart as Restart
from ._run import current_default_isolate_limiter as current_default_isolate_limiter, run as run

# Tracebacks, reprs and pickles name things by the place where users find them.
for _name, _value in list(globals().items()):
    if getattr(_value, "__module__", "").startswith(__name__ + "._") and not _name.startswith("_"):
        _value.__module__ = __name__
del _name, _value
