"""A life of failures, of policies and of time: a window and a model of it that forgets nothing."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trio_isolates._restart import Restart, RestartWindow

# Whole seconds, so that "exactly `within` ago" happens and is not lost in rounding.
policies = st.builds(
    Restart,
    max_restarts=st.sampled_from([3, 5, 2, 1, 0]),
    within=st.one_of(st.integers(1, 8).map(float), st.just(math.inf)),
    min_backoff=st.sampled_from([0.1, 1.0, 0.0]),
    max_backoff=st.sampled_from([10.0, 3.0, 1.0]),
    jitter=st.sampled_from([0.0, 0.2, 1.0]),
)


class Failures(RuleBasedStateMachine):
    """Failures in quick succession, after rests, at the very edge of the window, and after giving up."""

    @initialize(policy=policies, start=st.sampled_from([-100.0, 0.0, 1e6]))
    def start(self, policy: Restart, start: float) -> None:
        self.policy, self.now, self.random = policy, start, 0.5
        self.window = RestartWindow(policy, lambda: self.random)
        self.failures: list[tuple[float, OSError]] = []
        self.waits = 0
        self.counted: list[OSError] = []

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def the_last_one_reaches_the_edge(self) -> None:
        if self.failures and self.policy.within < math.inf:
            self.now = max(self.now, self.failures[-1][0] + self.policy.within)

    @rule()
    def nothing_happens_for_long(self) -> None:
        if self.policy.within < math.inf:
            self.now += self.policy.within + 1

    @rule(random=st.floats(0, 1))
    def fails(self, random: float) -> None:
        policy, cause = self.policy, OSError(len(self.failures))
        self.random = random
        counted = [old for at, old in self.failures if self.now - at <= policy.within]
        self.failures.append((self.now, cause))
        self.counted = [*counted, cause]
        answer = self.window.record(self.now, cause)
        if not counted:
            self.waits = 0
        if len(self.counted) > policy.max_restarts:
            assert answer is None
        elif not counted:
            assert answer == 0.0
        else:
            doubled = policy.min_backoff * 2**self.waits
            self.waits += 1
            wait = min(max(doubled, policy.min_backoff), policy.max_backoff)
            assert answer is not None
            assert math.isclose(answer, wait * (1 + policy.jitter * (2 * random - 1)), abs_tol=1e-9)
            assert 0 <= answer <= policy.max_backoff * (1 + policy.jitter)

    @invariant()
    def the_causes_are_those_that_count(self) -> None:
        assert list(self.window.causes) == self.counted[-self.policy.max_restarts - 1 :]


TestFailures = Failures.TestCase
TestFailures.settings = settings(max_examples=150, stateful_step_count=30, deadline=None, derandomize=True)
