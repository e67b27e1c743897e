"""The children of one supervisor, in order: whose end is answered by a restart, and of whom.

The rules are OTP's. This module knows no process and no clock, and waits for nothing: it is told who
has ended, and when, and answers with a sweep, which somebody else carries out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, final

import trio
from attrs import Factory, define

from ._child_spec import ChildSpec, Strategy, SupervisorSpec
from ._errors import IsolateError, RestartLimitExceeded
from ._restart import Restart, RestartWindow


class Sibling(Protocol):
    """What is to be known of a child here."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> ChildSpec | SupervisorSpec: ...


T = TypeVar("T")
S = TypeVar("S", bound=Sibling)


@final
@define(eq=False)
class Sweep(Generic[T]):
    """Children that are stopped, in reverse order, and started again, in this order and not before `at`.

    It is over for those of them that have left `children`; scope: cancelled when it is over for all.
    """

    children: list[T]
    at: float
    scope: trio.CancelScope = Factory(lambda: trio.CancelScope(shield=True))


@final
class Siblings(Generic[S]):
    """The children, and the sweeps that are under way."""

    def __init__(self, name: str, strategy: Strategy, restart: Restart) -> None:
        self.children: list[S] = []  # in order of their start
        self.starting: list[S] = []  # those that are no children before they have started
        self.restarts = 0
        self._sweeps: list[Sweep[S]] = []
        self._name = name
        self._strategy: Strategy = strategy
        self._restart = restart
        self._window = RestartWindow(restart)

    def forget(self, child: S) -> None:
        """Have it be no child any more, whom nobody starts again."""
        for children in (self.children, self.starting, *(sweep.children for sweep in self._sweeps)):
            if child in children:
                children.remove(child)

    def started(self, child: S) -> bool:
        """It runs now; return whether it was started again."""
        if child in self.starting:
            self.starting.remove(child)
            self.children.append(child)
            return False
        for sweep in self._sweeps:
            if child in sweep.children:
                sweep.children.remove(child)
        return True

    def is_waiting(self, child: S) -> bool:
        """Return whether it is to be started again."""
        return any(child in sweep.children for sweep in self._sweeps)

    def ended(self, child: S, failure: BaseException | None, now: float) -> Sweep[S] | None:
        """Take note of an end that nobody has asked for, or of a start again that failed.

        A sweep that is under way for any of the same children is over: all whom it has not started are
        in the new one.

        Raises:
            RestartLimitExceeded: it was one too many.
        """
        restart = child.spec.restart
        if restart == "temporary" or (restart == "transient" and failure is None):
            # As in OTP, a restart of its siblings takes along one that has ended well; if there can be one.
            if restart == "temporary" or self._strategy == "one_for_one":
                self.forget(child)
            return None
        cause = failure or IsolateError(f"{child.name!r} has returned, and is to be there permanently")
        delay = self._window.record(now, cause)
        if delay is None:
            raise self._limit()
        self.restarts += 1
        sweep = Sweep(_affected(self._strategy, self.children, child), now + delay)
        for other in list(self._sweeps):
            if any(waiting in sweep.children for waiting in other.children):
                self.is_over(other)
        self._sweeps.append(sweep)
        return sweep

    def is_over(self, sweep: Sweep[S]) -> None:
        """Have it start nobody any more."""
        if sweep in self._sweeps:
            self._sweeps.remove(sweep)
        sweep.children.clear()
        sweep.scope.cancel()

    def end(self) -> None:
        """Have nobody be started again."""
        for sweep in list(self._sweeps):
            self.is_over(sweep)

    def _limit(self) -> RestartLimitExceeded:
        causes, policy = self._window.causes, self._restart
        limit = RestartLimitExceeded(
            f"{self._name!r}: {len(causes)} ends within {policy.within} seconds, "
            f"more than max_restarts={policy.max_restarts}; the last: {causes[-1]}",
            causes=causes,
        )
        limit.__cause__ = causes[-1]
        return limit


def _affected(strategy: Strategy, children: Sequence[S], child: S) -> list[S]:
    if strategy == "one_for_all":
        return list(children)
    if strategy == "rest_for_one":
        return list(children[children.index(child) :])
    return [child]
