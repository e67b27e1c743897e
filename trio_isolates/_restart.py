"""How often what ended may be started again: failures and their times in, a delay or "give up" out.

This module knows no clock, no process and no loop: it is told the time, and answers with seconds.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import final

import attrs

from ._checks import check_int, check_number, check_seconds


@final
@attrs.frozen
class Restart:
    """When to start again what has ended, and when to give up.

    The rule is that of OTP's `supervisor` (its "maximum restart intensity"): up to `max_restarts`
    failures within any `within` seconds are answered by a new start, one more gives up. A start
    that fails counts like any other failure. The first restart of a quiet period, in which nothing
    failed for longer than `within` seconds, is immediate; the next ones wait for `min_backoff`
    seconds, then twice as long each time up to `max_backoff`.

    Args:
        max_restarts: how many restarts are allowed within `within` seconds; 0: never restart.
        within: the length of the window in seconds, more than 0. A failure exactly that long ago
            still counts. `math.inf`: every failure counts for ever.
        min_backoff: the first wait that is not zero, in seconds, 0 or more.
        max_backoff: the longest wait before jitter, in seconds, not below `min_backoff`.
        jitter: each wait is multiplied by a random factor between `1 - jitter` and `1 + jitter`,
            so that what failed together does not start together; between 0 and 1.

    Raises:
        ValueError: if a number is outside of what is said above.
        TypeError: if `max_restarts` is not an int, or another argument is not a number.
    """

    max_restarts: int = 3
    within: float = 5.0
    min_backoff: float = 0.1
    max_backoff: float = 10.0
    jitter: float = 0.2

    def __attrs_post_init__(self) -> None:
        check_int("max_restarts", self.max_restarts, 0)
        for name in ("within", "min_backoff", "max_backoff"):
            check_seconds(name, getattr(self, name))
        if self.within == 0:
            raise ValueError("within= must be more than 0 seconds, not 0")
        for name in ("min_backoff", "max_backoff"):
            if getattr(self, name) == math.inf:
                raise ValueError(f"{name}= must be finite, not inf")
        if self.max_backoff < self.min_backoff:
            raise ValueError(
                f"max_backoff= must be at least min_backoff={self.min_backoff}, not {self.max_backoff}"
            )
        check_number("jitter", self.jitter, 0, 1)


@final
class RestartWindow:
    """The failures that a `Restart` policy still counts, and its answer to the next one.

    Args:
        policy: the rule.
        random: returns a number from 0 to 1, for the jitter.
    """

    __slots__ = ("_backoff", "_failures", "_policy", "_random")

    def __init__(self, policy: Restart, random: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._random = random
        self._backoff = 0.0
        # One more than is allowed is enough to know that there are too many, so memory stays bounded.
        self._failures: deque[tuple[float, BaseException]] = deque(maxlen=policy.max_restarts + 1)

    @property
    def causes(self) -> tuple[BaseException, ...]:
        """The failures in the window at the last `record`, oldest first, at most `max_restarts + 1`."""
        return tuple(cause for _, cause in self._failures)

    def record(self, now: float, cause: BaseException) -> float | None:
        """Count one failure and return the seconds to wait before the next start; None: give up.

        Args:
            now: the time of the failure in seconds, by any clock that never goes backwards.
            cause: the failure.
        """
        policy, failures = self._policy, self._failures
        while failures and now - failures[0][0] > policy.within:
            failures.popleft()
        quiet = not failures
        failures.append((now, cause))
        if len(failures) > policy.max_restarts:
            return None
        if quiet:
            self._backoff = 0.0
            return 0.0
        # Doubled step by step: a power of two would overflow in a failure that lasts for months.
        self._backoff = min(max(policy.min_backoff, 2 * self._backoff), policy.max_backoff)
        return self._backoff * (1 + policy.jitter * (2 * self._random() - 1))
