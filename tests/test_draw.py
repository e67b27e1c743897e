"""Pictures of recordings: that they show what is so, in its order, and can be read."""

from __future__ import annotations

import gc
import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import stories
from stories import Telling
from trace_event_format import check_trace
from trio_isolates import _letters
from trio_isolates._events import End, Event, Kind, Life, Outcome, Span, Story
from trio_isolates._places import find_lanes, find_places
from trio_isolates._sheet import DPI
from trio_isolates._timescale import Moment, Timescale
from trio_isolates.draw import Picture, gantt, lifelines, to_perfetto, tree

# Many pictures; what they look like depends on no version of Python.
pytestmark = pytest.mark.slow

WORDS = {"name", "words", "time", "legend", "left out", "details", "task", "pool", "isolate", "program"}
STIX = "STIXGeneral"  # another font that comes with matplotlib
PICTURES: list[Callable[[Story], Picture]] = [lifelines, gantt, tree]

# As somebody would call them who has no type checker.
untyped_lifelines: Any = lifelines
untyped_gantt: Any = gantt
untyped_tree: Any = tree


@pytest.fixture(scope="module", autouse=True)
def fonts() -> Iterator[None]:
    """matplotlib keeps the files of its fonts open; and it makes much that the collector looks at often."""
    lifelines(stories.one_worker())._repr_png_()
    for families in ((STIX,), ("DejaVu Sans", STIX)):
        _letters._font(families, bold=False)
    before = gc.get_threshold()
    gc.set_threshold(100_000)
    yield
    gc.set_threshold(*before)


@lru_cache
def picture_of(draw: Callable[[Story], Picture], make: Callable[[], Story]) -> Picture:
    """The same one for all tests that only look at it."""
    return draw(make())


def found(picture: Picture, name: str) -> list[Any]:
    """What was drawn under a name, in the order of drawing; a name ending in * is the beginning of one."""
    stem = name.removesuffix("*")
    return [
        a for a in drawn(picture) if (a.get_gid().startswith(stem) if name != stem else a.get_gid() == name)
    ]


def drawn(picture: Picture) -> list[Any]:
    """All that has a name."""
    artists: list[Any] = picture.figure().axes[0].get_children()
    return [artist for artist in artists if artist.get_gid() is not None]


def texts(picture: Picture, name: str) -> list[str]:
    return [text.get_text() for text in found(picture, name)]


