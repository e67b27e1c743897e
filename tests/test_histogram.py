"""Durations, counted in buckets."""

from __future__ import annotations

import random

import pytest

from trio_isolates._histogram import Durations, Histogram


def test_nothing() -> None:
    """Of nothing, everything is zero."""
    assert Histogram().durations() == Durations(0, 0.0, 0.0, 0.0, 0.0)


def test_one() -> None:
    """One duration is every percentile, and never more than itself."""
    histogram = Histogram()
    histogram.new.append(0.25)
    found = histogram.durations()
    assert found.count == 1
    assert found.max == 0.25
    for value in (found.p50, found.p90, found.p99):
        assert value == pytest.approx(0.25, rel=0.05)
        assert value <= 0.25


@pytest.mark.parametrize("seed", range(3))
def test_percentiles(seed: int) -> None:
    """Each percentile is within a twentieth of the true one, whatever the distribution."""
    dice = random.Random(seed)
    seconds = [dice.lognormvariate(-6, 3) for _ in range(5000)]
    histogram = Histogram()
    for value in seconds:
        histogram.new.append(value)
        if len(histogram.new) == 700:
            histogram.sort()
    seconds.sort()
    found = histogram.durations()
    assert found.count == 5000
    assert found.max == seconds[-1]
    for value, part in ((found.p50, 0.5), (found.p90, 0.9), (found.p99, 0.99)):
        assert value == pytest.approx(seconds[int(part * 5000) - 1], rel=0.05)


def test_zeros() -> None:
    """What took no time at all counts, too."""
    histogram = Histogram()
    histogram.new.append(1.0)
    histogram.new.append(2.0)
    found = histogram.durations(of=100)
    assert (found.count, found.p50, found.p90, found.max) == (100, 0.0, 0.0, 2.0)
    assert found.p99 == pytest.approx(1.0, rel=0.05)


def test_the_ends() -> None:
    """What is shorter than a microsecond or longer than a day is still counted, in the outermost buckets."""
    histogram = Histogram()
    for value in (0.0, 1e-9, 1e9):
        histogram.new.append(value)
    found = histogram.durations()
    assert (found.count, found.max) == (3, 1e9)


def test_memory_is_constant() -> None:
    """However many there are, they are sorted into the same buckets."""
    histogram = Histogram()
    size = len(histogram._buckets)
    for _ in range(3):
        for number in range(1000):
            histogram.new.append(number / 100)
        histogram.sort()
        assert not histogram.new
    assert len(histogram._buckets) == size
