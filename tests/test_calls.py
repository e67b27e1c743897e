"""Request ids to those who wait: a model and a machine that are given the same random life."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trio_isolates._calls import Calls


def test_ids_rise_by_one() -> None:
    """Ids begin at 1, rise by one in the order of sending, and are known before they are given."""
    calls: Calls[str] = Calls()
    assert calls.next_ident == 1
    assert [calls.add(waiter) for waiter in "abc"] == [1, 2, 3]
    assert calls.next_ident == 4
    assert list(calls) == ["a", "b", "c"]


def test_an_answer_comes_once() -> None:
    """Whoever waits gets the first answer; what comes after it, or to nobody, is nobody's."""
    calls: Calls[str] = Calls()
    ident = calls.add("a")
    assert (calls.answer(ident), calls.answer(ident), calls.answer(7)) == ("a", None, None)
    assert len(calls) == 0


def test_the_end_tells_begun_from_unbegun() -> None:
    """At the end those up to the mark have begun and the others have not; the answered are in neither."""
    calls: Calls[str] = Calls()
    for waiter in "abcdef":
        calls.add(waiter)
    calls.answer(2)
    calls.answer(5)
    assert list(calls.unbegun(3)) == [(4, "d"), (6, "f")]
    assert calls.end(3) == (["a", "c"], ["d", "f"])
    assert calls.end(3) == ([], [])
    assert len(calls) == 0


def test_answers_while_looking_at_all() -> None:
    """The calls can be gone through while answers come in."""
    calls: Calls[int] = Calls()
    for number in range(10):
        calls.add(number)
    assert [(number, calls.answer(number + 1))[0] for number in calls] == list(range(10))


class Life(RuleBasedStateMachine):
    """Calls sent, begun in order, answered in any order; and the isolate's end."""

    @initialize()
    def start(self) -> None:
        self.calls: Calls[int] = Calls()
        self.waiting: dict[int, int] = {}
        self.sent = self.mark = 0

    @rule()
    def send(self) -> None:
        self.sent += 1
        assert self.calls.next_ident == self.sent
        assert self.calls.add(self.sent * 100) == self.sent
        self.waiting[self.sent] = self.sent * 100

    @rule(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        self.mark = min(self.mark + count, self.sent)

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        ident = data.draw(st.integers(1, self.sent + 2))
        expected = self.waiting.pop(ident, None)
        assert self.calls.answer(ident) == expected

    @rule()
    def end(self) -> None:
        begun, unbegun = self.calls.end(self.mark)
        assert begun == [waiter for ident, waiter in self.waiting.items() if ident <= self.mark]
        assert unbegun == [waiter for ident, waiter in self.waiting.items() if ident > self.mark]
        self.waiting.clear()

    @invariant()
    def nobody_is_lost(self) -> None:
        assert list(self.calls) == list(self.waiting.values())
        assert len(self.calls) == len(self.waiting)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