def ends(line: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where a line begins and ends, in inches from the upper left corner."""
    xs, ys = line.get_xdata(), line.get_ydata()
    return (xs[0], ys[0]), (xs[-1], ys[-1])


def arrows(picture: Picture) -> list[Any]:
    """All arrows, in the order of their events."""
    return found(picture, "arrow *")


def crowded() -> Story:
    """20 workers, of whom the last ones are called first."""
    told = Telling()
    numbers = [told.spawn(f"pool.{i}", i * 0.1, 20 + i) for i in range(1, 21)]
    for index in range(40):
        told.call(numbers[-1 - index % 5], 50 + index, 0.5)
    return told.story(100)


def overlapping() -> Story:
    """One async isolate that serves eight calls at the same time, and calls itself back."""
    told = Telling()
    one = told.spawn("fetch", 0.1, 20, tasks=("main",))
    for index in range(8):
        told.call(one, 30 + index, 20 - index % 3, "fetch")
    told.call(one, 31.5, 2, "again", caller=one)
    return told.story(60)


EVERY = [*stories.ALL, crowded, overlapping]
SIMPLE = (stories.one_worker, stories.ports, stories.long_names)  # but for lifelines
LARGEST = [
    (lifelines, stories.busy_pool),
    (lifelines, crowded),
    (gantt, stories.busy_pool),
    (tree, stories.busy_pool),
]


# All pictures.


@pytest.mark.parametrize(
    ("draw", "make"),
    [(draw, make) for draw in PICTURES for make in EVERY if draw is lifelines or make not in SIMPLE],
)
def test_pictures_can_be_read(draw: Callable[[Story], Picture], make: Callable[[], Story]) -> None:
    """On white, as wide as a cell; no words on others or beyond the edge."""
    picture = picture_of(draw, make)
    figure: Any = picture.figure()
    assert 5 <= figure.get_size_inches()[0] <= 9.01
    assert figure.get_facecolor() == (1, 1, 1, 1)
    bars = [path.get_extents().x1 for each in found(picture, "bar *") for path in each.get_paths()]
    assert max(bars, default=0) < figure.get_size_inches()[0]
    renderer = figure.canvas.get_renderer()
    written = [a for a in drawn(picture) if a.get_gid() in WORDS and getattr(a, "get_text", str)()]
    boxes = [(a.get_text(), a.get_rotation(), a.get_window_extent(renderer)) for a in written]
    for text, _, box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text
        assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, text
    level = [(text, box) for text, turned, box in boxes if not turned]
    for (text, a), (other, b) in itertools.combinations(level, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1 or high <= 3, (text, other)


@pytest.mark.parametrize(("draw", "make"), LARGEST)
def test_pictures_are_small(draw: Callable[[Story], Picture], make: Callable[[], Story]) -> None:
    """Not one is a PNG of more than 80 KB, and it is made once."""
    picture = picture_of(draw, make)
    png = picture._repr_png_()
    assert png.startswith(b"\x89PNG") and len(png) < 80_000
    assert picture._repr_png_() is png


@pytest.mark.parametrize("draw", PICTURES)
def test_a_recording_of_nothing(draw: Callable[[Story], Picture]) -> None:
    """A program that started nothing is a picture too, and lifelines say so."""
    story = Story((Life(0, "main", None),), (), (), 0.0)
    assert draw(story)._repr_png_()
    assert texts(lifelines(story), "left out") == ["nothing happened in this time"]


def test_files(tmp_path: Path) -> None:
    """A picture is written by its name's suffix; words in an SVG's are the isolates' names."""
    picture = lifelines(stories.short())
    for name, start in (("a.png", b"\x89PNG"), ("b.pdf", b"%PDF"), ("c.SVG", b"<?xml")):
        picture.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    groups = ET.parse(tmp_path / "c.SVG").iter("{http://www.w3.org/2000/svg}g")
    assert sum(group.get("id") == "died" for group in groups) == 1
    with pytest.raises(ValueError, match=r"must end in one of \.png, \.svg, \.pdf, not 'd.gif'"):
        picture.save(tmp_path / "d.gif")
    assert not (tmp_path / "d.gif").exists()


def test_bad_arguments() -> None:
    """They raise at once, not when the picture is looked at."""
    story = stories.one_worker()
    for draw in (untyped_lifelines, untyped_gantt, untyped_tree):
        with pytest.raises(TypeError, match=r"story= must be a recording's `trace\.story`, not 'trace'"):
            draw("trace")
        with pytest.raises(ValueError, match="limit= must be at least 1, not 0"):
            draw(story, limit=0)
        with pytest.raises(ValueError, match="at least the program's life"):
            draw(Story((), (), (), 1.0))
    for draw in (untyped_lifelines, untyped_gantt):
        with pytest.raises(ValueError, match=r"end= must be later than start=0\.2, not 0\.1"):
            draw(story, start=0.2, end=0.1)
        with pytest.raises(ValueError, match="start= must be 0 seconds or more, not -1"):
            draw(story, start=-1)
        with pytest.raises(TypeError, match="end= must be a number of seconds, not 'late'"):
            draw(story, end="late")
        with pytest.raises(ValueError, match="start= must be finite"):
            draw(story, start=float("inf"))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The text and the file for Perfetto need none; a picture says how to get it when it is looked at."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "PIL")]:
        monkeypatch.setitem(sys.modules, name, None)
    told = Telling()
    told.call(told.spawn("never drawn before", 1, 2), 3, 4)
    story = told.story(10)
    to_perfetto(story, tmp_path / "trace.json")
    assert "never drawn before  1 call, alive" in str(tree(story))
    for draw in PICTURES:
        picture = draw(story)
        assert repr(picture).startswith("<trio_isolates picture: ")
        with pytest.raises(ImportError, match=r"pip install 'trio-isolates\[draw\]'"):
            picture._repr_png_()


def test_what_is_said_of_a_picture() -> None:
    """How much it shows: one is singular, and who takes another's place has no line of his own."""
    told = Telling()
    told.call(told.spawn("one", 1, 2), 3, 4)
    story = told.story(10)
    assert [repr(draw(story)) for draw in PICTURES] == [
        "<trio_isolates picture: 2 lifelines, 4 events>",
        "<trio_isolates picture: 1 call of 1 isolate>",
        "<trio_isolates picture: tree of 1 isolate>",
    ]
    assert repr(lifelines(stories.death(), limit=5)) == "<trio_isolates picture: 3 lifelines, 5 of 20 events>"


def test_letters_of_other_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the own font lacks is drawn by another that is installed; without one, the picture says so."""
    told = Telling()
    letter = "\u2322"  # DejaVu Sans has not got it
    told.call(told.spawn(f"one {letter}", 1, 2), 3, 4)
    story = told.story(10)
    for others, shown, said in (
        ((), "one \ufffd", ["\ufffd is a letter that no font here has"]),
        (("Not Installed", STIX), f"one {letter}", []),
    ):
        monkeypatch.setattr(_letters, "_OTHERS", others)
        forget_letters()
        for draw, name in ((lifelines, "name"), (gantt, "name"), (tree, "isolate")):
            picture = draw(story)
            assert shown in texts(picture, name)
            assert texts(picture, "left out") == said
        drawn_without_error(picture)
    forget_letters()


def forget_letters() -> None:
    for cached in (_letters._families, _letters.families_of, _letters.drawable, _letters.text_width):
        cached.cache_clear()


ALONE = """
import sys
import stories
from trio_isolates import draw

story = stories.short()
pictures = [draw.lifelines(story), draw.gantt(story), draw.tree(story)]
print(pictures)
assert "matplotlib" not in sys.modules, "imported before it is needed"
import matplotlib

alone = [picture._repr_png_() for picture in pictures]
strange = {"font.size": 40, "text.color": "white", "text.usetex": True, "figure.autolayout": True}
matplotlib.rcParams.update({**strange, "savefig.bbox": "tight", "savefig.facecolor": "black"})
before = {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}
pictures = [draw.lifelines(story), draw.gantt(story), draw.tree(story)]
assert [picture._repr_png_() for picture in pictures] == alone, "what the program has set up shows"
assert all(matplotlib.rcParams[key] == value for key, value in before.items())
assert "matplotlib.pyplot" not in sys.modules, "a backend is chosen"
"""


def test_nothing_is_asked_of_the_surroundings() -> None:
    """There is no display and no HOME, all warnings are errors, and what the program has set up stays."""
    here = Path(__file__).parent
    command = [sys.executable, "-W", "error", "-c", ALONE]
    environment = {"PYTHONPATH": f"{here}:{here.parent}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


# Lifelines.


def test_an_arrow_goes_from_line_to_line() -> None:
    """From the line of who sends, at the time of sending, down to the line of who receives."""
    told = Telling()
    one, two = told.spawn("one", 1, 20), told.spawn("two", 2, 21)
    told.message(0, two, 30, "out", 5)
    told.message(two, one, 40, "across", 5)
    told.message(one, 0, 50, "lost", None)
    picture = lifelines(told.story(60))
    xs = [text.get_position()[0] for text in found(picture, "name")]
    assert xs == sorted(xs) and texts(picture, "name") == ["main", "one", "two"]
    out, across, lost = map(ends, found(picture, "arrow message"))
    assert (out[0][0], out[1][0]) == (xs[0], xs[2]) and out[0][1] < out[1][1]
    assert (across[0][0], across[1][0]) == (xs[2], xs[1]) and out[1][1] < across[0][1] < across[1][1]
    assert lost[1] == ((xs[0] + xs[1]) / 2, lost[0][1])
    assert texts(picture, "words")[-3:] == ["out", "across", "lost"]


def test_what_does_not_arrive_ends_before_the_next_line() -> None:
    """With a cross; and with dots what arrives after the last moment that is shown. The legend has both."""
    told = Telling()
    one, two = told.spawn("one", 1, 20), told.spawn("two", 2, 21)
    told.message(two, 0, 30, "lost", None)
    told.message(one, 0, 31, "a long word " * 2, None)
    told.message(0, two, 32, "late", 50)
    told.message(one, one, 33, "late", 50)
    told.message(one, one, 34, "lost", None)
    told.message(0, one, 40)
    story = told.story(100)
    picture = lifelines(story, limit=9)
    xs = [text.get_position()[0] for text in found(picture, "name")]
    lost, long, late, *_ = map(ends, found(picture, "arrow message"))
    assert xs[1] < lost[1][0] < xs[2] and xs[0] < long[1][0] < xs[1] and xs[0] < late[1][0] < xs[1]
    assert all(start[1] == end[1] for start, end in (lost, long, late))
    words = found(picture, "words")[3].get_window_extent(picture.figure().canvas.get_renderer())  # type: ignore[attr-defined]
    assert long[1][0] * DPI < words.x0
    assert len(found(picture, "not received")) == 3 + 1  # with the sample below
    assert len(found(picture, "received later")) == 2 + 1
    assert {"not received", "received later"} <= set(texts(picture, "legend"))
    assert not {"not received", "received later"} & set(texts(picture_of(lifelines, stories.death), "legend"))


def test_words_stand_clear_of_heads() -> None:
    """However many calls there are, an arrow's words stand below the head of the one that came in before."""
    told = Telling()
    worker = told.spawn("worker", 0, 20)
    for index in range(40):
        told.call(worker, 30 + index * 0.5, 0.1)
    picture = lifelines(told.story(60), limit=200)
    requests, replies = (list(map(ends, found(picture, f"arrow {kind}"))) for kind in ("request", "reply"))
    for (_, begun), (left, known), (following, _) in zip(requests, replies, requests[1:], strict=False):
        assert left[1] - begun[1] > 0.16 and following[1] - known[1] > 0.16


def test_why_a_reply_comes_first() -> None:
    """Where a reply is known before what was sent before it is taken, the legend says why that can be."""
    told = Telling()
    worker = told.spawn("worker", 0, 20)
    told.call(worker, 30, 10)
    told.message(worker, 0, 35, took=2)
    said = "ends when it is taken: a later reply may come first"
    assert said not in texts(lifelines(told.story(60)), "legend")
    told.message(worker, 0, 36, took=20)
    assert said in texts(lifelines(told.story(60)), "legend")


def test_who_is_busy_is_touched_at_its_bar() -> None:
    """Arrows of calls end at their own bars, all others at the outermost bar of that time; none is hidden."""
    told = Telling()
    one, two = told.spawn("one", 1, 20), told.spawn("two", 2, 21)
    first, second = told.call(one, 30, 50), told.call(one, 31, 50)
    told.message(one, two, 40, "to the right")
    told.message(two, one, 50, "to the left")
    told.message(one, two, 95, "idle")
    picture = lifelines(told.story(100))
    bars = [found(picture, f"bar {call}")[0].get_paths()[0].get_extents() for call in (first, second)]
    assert bars[0].x1 == pytest.approx(bars[1].x0) and bars[1].x1 < picture.figure().get_size_inches()[0]
    assert [ends(line)[1][0] for line in found(picture, "arrow request")] == [bars[0].x0, bars[1].x0]
    assert [ends(line)[0][0] for line in found(picture, "arrow reply")] == [bars[0].x0, bars[1].x0]
    right, left, idle = map(ends, found(picture, "arrow message"))
    assert right[0][0] == left[1][0] == bars[1].x1
    assert idle[0][0] == found(picture, "name")[1].get_position()[0]


@pytest.mark.parametrize("make", EVERY)
def test_order_is_kept(make: Callable[[], Story]) -> None:
    """What was sent later stands lower, and the true times stand beside."""
    story = make()
    picture = picture_of(lifelines, make)
    sent = [event for event in story.events if event.kind not in ("ready", "restart", "death")]
    drawn = arrows(picture)
    heights = [ends(line)[0][1] for line in drawn]
    assert heights == sorted(heights) and len(set(heights)) == len(heights)
    if len(story.lives) <= 12:
        assert [line.get_gid().split()[1] for line in drawn] == [event.kind for event in sent][: len(drawn)]
    told = [float(text) for text in texts(picture, "time")]
    assert told == sorted(told)
    assert len(told) >= len({event.time for event in sent[: len(drawn)]})


def test_clusters_are_spread_and_gaps_are_shortened() -> None:
    """Calls a microsecond apart can be told apart beside a minute of idleness, which is longer."""
    told = Telling()
    worker = told.spawn("worker", 0, 20)
    for index in range(10):
        told.call(worker, 30 + index * 0.001, 0.0005, queued=0.0001)
    told.call(worker, 60_000, 1)
    heights = [ends(line)[0][1] for line in found(lifelines(told.story(60_010)), "arrow request")]
    gaps = [b - a for a, b in itertools.pairwise(heights)]
    assert all(gap > 0.12 for gap in gaps)
    assert 2 * max(gaps[:-1]) < gaps[-1] < 4


def test_longer_gaps_look_longer_but_less_so() -> None:
    """A thousand times as long a gap is some ten times as high."""
    moments = [Moment(time) for time in (0.0, 0.001, 1.001, 1001.001)]
    scale = Timescale(moments, 0.0, least=0.05, clear=0.1, row=0.2, spare=2.0)
    short, middle, long = (scale(b.time) - scale(a.time) - 0.05 for a, b in itertools.pairwise(moments))
    assert 5 < middle / short < 50 and 5 < long / middle < 50
    assert short + middle + long == pytest.approx(2.0)


def test_long_names_stand_upright() -> None:
    """Eight lines with names of 25 letters: in lines below each other, whole."""
    drawn = found(picture_of(lifelines, stories.long_names), "name")
    assert not any(text.get_rotation() for text in drawn)
    lines: defaultdict[float, str] = defaultdict(str)
    for text in drawn:
        lines[text.get_position()[0]] += text.get_text()
    assert list(lines.values()) == ["main", *(f"image-thumbnail-worker.{i:02}" for i in range(1, 8))]


def test_a_replacement_goes_on_on_the_line() -> None:
    """Two isolates, one line; a cross where the first one died."""
    picture = picture_of(lifelines, stories.death)
    assert texts(picture, "name") == ["main", "pool.1", "pool.2"]
    first, again = found(picture, "life 1")[0], found(picture, "life 3")[0]
    assert ends(first)[0][0] == ends(again)[0][0]
    assert ends(first)[1][1] < ends(again)[0][1]
    (cross,) = found(picture, "died")
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == ends(first)[1]
    assert (
        len(found(picture, "restart")) == len(found(picture, "killed")) == len(found(picture, "closed")) == 1
    )


def test_calls_are_numbered_and_coloured_alike() -> None:
    """A request, its reply and the bar between them have one colour; both words begin with its number."""
    picture = picture_of(lifelines, stories.two_workers)
    requests, replies = found(picture, "arrow request"), found(picture, "arrow reply")
    assert len(requests) == len(replies) == 8
    assert {line.get_color() for line in requests} == {line.get_color() for line in replies}
    assert len({line.get_color() for line in requests}) == 6
    (bar,), (third) = found(picture, "bar 3"), requests[2]
    *_, red, green, blue = bar.get_facecolor()[0][:3]
    assert (
        third.get_color().lower() == f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
    )
    said = texts(picture, "words")
    assert "#3 count_primes" in said and "#3 value" in said and "cancel #6" in said and "interrupt #6" in said


def test_what_is_too_much_is_said() -> None:
    """The first events are shown, and how many follow is said; so is what has no line."""
    picture = lifelines(stories.busy_pool(), limit=10)
    shown = len(arrows(picture)) + 4  # ready
    assert shown == 10
    (said,) = texts(picture, "left out")
    assert said == f"… and {len(stories.busy_pool().events) - 10:,} more events after these (limit=10)"
    many = picture_of(lifelines, crowded)
    names = texts(many, "name")
    called = [f"pool.{i}" for i in range(16, 21)]
    assert names == ["main", *(f"pool.{i}" for i in range(1, 7)), *called]
    assert any(text.startswith("9 isolates with ") for text in texts(many, "left out"))


def test_a_part_of_the_time() -> None:
    """Only what happened between start and end; a call that was being run then has its number beside it."""
    picture = lifelines(stories.death(), start=0.06, end=0.16)
    assert [line.get_gid().split()[1] for line in arrows(picture)] == ["spawn", "request"]
    assert len(found(picture, "bar *")) == 3
    assert texts(picture, "left out") == []
    part = gantt(stories.death(), start=0.06, end=0.16)
    assert texts(part, "name") == ["pool.1", "pool.2"]
    assert len(found(part, "died")) == 1 and not found(part, "killed")


# The Gantt chart.


def test_time_is_linear() -> None:
    """Bars begin and end where the axis says."""
    story = stories.two_workers()
    picture = picture_of(gantt, stories.two_workers)
    ticks = {float(t.get_text()): t.get_position()[0] for t in found(picture, "time")}
    scale = (ticks[80] - ticks[0]) / 80e-3
    for outcome in ("value", "error", "cancelled"):
        paths = [path for each in found(picture, f"calls {outcome}") for path in each.get_paths()]
        bars = sorted((path.get_extents().x0, path.get_extents().x1) for path in paths)
        spans = [span for span in story.spans if span.outcome == outcome]
        assert len(bars) == len(spans)
        for (left, right), span in zip(bars, spans, strict=True):
            assert span.end is not None
            assert left == pytest.approx(ticks[0] + span.start * scale)
            assert right == pytest.approx(ticks[0] + span.end * scale)


def test_one_row_for_all_who_took_a_place() -> None:
    """500 calls of 24 isolates are four rows, with 20 crosses and 20 restarts."""
    picture = picture_of(gantt, stories.busy_pool)
    assert texts(picture, "name") == [f"json-pool.{i}" for i in (1, 2, 3, 4)]
    assert sum(len(line.get_xdata()) for line in found(picture, "died")) == 20
    assert sum(len(line.get_xdata()) for line in found(picture, "restart")) == 20
    drawn = {each.get_gid(): 0 for each in found(picture, "calls *")}
    for each in found(picture, "calls *"):
        drawn[each.get_gid()] += len(each.get_paths())
    assert sum(drawn.values()) == 500
    assert f"value ({drawn['calls value']})" in texts(picture, "legend")


def test_outcomes_differ_by_more_than_color() -> None:
    """Two outcomes differ in hatch, or clearly in lightness."""
    told = Telling()
    one = told.spawn("one", 0, 1)
    for index, outcome in enumerate(("value", "error", "cancelled", "died", "running")):
        told.call(one, 10 + index * 20, 10, outcome=outcome)
    looks = []
    for each in found(gantt(told.story(120)), "calls *"):
        red, green, blue = each.get_facecolor()[0][:3]
        looks.append((each.get_hatch(), 0.2126 * red + 0.7152 * green + 0.0722 * blue))
    assert len(looks) == 5
    for (hatch, light), (other_hatch, other_light) in itertools.combinations(looks, 2):
        assert hatch != other_hatch or abs(light - other_light) > 0.2


@pytest.mark.parametrize("others", [0, 2000])
def test_the_shortest_call_is_seen(others: int) -> None:
    """A microsecond of a minute has its own colour in the picture, alone and between many others."""
    told = Telling()
    one = told.spawn("one", 0, 1)
    for index in range(others):
        told.call(one, 10 + index * 30, 29.9)
    colours = {"value": "#0072B2", "cancelled": "#56B4E9", "error": "#E69F00", "died": "#D55E00"}
    for index, outcome in enumerate(colours):
        told.call(one, 20_000 + index * 9000, 0.001, outcome=outcome)
    picture = gantt(told.story(60_000))
    image = Image.open(BytesIO(picture._repr_png_())).convert("RGB")
    for outcome, colour in colours.items():
        short = [
            path.get_extents() for each in found(picture, f"calls {outcome}") for path in each.get_paths()
        ]
        bar = short[-1]
        middle = round((bar.y0 + bar.y1) / 2 * DPI)
        row = [image.getpixel((x, middle)) for x in range(round(bar.x0 * DPI) - 1, round(bar.x1 * DPI) + 2)]
        wanted = tuple(bytes.fromhex(colour[1:]))
        assert sum(pixel == wanted for pixel in row) >= 2, (outcome, row)


def test_a_short_time_late() -> None:
    """The axis tells its ticks apart, and says since when; after the recording's end, how long it took."""
    told = Telling()
    told.spawn("one", 0, 1)
    story = told.story(200_000)
    picture = gantt(story, start=100, end=100.00002)
    ticks = [float(text) for text in texts(picture, "time")]
    assert ticks == sorted(set(ticks)) and (ticks[0], ticks[-1]) == (0, 20)
    assert "time, µs after 100 s" in texts(picture, "axis")
    assert texts(gantt(stories.death(), start=100), "left out") == [
        "no isolate lived in this time: the recording took 381 ms"
    ]


def test_calls_at_the_same_time_stand_below_each_other() -> None:
    """No bar of an async isolate hides another."""
    boxes = [
        path.get_extents()
        for each in found(picture_of(gantt, overlapping), "calls *")
        for path in each.get_paths()
    ]
    assert len(boxes) == 9
    for a, b in itertools.combinations(boxes, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1e-9 or high <= 1e-9


def test_rows_left_out_are_said() -> None:
    """At most so many rows."""
    picture = gantt(crowded(), limit=3)
    assert texts(picture, "name") == ["pool.1", "pool.2", "pool.3"]
    assert texts(picture, "left out") == ["… and 17 more isolates (limit=3)"]


# The tree.


def test_the_tree_as_text() -> None:
    """The program, its tasks, pools, isolates and theirs; how many calls each ran and how it ended."""
    assert str(tree(stories.family())) == (
        "main                                 8 isolates, 102 ms\n"
        "└─ task main\n"
        "   ├─ task crawl\n"
        "   │  └─ pool crawler                2 isolates, 2 calls\n"
        "   │     ├─ crawler.1                1 call, closed\n"
        "   │     │  └─ task crawl\n"
        "   │     │     └─ task fetch_all\n"
        "   │     │        └─ pool fetch      2 isolates, 2 calls\n"
        "   │     │           ├─ fetch.1      1 call, closed\n"
        "   │     │           └─ fetch.2      1 call, closed\n"
        "   │     └─ crawler.2                1 call, alive\n"
        "   │        └─ task crawl\n"
        "   │           └─ task fetch_all\n"
        "   │              └─ pool fetch      2 isolates, 1 restart, 2 calls\n"
        "   │                 ├─ fetch.1      1 call, died: exit code 7\n"
        "   │                 ├─ fetch.1 (2)  closed\n"
        "   │                 └─ fetch.2      1 call, closed\n"
        "   └─ task write_log\n"
        "      └─ log                         killed"
    )


def test_the_tree_counts_errors() -> None:
    """Of an isolate, and of its pool."""
    assert str(tree(stories.two_workers())).split("\n")[2:] == [
        "   └─ task crunch",
        "      └─ pool pool  2 isolates, 8 calls (1 error)",
        "         ├─ pool.1  4 calls, closed",
        "         └─ pool.2  4 calls (1 error), closed",
    ]


def test_the_tree_as_a_picture() -> None:
    """The same nodes, one below the other, each further to the right than what it was opened in."""
    picture = picture_of(tree, stories.death)
    titles = [found(picture, kind) for kind in ("program", "task", "pool", "isolate")]
    assert [[t.get_text() for t in each] for each in titles] == [
        ["main"],
        ["task main"],
        ["pool pool"],
        ["pool.1", "pool.1 (2)", "pool.2"],
    ]
    lefts = [each[0].get_position()[0] for each in titles]
    assert lefts == sorted(set(lefts))
    assert len(found(tree(stories.busy_pool(), limit=5), "isolate")) == 2


# Perfetto.


def perfetto(story: Story, path: Path) -> list[dict[str, Any]]:
    to_perfetto(story, path)
    return check_trace(json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("make", EVERY)
def test_a_trace_is_one(make: Callable[[], Story], tmp_path: Path) -> None:
    """It has the form of a trace; its slices nest, its arrows begin and end in slices."""
    story = make()
    events = perfetto(story, tmp_path / "trace.json")
    phases = defaultdict(list)
    for event in events:
        phases[event["ph"]].append(event)
    names = {e["pid"]: e["args"]["name"] for e in phases["M"] if e["name"] == "process_name"}
    assert names == {life.number + 1: life.name for life in story.lives}
    runs = [event for event in phases["X"] if event["cat"] == "calls"]
    assert sorted((e["args"]["call"], e["pid"], e["ts"]) for e in runs) == sorted(
        (span.request, span.isolate + 1, pytest.approx(span.start * 1e6, abs=0.07)) for span in story.spans
    )
    requests = [e for e in story.events if e.kind == "request" and e.arrived is not None]
    assert sum(e["name"] == "request" for e in phases["s"]) == len(requests)
    deaths = [e for e in phases["i"] if e["name"] == "death"]
    assert len(deaths) == sum(e.kind == "death" for e in story.events)


def test_calls_at_the_same_time_have_threads_of_their_own(tmp_path: Path) -> None:
    """Eight calls that overlap are on eight threads."""
    events = perfetto(overlapping(), tmp_path / "trace.json")
    tids = {
        event["tid"]
        for event in events
        if event["ph"] == "X" and event["name"] == "fetch" and event["cat"] == "calls"
    }
    assert len(tids) == 8


def test_a_trace_of_what_is_no_recording(tmp_path: Path) -> None:
    """Nothing is written."""
    untyped: Any = to_perfetto
    with pytest.raises(TypeError, match="story= must be a recording"):
        untyped({}, tmp_path / "trace.json")
    assert not list(tmp_path.iterdir())


# What stands below them.


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 2)), min_size=1, max_size=60))
def test_positions_grow_with_times(times: list[tuple[float, int]]) -> None:
    """Strictly, with the least distance; lines of words never stand upon each other."""
    scale = Timescale((Moment(*each) for each in times), 1.0, least=0.05, clear=0.1, row=0.2, spare=2.0)
    rows: defaultdict[float, int] = defaultdict(int)
    for time, count in times:
        rows[time] += count
    moments = sorted(rows)
    positions = list(map(scale, moments))
    assert positions[0] == 1.0 and positions[-1] <= scale.bottom
    worded = None
    for a, b in itertools.pairwise(positions):
        assert b - a >= 0.05 - 1e-9
    for time, position in zip(moments, positions, strict=True):
        if rows[time]:
            assert worded is None or position >= worded - 1e-9
            worded = position + rows[time] * 0.2
    between = [scale((a + b) / 2) for a, b in itertools.pairwise(moments)]
    assert all(a <= x <= b for a, x, b in zip(positions, between, positions[1:], strict=False))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=30))
