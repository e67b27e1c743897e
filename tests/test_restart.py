"""The restart policy: tables of failures and the answers to them."""

from __future__ import annotations

import math
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_isolates._restart import Restart, RestartWindow

CAUSE = OSError("failed")


def answers(policy: Restart, times: list[float], random: float = 0.5) -> list[float | None]:
    """What the policy says to failures at these times; a `random` of 0.5 is no jitter."""
    window = RestartWindow(policy, lambda: random)
    return [window.record(now, CAUSE) for now in times]


@pytest.mark.parametrize(
    ("policy", "times", "expected"),
    [
        pytest.param(Restart(), [0, 1, 2, 3], [0, 0.1, 0.2, None], id="the fourth in five seconds gives up"),
        pytest.param(Restart(), [7, 7, 7, 7], [0, 0.1, 0.2, None], id="all at once"),
        pytest.param(Restart(), [-9, -8, -7, -6], [0, 0.1, 0.2, None], id="a clock may start anywhere"),
        pytest.param(Restart(max_restarts=0), [0], [None], id="none allowed"),
        pytest.param(Restart(max_restarts=1), [0, 5], [0, None], id="exactly `within` ago still counts"),
        pytest.param(Restart(max_restarts=1), [0, 5.01, 10.02], [0, 0, 0], id="longer ago does not"),
        pytest.param(Restart(), [0, 1, 2, 8], [0, 0.1, 0.2, 0], id="a quiet period starts afresh"),
        pytest.param(Restart(), [0, 1, 8, 9], [0, 0.1, 0, 0.1], id="the back-off starts afresh too"),
        pytest.param(
            Restart(max_restarts=2),
            [0, 3, 6, 9, 12],
            [0, 0.1, 0.2, 0.4, 0.8],
            id="back-off outlasts the window",
        ),
        pytest.param(
            Restart(max_restarts=9, max_backoff=0.5),
            [0, 0, 0, 0, 0, 0],
            [0, 0.1, 0.2, 0.4, 0.5, 0.5],
            id="back-off is capped",
        ),
        pytest.param(
            Restart(min_backoff=0, max_backoff=0), [0, 0, 0, 0], [0, 0, 0, None], id="no back-off at all"
        ),
        pytest.param(
            Restart(max_restarts=1, within=math.inf), [0, 1e9], [0, None], id="a window without end"
        ),
        pytest.param(Restart(max_restarts=1), [0, 1, 2], [0, None, None], id="given up, it stays so"),
        pytest.param(Restart(max_restarts=1), [0, 1, 7], [0, None, 0], id="until the window is empty"),
    ],
)
def test_rule(policy: Restart, times: list[float], expected: list[float | None]) -> None:
    """Each failure gets its wait, or None where the policy gives up."""
    assert answers(policy, times) == pytest.approx(expected)


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.8), (0.25, 0.9), (0.5, 1.0), (1.0, 1.2)])
def test_jitter(random: float, factor: float) -> None:
    """The wait is multiplied by a factor from 1 - jitter to 1 + jitter; the immediate one stays zero."""
    assert answers(Restart(), [0, 1, 2], random) == pytest.approx([0, 0.1 * factor, 0.2 * factor])


def test_jitter_comes_after_the_cap() -> None:
    """What was capped together is still spread."""
    assert answers(Restart(min_backoff=1, max_backoff=1), [0, 0], random=1.0) == pytest.approx([0, 1.2])


def test_random_by_default() -> None:
    """Without a source of its own a window takes the standard library's."""
    window = RestartWindow(Restart())
    assert window.record(0, CAUSE) == 0
    assert window.record(0, CAUSE) == pytest.approx(0.1, rel=0.2)


