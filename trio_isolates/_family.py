"""Turns a recording into a tree: the program, the Trio tasks whose blocks hold isolates, and the isolates.

It is a text and a sheet. It knows who opened whom and how each ended. What they told each other is
`_lifelines`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias, final

from attrs import Factory, define

from ._clock import tell_count, tell_duration
from ._events import End, Life, Story
from ._legend import Legend, Sample
from ._letters import drawable, fit, text_width
from ._places import find_places, split_name
from ._sheet import GREEN, GREY, INK, RED, Point, Sheet, Sign

Kind: TypeAlias = Literal["program", "task", "pool", "isolate"]

_WIDEST: Final = 52  # letters before the details, which stand below each other
_ROW: Final = 0.285
_STEP: Final = 0.34
_LEFT: Final = 0.3
_SIZE: Final = 8.5
_ENDS: Final[dict[End, tuple[Sign, str]]] = {
    "closed": ("ring", GREY),
    "killed": ("square", INK),
    "died": ("cross", RED),
    "alive": ("dot", GREEN),
}


@define
class Node:
    """A program, a task, a pool or an isolate, and what was opened in it."""

    kind: Kind
    name: str
    details: str = ""
    end: End | None = None
    nodes: list[Node] = Factory(list["Node"])

    def within(self, kind: Kind, name: str) -> Node:
        """Return the node of that kind and name in this one; make it where there is none."""
        for node in self.nodes:
            if (node.kind, node.name) == (kind, name):
                return node
        self.nodes.append(Node(kind, name))
        return self.nodes[-1]


@final
class _Calls:
    """How many calls isolates ran, and how many of them raised."""

    def __init__(self, story: Story) -> None:
        self._all = Counter(span.isolate for span in story.spans)
        self._errors = Counter(span.isolate for span in story.spans if span.outcome == "error")

    def count(self, *isolates: int) -> int:
        return sum(self._all[number] for number in isolates)

    def say(self, *isolates: int) -> str:
        said = tell_count(self.count(*isolates), "call")
        errors = sum(self._errors[number] for number in isolates)
        return f"{said} ({tell_count(errors, 'error')})" if errors else said


def grow_tree(story: Story) -> Node:
    """Return the program's node."""
    calls = _Calls(story)
    places = find_places(story)
    program = Node("program", story.lives[0].name)
    nodes = {story.lives[0].number: program}
    again = {life.number: index for place in places for index, life in enumerate(place.lives, 1)}
    waiting = [life for place in places for life in place.lives if life.number not in nodes]
    while waiting:
        known = [life for life in waiting if life.parent in nodes] or waiting
        for life in known:
            parent = nodes.get(-1 if life.parent is None else life.parent, program)
            for task in life.tasks:
                parent = parent.within("task", task.removeprefix("__main__."))
            if group := split_name(life.name):
                parent = parent.within("pool", group[0])
            name = life.name if again[life.number] == 1 else f"{life.name} ({again[life.number]})"
            node = Node("isolate", name, _say_life(life, calls), life.end)
            parent.nodes.append(node)
            nodes[life.number] = node
        waiting = [life for life in waiting if life.number not in nodes]
    isolates = len(story.lives) - 1
    program.details = f"{tell_count(isolates, 'isolate')}, {tell_duration(story.seconds)}"
    _sum_up(program, calls, again, nodes)
    return program


def _sum_up(program: Node, calls: _Calls, again: dict[int, int], nodes: dict[int, Node]) -> None:
    """Give pools their numbers: of places, of those that took one over, of calls."""
    later = {id(node) for number, node in nodes.items() if again.get(number, 1) > 1}
    numbers = {id(node): number for number, node in nodes.items()}
    for _, node in _walk(program):
        if node.kind != "pool":
            continue
        restarted = sum(id(child) in later for child in node.nodes)
        node.details = tell_count(len(node.nodes) - restarted, "isolate")
        if restarted:
            node.details += f", {tell_count(restarted, 'restart')}"
        node.details += f", {calls.say(*(numbers[id(child)] for child in node.nodes))}"


def _say_life(life: Life, calls: _Calls) -> str:
    said = [calls.say(life.number)] if calls.count(life.number) else []
    if life.ready is None:
        said.append("never ready" if life.end != "alive" else "starting")
    said.append(f"died: {life.reason}" if life.end == "died" and life.reason else life.end)
    return ", ".join(said)


def _walk(node: Node, above: tuple[bool, ...] = ()) -> Iterator[tuple[tuple[bool, ...], Node]]:
    """Yield each node, and for each level above it whether it was the last one there."""
    yield above, node
    for child in node.nodes:
        yield from _walk(child, (*above, child is node.nodes[-1]))