def test_lanes_are_as_few_as_can_be(raw: list[tuple[int, int]]) -> None:
    """No two intervals of a lane overlap, and there are only as many as overlap at some time."""
    intervals = sorted((float(start), float(start + length)) for start, length in raw)
    lanes = find_lanes(intervals)
    for (a, one), (b, other) in itertools.combinations(zip(intervals, lanes, strict=True), 2):
        assert one != other or min(a[1], b[1]) <= max(a[0], b[0])
    most = max((sum(a <= at < b for a, b in intervals) for at, _ in intervals), default=0)
    assert len(set(lanes)) <= most + sum(a == b for a, b in intervals)


NAMES = st.text(max_size=30) | st.sampled_from(
    ["pool.1", "pool.2", "json-pool.10", "$x^2$", "日本語", "a\nb"]
)
TIMES = st.floats(0, 20) | st.integers(0, 5).map(lambda n: n / 1e6)
COUNT = 6


@st.composite
def any_stories(draw: st.DrawFn) -> Story:
    """Recordings of every form, also such as never happen."""
    count = draw(st.integers(1, COUNT))
    lives = [Life(0, draw(NAMES), None)]
    for number in range(1, count):
        earlier = st.integers(0, number - 1)
        lives.append(
            Life(
                number,
                draw(NAMES),
                draw(earlier),
                tuple(draw(st.lists(NAMES, max_size=2))),
                draw(TIMES),
                draw(st.none() | TIMES),
                draw(st.none() | TIMES),
                draw(st.sampled_from(get_args(End))),
                draw(st.sampled_from(["", "SIGKILL"])),
                None,
                draw(st.none() | st.integers(0, COUNT)),
            )
        )
    numbers = st.integers(0, count)  # the last one is nobody's
    calls = st.none() | st.integers(0, 5)
    kinds = st.sampled_from(get_args(Kind))
    events = st.builds(Event, kinds, TIMES, numbers, numbers, st.none() | TIMES, calls, NAMES)
    outcomes = st.sampled_from((*get_args(Outcome)[:3], "died", "running"))
    waits = st.lists(st.tuples(TIMES, TIMES), max_size=3).map(tuple)
    spans = st.builds(Span, numbers, st.integers(0, 5), NAMES, TIMES, st.none() | TIMES, outcomes, waits)
    return Story(
        tuple(lives),
        tuple(sorted(draw(st.lists(events, max_size=12)), key=lambda event: event.time)),
        tuple(sorted(draw(st.lists(spans, max_size=8)), key=lambda span: span.start)),
        draw(TIMES),
    )


