"""The line of waiting calls."""

from __future__ import annotations

from attrs import define

from trio_isolates._queue import Line


@define(eq=False)
class One:
    number: int
    priority: float = 0
    is_settled: bool = False


def taken(line: Line[One]) -> list[int]:
    return [line.pop().number for _ in range(len(line))]


def test_first_come_first_served() -> None:
    """Those of one priority go in the order in which they came."""
    line: Line[One] = Line()
    for number in range(5):
        line.append(One(number))
    assert taken(line) == [0, 1, 2, 3, 4]


def test_the_more_urgent_first() -> None:
    """The higher priority goes first, also a negative one after all others, also fractions."""
    line: Line[One] = Line()
    for number, priority in enumerate((0, 5, -1, 5, 0, 0.5)):
        line.append(One(number, priority))
    assert line.first.number == 1
    assert taken(line) == [1, 3, 5, 0, 4, 2]


def test_those_who_lost_their_place() -> None:
    """They go before all others of their priority, in their order, and after those more urgent."""
    line: Line[One] = Line()
    line.append(One(5))
    line.append(One(6, 1))
    line.put_first([One(1), One(2), One(3, 1)])
    assert taken(line) == [3, 6, 1, 2, 5]


def test_those_who_go_away() -> None:
    """Who is settled is passed over, and not counted; memory does not grow with them."""
    line: Line[One] = Line()
    ones = [One(number, number % 2) for number in range(1000)]
    for one in ones:
        line.append(one)
    for one in ones[:-3]:
        one.is_settled = True
        line.forget()
    assert len(line) == 3
    assert sum(map(len, line._queues.values())) < 200
    assert taken(line) == [997, 999, 998]
    assert not line


def test_heads_are_compared() -> None:
    """Of two lines, the one whose head is smaller goes first; an empty one has none."""
    one: Line[One] = Line()
    other: Line[One] = Line()
    assert one.head() is None
    one.append(One(2))
    other.append(One(1))
    assert other.head() < one.head()  # type: ignore[operator]
    one.append(One(3, 1))
    assert one.head() < other.head()  # type: ignore[operator]