def _title(node: Node) -> str:
    return {"program": node.name, "task": f"task {node.name}", "pool": f"pool {node.name}"}.get(
        node.kind, node.name
    )


def write_tree(program: Node) -> str:
    """Return the text, a line for each node."""
    rows: list[tuple[str, str]] = []
    for above, node in _walk(program):
        rails = "".join("   " if is_last else "│  " for is_last in above[:-1])
        turn = ("└─ " if above[-1] else "├─ ") if above else ""
        title = "".join(char if char.isprintable() else "\ufffd" for char in _title(node))
        rows.append((rails + turn + title, node.details))
    width = min(_WIDEST, max(len(left) for left, details in rows if details))
    return "\n".join(f"{left:<{width}}  {details}".rstrip() for left, details in rows)


def draw_tree(program: Node, limit: int) -> Sheet:
    """Return the sheet of the first `limit` nodes."""
    all_rows = list(_walk(program))
    rows = all_rows[:limit]
    ends = [_left(above) + text_width(_fitted(node), _SIZE, node.kind != "task") for above, node in rows]
    column = min(6.2, max(ends) + 0.35)
    wide = max(text_width(drawable(node.details), _SIZE) for _, node in rows)
    width = min(9.0, max(5.0, column + wide + 0.4))
    legend = Legend(_legend(rows), width - 0.5)
    left_out = len(all_rows) - len(rows)
    height = 0.15 + len(rows) * _ROW + (0.25 if left_out else 0) + 0.1 + legend.height + 0.1
    sheet = Sheet(width, height)
    rails: dict[int, float] = {}  # of each depth, from where its line goes on
    for index, (above, node) in enumerate(rows):
        y = 0.15 + (index + 0.5) * _ROW
        depth = len(above)
        if depth:
            rail = _LEFT + (depth - 1) * _STEP + 0.02
            corner, end = (rail, y), (rail + _STEP - 0.1, y)
            sheet.line([(rail, rails[depth - 1]), corner, end], colour=GREY, width=0.9)
            rails[depth - 1] = y
        rails[depth] = y + 0.1
        _draw_node(sheet, node, (_left(above), y), column)
    below = 0.15 + len(rows) * _ROW
    if left_out:
        sheet.text((_LEFT, below + 0.12), f"… and {left_out:,} more (limit={limit})", size=_SIZE, bold=True)
        below += 0.25
    legend.draw(sheet, 0.25, below + 0.1)
    return sheet


def _left(above: tuple[bool, ...]) -> float:
    return _LEFT + len(above) * _STEP


def _fitted(node: Node) -> str:
    return fit(_title(node), 4.0, _SIZE, node.kind != "task", tail=6)


def _draw_node(sheet: Sheet, node: Node, at: Point, column: float) -> None:
    x, y = at
    title = _fitted(node)
    wide = text_width(title, _SIZE, node.kind != "task")
    if node.kind in ("program", "isolate"):
        sheet.box((x - 0.06, y - 0.105), wide + 0.12, 0.21, face="#F2F2F2", edge=GREY)
    colour = GREY if node.kind == "task" else INK
    sheet.text((x, y), title, size=_SIZE, bold=node.kind != "task", colour=colour, name=node.kind)
    details = fit(node.details, sheet.width - column - 0.15, _SIZE)
    if node.end is not None:
        sign, hue = _ENDS[node.end]
        sheet.sign([(column - 0.1, y)], sign, colour=hue, size=6, line=2.2 if sign == "cross" else 1.2)
    sheet.text(
        (column + 0.05, y), details, size=_SIZE, colour=RED if node.end == "died" else INK, name="details"
    )


def _legend(rows: list[tuple[tuple[bool, ...], Node]]) -> list[tuple[Sample, str]]:
    entries: list[tuple[Sample, str]] = [(_process_sample, "a process")]
    if any(node.kind == "task" for _, node in rows):
        entries.append((_task_sample, "a Trio task"))
    ends = {node.end for _, node in rows}
    return entries + [(_sign_sample(*look), end) for end, look in _ENDS.items() if end in ends]


def _process_sample(sheet: Sheet, at: Point) -> None:
    sheet.box((at[0], at[1] - 0.075), 0.28, 0.15, face="#F2F2F2", edge=GREY)


def _task_sample(sheet: Sheet, at: Point) -> None:
    sheet.text(at, "task", size=7.5, colour=GREY)


def _sign_sample(sign: Sign, colour: str) -> Sample:
    def draw(sheet: Sheet, at: Point) -> None:
        sheet.sign([(at[0] + 0.2, at[1])], sign, colour=colour, size=6, line=2.2 if sign == "cross" else 1.2)

    return draw