def drawn_without_error(picture: Picture) -> None:
    canvas: Any = picture.figure().canvas
    canvas.draw()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(any_stories(), st.integers(1, 15), st.none() | st.just(1.0))
def test_nothing_is_too_strange_to_be_drawn(story: Story, limit: int, start: float | None) -> None:
    """No recording makes a picture raise or warn, and order is kept in all of them."""
    picture = lifelines(story, start=start, limit=limit)
    drawn_without_error(picture)
    heights = [ends(line)[0][1] for line in arrows(picture)]
    assert heights == sorted(heights)
    drawn_without_error(gantt(story, start=start, limit=limit))
    drawn_without_error(tree(story, limit=limit))
    assert len(str(tree(story)).split("\n")) >= len(story.lives)


@settings(max_examples=20, deadline=None)
@given(any_stories())
def test_every_trace_is_one(story: Story) -> None:
    """Whatever was recorded, Perfetto's rules hold."""
    from trio_isolates._perfetto import perfetto_events

    check_trace(json.loads(json.dumps({"traceEvents": perfetto_events(story)})))


@settings(max_examples=25)
@given(any_stories())
def test_every_isolate_has_one_place(story: Story) -> None:
    """And the program's is the first."""
    numbers = [life.number for place in find_places(story) for life in place.lives]
    assert sorted(numbers) == [life.number for life in story.lives]
    assert numbers[0] == 0
