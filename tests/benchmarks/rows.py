"""The list of bars: who plays in each row, and what must come out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rounds import Bar, Contender, Row

CALLS, CALLERS, ITEMS, MESSAGES, STARTS, WAITING = 2000, 200, 100_000, 100_000, 5, 100_000
IN_FLIGHT = 100
MANY = 60  # documents a round
SELECTION = "[-1].name"
SIZE = "BENCH_NDJSON_MB"  # the environment's variable: how large the file of json-lines is
# By name: the size in bytes, and how many calls make a round.
DOCUMENTS = {"1 KB": (1000, 300), "100 KB": (100_000, 20), "2 MB": (2_000_000, 2), "20 MB": (20_000_000, 1)}
# By name, so that nothing can be put off until the first use.
OURS = "from trio_isolates import open_pool, open_worker, run"
TP, PPE = "trio_parallel", "ProcessPoolExecutor"


def at_most(mine: str, limit: float, other: str = "") -> Bar:
    if not other:
        return Bar(mine, lambda figures: figures[mine], at_most=limit)
    return Bar(f"{mine} / {other}", lambda figures: figures[mine] / figures[other], at_most=limit)


def at_least(mine: str, limit: float) -> Bar:
    return Bar(mine, lambda figures: figures[mine], at_least=limit)


def shorter(mine: str, times: float, other: str) -> Bar:
    """For figures that are times: the other's is at least so many times ours."""
    return Bar(f"{other} / {mine}", lambda figures: figures[other] / figures[mine], at_least=times)


def more(mine: str, times: float, other: str) -> Bar:
    """For figures that are rates: ours is at least so many times the other's."""
    return Bar(f"{mine} / {other}", lambda figures: figures[mine] / figures[other], at_least=times)


def lower_of(mine: str, fixed: float, times: float, other: str) -> Bar:
    def value(figures: Mapping[str, float]) -> float:
        return figures[mine] / min(fixed, times * figures[other])

    return Bar(f"{mine} / min({fixed:,.0f}, {times:g} x {other})", value, at_least=1.0)


