"""Isolates for Trio: workers with their own memory that end with their block.

    data = await run(parse, path)                       # one answer from a fresh isolate
    async with open_isolate(entry, port.send_port): ... # a bare isolate, and ports
    async with open_worker(parse) as worker: ...        # one long-lived isolate, many calls
    async with open_pool(parse, workers=4) as pool: ... # many of them behind one queue
    async with open_actor(Counter, 5) as counter: ...   # an object that lives in an isolate
    async with open_json_pool() as pool: ...            # JSON documents, parsed elsewhere
    async with open_supervisor() as supervisor: ...     # isolates that are started again when they end

When a block is left, by any path, its isolates are gone; when a call returns, by any path, its
work has stopped. For tests there is `trio_isolates.testing`, and `trio_isolates.trace` records what
happens in isolates and draws it.
"""

# To read the source, go from top to bottom of this list; each builds on those before it.
#   _errors _checks _events _shared_buffer _messages                   the words
#   _wire _identities _views _by_value _unsendable                     no I/O
#   _pieces _unpickling _pickling                                      no I/O
#   _exceptions _data _calls _restart                                  no I/O
#   _memory _link _side _bulk _notes                                   bytes that move
#   _interrupt _peers _inbox _exchange _pace _direct                   messages between isolates
#   _functions _group _here _capability _ports _progress _current      ports, on both sides
#   _entry _service _sync_server _async_server _warnings _environment _deaths _boot _preload   inside it
#   _job _engine _options _chronicle _collector _building _isolate     starting one, and its life
#   _queue _histogram _resident _call _client _dispatch                calls, and who serves them
#   _posts _supervisor _statistics                                     who is alive
#   _stream _open_isolate _open_worker _actor _run _map _pool _open_pool    the doors
#   _child_spec _child_log _siblings _tree _open_supervisor             isolates that live again
#   _selection _json_place _json_decode _json_source                    JSON: texts and trees
#   _json_pieces _json_shape                                            JSON: texts and trees
#   _json_desk _json_lines _json_home _json_question _json_document     and what becomes of them
#   _json_reader _json_pool _open_json_pool                             in isolates
#   _blocks _clock _story _places _timescale _view _perfetto            a recording: what there is to see
#   _letters _sheet _picture _legend _names _looks _lifelines _gantt _family draw trace    and its pictures

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("trio_isolates needs POSIX: signals, process groups, descriptors to hand over")

from ._actor import actor_method, actor_worker, open_actor
from ._capability import Capability
from ._child_spec import ChildSpec, ChildStatistics, SupervisorSpec, SupervisorStatistics
from ._current import CurrentIsolate, current_isolate, exit_isolate
from ._errors import (
    CallInterrupted,
    IsolateDied,
    IsolateError,
    IsolateSpawnError,
    JsonError,
    ProtocolError,
    RemoteError,
    RestartLimitExceeded,
    UnsendableError,
)
from ._histogram import Durations
from ._open_isolate import Isolate, IsolateStatistics, open_isolate, run_isolate
from ._open_pool import open_pool
from ._open_supervisor import open_supervisor
from ._open_worker import Worker, open_worker
from ._pool import Pool
from ._ports import PortStatistics, RawReceivePort, ReceivePort, SendPort
from ._progress import report_progress
from ._restart import Restart
from ._run import current_default_isolate_limiter, run
from ._shared_buffer import SharedBuffer
from ._statistics import PoolStatistics, WorkerStatistics
from ._tree import Child, Supervisor

if TYPE_CHECKING:
    from ._json_document import JsonDocument
    from ._json_pool import JsonPool, JsonPoolStatistics
    from ._json_reader import JsonLines
    from ._open_json_pool import open_json_pool

__all__ = [
    "run",
    "current_default_isolate_limiter",
    "open_worker",
    "Worker",
    "WorkerStatistics",
    "open_pool",
    "Pool",
    "PoolStatistics",
    "Durations",
    "open_actor",
    "actor_worker",
    "actor_method",
    "open_json_pool",
    "JsonPool",
    "JsonPoolStatistics",
    "JsonDocument",
    "JsonLines",
    "open_isolate",
    "run_isolate",
    "Isolate",
    "IsolateStatistics",
    "open_supervisor",
    "Supervisor",
    "SupervisorStatistics",
    "SupervisorSpec",
    "ChildSpec",
    "Child",
    "ChildStatistics",
    "ReceivePort",
    "SendPort",
    "RawReceivePort",
    "PortStatistics",
    "Capability",
    "SharedBuffer",
    "current_isolate",
    "CurrentIsolate",
    "exit_isolate",
    "report_progress",
    "Restart",
    "IsolateError",
    "IsolateDied",
    "IsolateSpawnError",
    "UnsendableError",
    "RemoteError",
    "RestartLimitExceeded",
    "ProtocolError",
    "JsonError",
    "CallInterrupted",
]

# Tracebacks, reprs and pickles name things by the place where users find them.
_LATER = {
    "open_json_pool": "_open_json_pool",
    "JsonPool": "_json_pool",
    "JsonPoolStatistics": "_json_pool",
    "JsonDocument": "_json_document",
    "JsonLines": "_json_reader",
}
"""Imported when they are first used: not everybody has JSON."""

for _public in [globals()[name] for name in __all__ if name not in _LATER]:
    _public.__module__ = __name__


if not TYPE_CHECKING:  # a checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        public = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
        public.__module__ = __name__
        globals()[name] = public
        return public

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
