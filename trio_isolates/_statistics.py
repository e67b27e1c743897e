"""The records that `statistics()` returns: what became of the calls of a worker or a pool."""

from __future__ import annotations

from attrs import frozen

from ._histogram import Durations
from ._supervisor import Crew


@frozen
class WorkerStatistics:
    """What became of a worker's calls, from `Worker.statistics()`.

    Attributes:
        in_flight: calls sent and unanswered.
        queued: calls that wait for a place in flight.
        done: calls that returned a value.
        failed: calls that raised.
        cancelled: calls that were cancelled, begun or not.
        replaced: isolates that a cancellation had to kill and that were started anew.
        restarted: isolates that died unasked and were started anew.
        late_replies: answers that came when nobody waited for them any more.
    """

    in_flight: int
    queued: int
    done: int
    failed: int
    cancelled: int
    replaced: int
    restarted: int
    late_replies: int


@frozen
class PoolStatistics(WorkerStatistics):
    """What became of a pool's calls, from `Pool.statistics()`. As `WorkerStatistics`, for all isolates, and:

    Attributes:
        workers: isolates that can serve now.
        retried: how often a call was repeated because its isolate died.
        recycled: isolates that were relieved after `max_calls_per_worker` or above `max_memory`.
        busy: the part of their time in which isolates had a call, from 0 to 1.
        wait_time: how long calls stood in line until they were sent.
        run_time: how long calls took from then on; in an isolate that serves one at a time, without
            the time in which they stood behind another one there.
    """

    workers: int
    retried: int
    recycled: int
    busy: float
    wait_time: Durations
    run_time: Durations


def count(crew: Crew) -> dict[str, int]:
    """Return what every kind of record says of a crew, as it is now."""
    counts = crew.counts
    return {
        "in_flight": sum(client.in_flight for client in crew.posts.all),
        "queued": crew.dispatch.queued,
        "done": counts.done,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "replaced": crew.posts.replaced,
        "restarted": crew.posts.restarted,
        "late_replies": counts.late_replies,
    }


def pool_statistics(crew: Crew) -> PoolStatistics:
    counts = crew.counts
    times = [client.times() for client in crew.posts.all]
    busy = counts.busy + sum(time for time, _ in times)
    manned = counts.manned + sum(time for _, time in times)
    return PoolStatistics(
        workers=len(crew.clients),
        retried=counts.retried,
        recycled=crew.posts.recycled,
        busy=busy / manned if manned else 0.0,
        wait_time=counts.waits.durations(of=counts.runs.count),
        run_time=counts.runs.durations(),
        **count(crew),
    )