CALL_FLOOR = Contender("floor", "floor:call", (CALLS,))
CALL_PEERS = (
    Contender(TP, "peers:trio_parallel_call", (CALLS // 2,)),
    Contender(PPE, "peers:executor_call", (CALLS // 2,)),
)

CALL = Row(
    "call",
    "worker.call of an int, sync handler, one caller",
    "us a call",
    (
        CALL_FLOOR,
        Contender("a floor that hopes", "floor:call_hoping", (CALLS,)),
        Contender("worker.call", "ours:call", ("sync", CALLS)),
        *CALL_PEERS,
    ),
    (
        at_most("worker.call", 1.4, "floor"),
        shorter("worker.call", 1.8, TP),
        shorter("worker.call", 1.8, PPE),
    ),
)

CALL_ASYNC = Row(
    "call-async",
    "worker.call of an int, async handler, one caller",
    "us a call",
    (CALL_FLOOR, Contender("worker.call", "ours:call", ("async", CALLS)), *CALL_PEERS),
    (at_most("worker.call", 2.2, "floor"),),
)

THROUGHPUT = Row(
    "throughput",
    f"{CALLERS} Trio callers, one worker; the floor sends 100 ints at once and has no callers",
    "calls/s",
    (
        Contender("floor", "floor:throughput", (40_000,)),
        Contender("worker.call", "ours:throughput", ("sync", CALLERS, 40_000)),
        Contender("worker.call, async", "ours:throughput", ("async", CALLERS, 20_000)),
        Contender(TP, "peers:trio_parallel_throughput", (CALLERS, 2000)),
        Contender(PPE, "peers:executor_throughput", (CALLERS, 5000)),
    ),
    (lower_of("worker.call", 130_000, 14, TP), more("worker.call", 5, PPE)),
)

MAP = Row(
    "map",
    f"pool.map of {ITEMS:,} ints, automatic chunks, 2 workers; the floor is the builtin map, no workers",
    "items/s",
    (
        Contender("floor", "floor:map_here", (ITEMS,)),
        Contender("pool.map", "ours:pool_map", (ITEMS, 2)),
        Contender(PPE, "peers:executor_map", (ITEMS, 2, 100)),
    ),
    (more("pool.map", 1, PPE),),
)

START = Row(
    "start",
    "a fresh isolate after the first one; the floor is a bare forkserver Process",
    "ms",
    (
        Contender("floor, answer", "floor:process_start", (STARTS, False)),
        Contender("open_worker, answer", "ours:worker_start", (STARTS,)),
        Contender(f"{TP}, answer", "peers:trio_parallel_start", (STARTS, False)),
        Contender("floor, whole", "floor:process_start", (STARTS, True)),
        Contender("run(f), whole", "ours:run_whole", (STARTS,)),
        Contender(f"{TP}, whole", "peers:trio_parallel_start", (STARTS, True)),
    ),
    (at_most("open_worker, answer", 12), at_most("run(f), whole", 20)),
)

BYTES = Row(
    "bytes",
    "an echo of random bytes; the floor is a raw socket",
    "ms",
    tuple(
        Contender(f"{name} {mib} MiB", where, (mib, calls))
        for mib, calls in ((1, 20), (16, 3))
        for name, where in (
            ("floor", "floor:echo_bytes"),
            ("worker.call", "ours:echo_bytes"),
            (TP, "peers:trio_parallel_bytes"),
            (PPE, "peers:executor_bytes"),
        )
    ),
    tuple(shorter(f"worker.call {mib} MiB", 2, f"{TP} {mib} MiB") for mib in (1, 16)),
)

ARRAYS = Row(
    "arrays",
    "a numpy array of 100 MiB to a worker, and one of the same size back; the floor is two warm memcpys",
    "ms",
    (
        Contender("floor", "bulk:two_copies", (100, 5)),
        Contender("worker.call", "bulk:echo_array", (100, 5)),
        Contender(TP, "bulk:trio_parallel_array", (100, 1)),
        Contender(PPE, "bulk:executor_array", (100, 1)),
    ),
    (
        at_most("worker.call", 1.6, "floor"),
        shorter("worker.call", 5, TP),
        shorter("worker.call", 4, PPE),
    ),
)

HAND_OVER = Row(
    "hand-over",
    "a full SharedBuffer to a worker: the call alone",
    "ms",
    (
        Contender("1 MiB", "bulk:hand_over", (1, 20)),
        Contender("1 GiB", "bulk:hand_over", (1024, 1)),
    ),
    (at_most("1 GiB", 3, "1 MiB"), at_most("1 GiB", 5)),
)

MEMORY = Row(
    "memory",
    f"the parent's memory with {WAITING:,} callers waiting for one worker, all of whom complete afterwards",
    "MiB",
    (
        Contender("bare Trio tasks", "floor:waiting_tasks", (WAITING,), fresh=True),
        Contender("callers", "ours:waiting_callers", (WAITING,), fresh=True),
    ),
    (at_most("callers", 1.8, "bare Trio tasks"),),
)

IMPORT = Row(
    "import",
    "import in a fresh interpreter, beyond what stands before it",
    "ms",
    (
        Contender("trio", "imports:imported", ("import trio",)),
        Contender("trio_parallel after trio", "imports:imported", ("import trio_parallel", "trio")),
        Contender("trio_isolates after both", "imports:imported", (OURS, "trio", "trio_parallel")),
    ),
    (at_most("trio_isolates after both", 30),),
    rounds=10,
)

FLAT = Row(
    "flat",
    "what is held before, halfway and after",
    "",
    (
        Contender("200 x open/close", "flat:open_close", (200,), fresh=True),
        Contender("20,000 calls", "flat:calls", (20_000,), fresh=True),
        Contender("200 kills", "flat:kills", (200,), fresh=True),
        Contender("2,000 isolates, 50 at a time", "ports:isolates", (2000, 50), fresh=True),
        Contender("10,000 x 1 MiB there and back", "bulk:messages", (10_000, 1), fresh=True),
    ),
    (),
    rounds=1,
)

ECHO = Row(
    "echo",
    "one small message there and back by two ports, an async entry",
    "us",
    (
        CALL_FLOOR,
        Contender("ports", "ports:echo", (CALLS,)),
        Contender("worker.call", "ours:call", ("async", CALLS)),
        Contender("parent to child", "ports:to_child", (CALLS,)),
        Contender("child to child", "ports:between_children", (CALLS,)),
    ),
    (at_most("ports", 2.4, "floor"), at_most("child to child", 2, "parent to child")),
)

ONE_WAY = Row(
    "one-way",
    "small messages from one sender; a port of 256 places, and the default of 64",
    "messages/s",
    (
        Contender(f"calls, {CALLERS} callers", "ours:throughput", ("sync", CALLERS, 40_000)),
        Contender("ports", "ports:one_way", ("sync", 256, MESSAGES)),
        Contender("ports, async", "ports:one_way", ("async", 256, MESSAGES)),
        Contender("ports of 64", "ports:one_way", ("sync", 64, MESSAGES)),
        Contender("ports of 64, async", "ports:one_way", ("async", 64, MESSAGES)),
    ),
    (more("ports", 1.5, f"calls, {CALLERS} callers"),),
)

STREAMS = Row(
    "stream",
    f"{MESSAGES:,} small items of a generator",
    "items/s",
    (
        Contender("open_stream", "ports:stream", ("sync", MESSAGES)),
        Contender("open_stream, async", "ports:stream", ("async", MESSAGES)),
    ),
    (at_least("open_stream", 100_000), at_least("open_stream, async", 100_000)),
)

PORTS = Row(
    "ports",
    "1,000 ports on one link",
    "messages/s",
    (
        Contender("none full", "ports:many_ports", (0, 999, 50)),
        Contender("one more, full", "ports:many_ports", (1, 1000, 50)),
    ),
    (more("one more, full", 0.85, "none full"),),
)

DEATHS = Row(
    "deaths",
    f"a worker is killed: until its {IN_FLIGHT} callers know (p99), until another one has answered (median)",
    "ms",
    (
        Contender("noticed", "deaths:notice", (IN_FLIGHT, 10)),
        Contender(f"{TP}, noticed by one caller", "deaths:trio_parallel_death", (10, False)),
        Contender("next answer", "deaths:replacement", (10,)),
        Contender(f"{TP}, next answer", "deaths:trio_parallel_death", (10, True)),
    ),
    (at_most("noticed", 50), at_most("next answer", 60)),
)

JSON = Row(
    "json",
    "when is a worker worth it? JSON text parsed in the loop, in a thread, in a worker",
    "",
    (
        Contender("json.loads inline", "trees:inline", ("json", DOCUMENTS)),
        Contender("orjson.loads inline", "trees:inline", ("orjson", DOCUMENTS)),
        Contender("json.loads, trio.to_thread", "trees:thread", (DOCUMENTS,)),
        Contender("json.loads, worker.call", "ours:json_tree", (DOCUMENTS,)),
        Contender("len(json.loads), worker.call", "ours:json_count", (DOCUMENTS,)),
        Contender(f"json.loads, {TP}", "peers:trio_parallel_json", (DOCUMENTS,)),
    ),
    (),
)

LARGE_DOCUMENT = 104_000_000
OURS_PAUSED, OURS_FROZEN = 'worker.call, gc="pause"', 'worker.call, gc="freeze"'
INLINE, INLINE_OFF = "json.loads inline", "json.loads inline, no collector"


def part(figure: str, mine: str, other: str, limit: float) -> Bar:
    """Of two contenders with several figures each: how much of the other's is ours."""

    def value(figures: Mapping[str, Any]) -> float:
        return float(figures[mine][figure] / figures[other][figure])

    return Bar(f"{figure}: {mine} / {other}", value, at_most=limit)


GAPS = Row(
    "gaps",
    "a JSON document of 104 MB parsed and brought home whole, while a task wakes up every millisecond",
    "ms",
    (
        Contender(OURS_PAUSED, "gaps:ours", ("pause", LARGE_DOCUMENT), fresh=True),
        Contender(OURS_FROZEN, "gaps:ours", ("freeze", LARGE_DOCUMENT), fresh=True),
        Contender(INLINE, "gaps:inline", (True, LARGE_DOCUMENT), fresh=True),
        Contender(INLINE_OFF, "gaps:inline", (False, LARGE_DOCUMENT), fresh=True),
        Contender(TP, "gaps:trio_parallel_loads", (LARGE_DOCUMENT,), fresh=True),
    ),
    (
        Bar(f"gap: {OURS_FROZEN}", lambda figures: float(figures[OURS_FROZEN]["gap"]), at_most=15),
        part("gap", OURS_FROZEN, INLINE, 1 / 40),
        part("gap", OURS_FROZEN, TP, 1 / 40),
        part("loop's CPU", OURS_PAUSED, INLINE, 0.2),
        part("loop's CPU", OURS_PAUSED, INLINE_OFF, 0.35),
    ),
)

JSON_TREES = Row(
    "json-trees",
    f"{MANY} documents of 50 to 500 KB, whole trees home, 2 workers",
    "documents/s",
    (
        Contender("pool.parse", "json_pools:parse", (MANY, None)),
        Contender("pool.parse, stdlib", "json_pools:parse", (MANY, None, "stdlib")),
        Contender(f"json.loads, {PPE}", "json_pools:executor_map", (MANY, False)),
        Contender(f"json.loads, {TP}", "json_pools:trio_parallel_loads", (MANY,)),
        Contender("json.loads inline", "json_pools:inline", ("json", MANY)),
        Contender("orjson.loads inline", "json_pools:inline", ("orjson", MANY)),
    ),
    (
        more("pool.parse", 1.3, f"json.loads, {PPE}"),
        more("pool.parse", 1.3, f"json.loads, {TP}"),
    ),
)

JSON_SELECT = Row(
    "json-select",
    f"{MANY} documents of 50 to 500 KB, one selected value of each home, 2 workers",
    "documents/s",
    (
        Contender("pool.parse, select=", "json_pools:parse", (MANY, SELECTION)),
        Contender("pool.parse, select=, stdlib", "json_pools:parse", (MANY, SELECTION, "stdlib")),
        Contender(f"json.loads, {PPE}", "json_pools:executor_map", (MANY, True)),
        Contender("json.loads inline", "json_pools:inline", ("json", MANY)),
        Contender("orjson.loads inline", "json_pools:inline", ("orjson", MANY)),
    ),
    (more("pool.parse, select=", 1.6, "json.loads inline"),),
)

JSON_LINES = Row(
    "json-lines",
    "a file of lines (--size MB), typed, filtered and aggregated; 2 workers, and one process alone",
    "MB/s",
    (
        Contender("open_lines, type=, reduce=", "json_pools:lines"),
        Contender("msgspec, line by line", "json_pools:lines_alone", (True,)),
        Contender("msgspec, decode_lines", "json_pools:lines_alone", (False,)),
    ),
    (more("open_lines, type=, reduce=", 1.7, "msgspec, line by line"),),
    rounds=3,
)

JSON_GAP = Row(
    "json-gap",
    "the loop's longest gap while the tree of a 104 MB document comes home",
    "ms",
    (
        Contender("pool.parse_file, gc='freeze'", "json_pools:gap", ("freeze",)),
        Contender("pool.parse_file, gc='pause'", "json_pools:gap", ("pause",)),
        Contender("json.loads, worker.call", "json_pools:gap_of_pickle", ("freeze",)),
    ),
    (at_most("pool.parse_file, gc='freeze'", 15),),
    rounds=3,
)

RECORDED_CALL = Row(
    "recorded-call",
    "worker.call of an int, one caller, while it is recorded",
    "us a call",
    (
        Contender("worker.call", "ours:call", ("sync", CALLS)),
        Contender("recorded", "ours:recorded", ("ours:call", "sync", CALLS)),
    ),
    (at_most("recorded", 1.05, "worker.call"),),
)

RECORDED = Row(
    "recorded",
    f"{CALLERS} Trio callers, one worker, while they are recorded",
    "calls/s",
    (
        Contender("worker.call", "ours:throughput", ("sync", CALLERS, 40_000)),
        Contender("recorded", "ours:recorded", ("ours:throughput", "sync", CALLERS, 40_000)),
    ),
    (more("recorded", 0.95, "worker.call"),),
)

RECORDED_MESSAGES = Row(
    "recorded-messages",
    "messages from one sender to a port of 256 places, and items of a stream, while they are recorded",
    "a second; no bar",
    (
        Contender("ports", "ports:one_way", ("sync", 256, MESSAGES)),
        Contender("ports, recorded", "ours:recorded", ("ports:one_way", "sync", 256, MESSAGES)),
        Contender("open_stream", "ports:stream", ("sync", MESSAGES)),
        Contender("open_stream, recorded", "ours:recorded", ("ports:stream", "sync", MESSAGES)),
    ),
    (),
)

_RECORDED = (RECORDED_CALL, RECORDED, RECORDED_MESSAGES)
_JSON = (JSON, JSON_TREES, JSON_SELECT, JSON_LINES, JSON_GAP)
_PORTS = (ECHO, ONE_WAY, STREAMS, PORTS)
_REST = (
    MAP,
    START,
    DEATHS,
    BYTES,
    ARRAYS,
    HAND_OVER,
    MEMORY,
    FLAT,
    IMPORT,
    GAPS,
    *_JSON,
    *_RECORDED,
)
ROWS = {row.name: row for row in (CALL, CALL_ASYNC, THROUGHPUT, *_PORTS, *_REST)}