def test_causes() -> None:
    """The causes are those the window still counts, oldest first, and no more than the decision needs."""
    window = RestartWindow(Restart(max_restarts=2))
    a, b, c, d, e = (OSError(name) for name in "abcde")
    seen = [window.causes]
    for now, cause in [(0, a), (6, b), (7, c), (8, d), (9, e)]:
        window.record(now, cause)
        seen.append(window.causes)
    assert seen == [(), (a,), (b,), (b, c), (b, c, d), (c, d, e)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_restarts", -1),
        ("within", 0),
        ("within", -1.0),
        ("within", math.nan),
        ("min_backoff", -0.1),
        ("min_backoff", math.inf),
        ("min_backoff", math.nan),
        ("max_backoff", 0.05),
        ("max_backoff", math.inf),
        ("max_backoff", math.nan),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", math.nan),
    ],
)
def test_refuses_what_makes_no_sense(field: str, value: float) -> None:
    """A number out of range is a ValueError which names the field."""
    arguments: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=f"^{field}= must be .*, not {value}$"):
        Restart(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_restarts": 1.5},
        {"max_restarts": "x"},
        {"max_restarts": None},
        {"within": "5"},
        {"max_backoff": "1"},
        {"jitter": None},
    ],
)
def test_refuses_what_is_no_number(arguments: dict[str, Any]) -> None:
    """A wrong type is a TypeError at once, and not at the first failure."""
    ((name, value),) = arguments.items()
    with pytest.raises(TypeError, match=f"^{name}= must be an? .*, not {value!r}$"):
        Restart(**arguments)


def test_is_a_frozen_value() -> None:
    """Policies are equal by value, hashable, and cross to an isolate."""
    policy = Restart(max_restarts=5, jitter=0)
    assert policy == Restart(5, jitter=0) != Restart()
    assert hash(policy) == hash(Restart(5, jitter=0))
    assert pickle.loads(pickle.dumps(policy)) == policy
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy.within = 1.0  # type: ignore[misc]
    assert not hasattr(policy, "__dict__")


# Whole numbers of seconds, so that "exactly `within` ago" happens and is not lost in rounding.
gaps = st.lists(st.integers(0, 8), max_size=60)
policies = st.builds(
    Restart,
    max_restarts=st.integers(0, 6),
    within=st.integers(1, 10).map(float),
    min_backoff=st.floats(0, 2),
    max_backoff=st.floats(2, 20),
    jitter=st.floats(0, 1),
)


def failures(gaps: list[int]) -> list[float]:
    """The times of failures that are so far apart."""
    return [float(sum(gaps[: i + 1])) for i in range(len(gaps))]


@given(policies, gaps)
def test_never_more_restarts_than_allowed(policy: Restart, gaps: list[int]) -> None:
    """However failures fall, no window of `within` seconds holds more than `max_restarts` restarts."""
    times = failures(gaps)
    restarts = [t for t, wait in zip(times, answers(policy, times), strict=True) if wait is not None]
    for end in restarts:
        assert sum(end - policy.within <= t <= end for t in restarts) <= policy.max_restarts


@given(policies, gaps)
def test_gives_up_only_when_it_must(policy: Restart, gaps: list[int]) -> None:
    """It gives up exactly where a window ends that holds more than `max_restarts` failures."""
    times = failures(gaps)
    for i, wait in enumerate(answers(policy, times)):
        counted = sum(times[i] - t <= policy.within for t in times[: i + 1])
        assert (wait is None) == (counted > policy.max_restarts)


@given(policies, gaps, st.floats(0, 1))
def test_waits_are_bounded(policy: Restart, gaps: list[int], random: float) -> None:
    """A wait is 0.0 after a quiet period, else between the jittered bounds of the policy."""
    times = failures(gaps)
    for i, wait in enumerate(answers(policy, times, random)):
        if wait is None:
            continue
        if i == 0 or times[i] - times[i - 1] > policy.within:
            assert wait == 0.0
        else:
            assert wait >= policy.min_backoff * (1 - policy.jitter) * (1 - 1e-9)
            assert wait <= policy.max_backoff * (1 + policy.jitter) * (1 + 1e-9)


@given(policies, gaps)
def test_memory_is_bounded(policy: Restart, gaps: list[int]) -> None:
    """However long it runs, a window keeps at most `max_restarts + 1` failures."""
    window = RestartWindow(policy)
    for now in failures(gaps):
        window.record(now, CAUSE)
        assert len(window.causes) <= policy.max_restarts + 1
