"""What the cyclic collector does while something large is built."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
import trio

from trio_isolates import ProtocolError, _collector
from trio_isolates._collector import spared
from trio_isolates._data import Data
from trio_isolates._json_desk import pack
from trio_isolates._json_home import build
from trio_isolates._options import GcPolicy

YOUNG, OLD = 0, 2


class Ring:
    """Garbage that only the collector finds."""

    found = 0

    def __init__(self) -> None:
        self.ring = self

    def __del__(self) -> None:
        Ring.found += 1


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A collector as at the start of a program, and as it was afterwards."""
    monkeypatch.setattr(_collector, "_state", _collector._State())  # pyright: ignore[reportPrivateUsage]
    before = gc.get_threshold()
    gc.collect()
    Ring.found = 0
    yield
    gc.unfreeze()
    gc.set_threshold(*before)
    gc.enable()


def is_in(generation: int, obj: object) -> bool:
    return any(one is obj for one in gc.get_objects(generation))


@pytest.mark.parametrize("policy", ["pause", "freeze"])
def test_held_off(policy: GcPolicy) -> None:
    """In a piece nothing is collected, however much is made; afterwards all is as before, or as it fails."""
    before = gc.get_threshold()
    runs = [stats["collections"] for stats in gc.get_stats()][:2]
    made: list[list[int]] = []
    with pytest.raises(KeyError), spared(policy):
        runs = [stats["collections"] for stats in gc.get_stats()]
        made.extend([number] for number in range(10 * before[0]))
        assert runs == [stats["collections"] for stats in gc.get_stats()]
        raise KeyError
    assert gc.get_threshold() == before
    assert gc.isenabled()


def test_leave() -> None:
    """The collector is left alone."""
    with spared("leave"):
        before = gc.get_stats()[0]["collections"]
        made = [[number] for number in range(10 * gc.get_threshold()[0])]
        assert gc.get_stats()[0]["collections"] > before
    assert made


def test_pause_makes_old() -> None:
    """What was built counts as old, so that the next collection of the young has nothing to do with it."""
    with spared("pause"):
        made = [[number] for number in range(5000)]
    assert gc.get_freeze_count() == 0
    assert is_in(OLD, made[0])
    assert gc.get_count()[0] < 1000


def test_pause_leaves_no_garbage_for_ever() -> None:
    """A cycle that became garbage meanwhile is found by the next full collection."""
    with spared("pause"):
        Ring()
    gc.collect()
    assert Ring.found == 1


def test_freeze() -> None:
    """What was built is not looked at any more."""
    with spared("freeze"):
        made = [[number] for number in range(100)]
    assert gc.get_freeze_count() > 100
    assert not any(is_in(generation, made[0]) for generation in range(3))


def test_garbage_of_others_is_found_first() -> None:
    """What is garbage before the piece begins is collected, and not frozen."""
    Ring()
    with spared("freeze"):
        pass
    assert Ring.found == 1


def test_what_the_program_has_frozen_stays_frozen() -> None:
    """After a gc.freeze() of the program's own, 'pause' unfreezes nothing."""
    gc.freeze()
    frozen = gc.get_freeze_count()
    with spared("pause"):
        pass
    assert gc.get_freeze_count() >= frozen - 100  # some die by themselves


def test_disabled_by_the_program() -> None:
    """A collector that is off stays off; one that is turned off meanwhile, too."""
    gc.disable()
    with spared("pause"):
        assert not gc.isenabled()
    assert not gc.isenabled()
    gc.enable()
    with spared("pause"):
        assert gc.isenabled()
        gc.disable()
    assert not gc.isenabled()


def test_thresholds_of_the_program() -> None:
    """Thresholds that are set meanwhile hold."""
    with spared("pause"):
        gc.set_threshold(123, 4, 5)
    assert gc.get_threshold() == (123, 4, 5)


def test_counted() -> None:
    """Pieces of several threads overlap: the collector is back when the last of them is done."""
    before = gc.get_threshold()
    first, second = spared("pause"), spared("freeze")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] == 0
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is built one after the other, garbage is looked for now and then."""
    monkeypatch.setattr(_collector, "_UNCOLLECTED", 0.0)
    with spared("pause"):
        Ring()
    assert Ring.found == 1


def test_ctrl_c_while_a_json_tree_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it lands, the collector is let go."""
    before = gc.get_threshold()

    def press() -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.0

    async def main() -> None:
        parcel = pack([1, 2, 3], "it")
        data = Data(parcel.head, [], ProtocolError)
        monkeypatch.setattr(_collector, "perf_counter", press)
        await build(data, "it", "pause")
        await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert gc.get_threshold() == before
    assert before[0]
