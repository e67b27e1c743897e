"""The records that `statistics()` returns: what became of the calls of a worker or a pool."""

from __future__ import annotations

from attrs import frozen

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
    """

    workers: int


def count(crew: Crew) -> dict[str, int]:
    """Return what every kind of record says of a crew, as it is now."""
    return {
        "in_flight": sum(client.load for client in crew.clients),
        "queued": crew.queued,
        "done": crew.counts.done,
        "failed": crew.counts.failed,
        "cancelled": crew.counts.cancelled,
        "replaced": crew.replaced,
        "restarted": crew.restarted,
        "late_replies": crew.counts.late_replies,
    }
