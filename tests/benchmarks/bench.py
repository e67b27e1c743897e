"""Benchmarks of trio_isolates against their bars, always beside their floor and their peers in the same run.

examples:
  python tests/benchmarks/bench.py                              all rows
  python tests/benchmarks/bench.py call throughput              these two
  python tests/benchmarks/bench.py call --rounds 21             more rounds: a steadier median
  python tests/benchmarks/bench.py call --placement together    parent and workers on one CPU
  python tests/benchmarks/bench.py call --placement apart       the parent on one, workers on another
  python tests/benchmarks/bench.py json                         when is a worker worth it? no bars
  python tests/benchmarks/bench.py --list                       the rows and their bars

Contenders play in turn, each in its own process; figures are medians over the rounds, with the least and the
most. A bar is the median of its value computed round by round (not the quotient of the two medians above it).
The exit status is 1 if a bar was missed or a contender failed.

Where the scheduler puts parent and worker decides much of what a call costs: to wake an idle virtual CPU may
take longer than the call itself. --placement takes that choice from it, for each contender alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from statistics import median

import trio

from rounds import Bar, Outcome, Row, play_row
from rows import DOCUMENTS, ROWS, SIZE

LEAST_ROUNDS = 5
WIDTH = 58
GROWTH_MIB = 4.0


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def line(name: str, *columns: str) -> None:
    print(f"  {name:{WIDTH}}" + "".join(f"{column:>14}" for column in columns))


def show_figures(row: Row, outcome: Outcome) -> None:
    line("", row.unit, "least", "most")
    for contender in row.contenders:
        if contender.name in outcome.failures:
            line(contender.name, "FAILED")
            print(f"      {outcome.failures[contender.name]}")
        else:
            figures = outcome.figures[contender.name]
            line(contender.name, *map(number, (median(figures), min(figures), max(figures))))


def judge(bar: Bar, outcome: Outcome) -> bool:
    try:
        names = list(outcome.figures)
        rounds = [dict(zip(names, turn, strict=True)) for turn in zip(*outcome.figures.values(), strict=True)]
        values = [bar.value(figures) for figures in rounds]
    except KeyError as missing:
        line(bar.text, bar.limit, "-", f"MISS: no {missing}")
        return False
    value = median(values)
    passed = bar.passed(value)
    spread = f"{number(min(values))} - {number(max(values))}"
    line(bar.text, bar.limit, number(value), "PASS" if passed else "MISS", spread)
    return passed


def show_flat(row: Row, outcome: Outcome) -> bool:
    """The census of each contender, and its bar: memory grows by less than a few MiB, all else not at all."""
    passed = not outcome.failures
    for contender in row.contenders:
        if contender.name in outcome.failures:
            line(contender.name, "FAILED")
            print(f"      {outcome.failures[contender.name]}")
            continue
        for before, middle, after in outcome.figures[contender.name]:
            line(contender.name, "before", "halfway", "after")
            for what in before:
                limit = GROWTH_MIB if what.startswith("RSS") else 0
                flat = after[what] - before[what] <= limit
                passed &= flat
                columns = [f"{table[what]:.{1 if limit else 0}f}" for table in (before, middle, after)]
                line(f"    {what}{' (MiB)' if limit else ''}", *columns, "PASS" if flat else "MISS")
    return passed


def show_trees(row: Row, outcome: Outcome) -> bool:
    """A table in Markdown, without bars: each document in each way; "-" for what is not installed."""
    print(f"\n| document | {'parsed by':28} | {'ms':>8} | longest gap, ms | loop's CPU, ms |")
    print(f"|----------|{'-' * 30}|{'-' * 9}:|----------------:|---------------:|")
    for document in DOCUMENTS:
        for name, rounds in outcome.figures.items():
            figures = [figure[document] for figure in rounds if document in figure]
            columns = [number(median(column)) for column in zip(*figures, strict=True)] or ["-"] * 3
            print("| {:8} | {:28} | {:>8} | {:>15} | {:>14} |".format(document, name, *columns))
    print("""
Text to tree and the tree dropped again, one call after the other. Gap: how long a task that wakes up every
millisecond did not run, so that 1.1 is as good as none. CPU: of the event loop's thread, for a call.""")
    for name, reason in outcome.failures.items():
        line(name, "FAILED")
        print(f"      {reason}")
    return not outcome.failures


def show_gaps(row: Row, outcome: Outcome) -> bool:
    """Several figures of each contender, and its bars. CPU: the parent's, in the loop's thread and in all."""
    names = ("ms", "gap", "loop's CPU", "CPU")
    line("", *names)
    for contender in row.contenders:
        if contender.name in outcome.failures:
            line(contender.name, "FAILED")
            print(f"      {outcome.failures[contender.name]}")
        else:
            rounds = outcome.figures[contender.name]
            line(contender.name, *(number(median(figures[name] for figures in rounds)) for name in names))
    line("bar", "limit", "value", "", "least - most")
    return not sum([not judge(bar, outcome) for bar in row.bars]) and not outcome.failures


SHOW = {"gaps": show_gaps, "flat": show_flat, "json": show_trees}


async def play(names: Sequence[str], rounds: int | None, placement: str) -> bool:
    passed = True
    for row in map(ROWS.__getitem__, names):
        count = rounds or row.rounds
        rough = " (rough: fewer than 5)" if count < LEAST_ROUNDS and row.rounds > 1 else ""
        print(f"\n{row.name}: {row.title}; {count} rounds{rough}")
        outcome = await play_row(row, count, placement)
        if row.name in SHOW:
            passed &= SHOW[row.name](row, outcome)
            continue
        show_figures(row, outcome)
        line("bar", "limit", "value", "", "least - most")
        passed &= not sum([not judge(bar, outcome) for bar in row.bars]) and not outcome.failures
        sys.stdout.flush()
    return passed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--rounds", type=int, help="rounds of each row (default: 5, import 10, flat 1)")
    parser.add_argument("--size", type=int, help="MB of the file of json-lines (default: 50)")
    parser.add_argument("--placement", choices=("free", "together", "apart"), default="free")
    parser.add_argument("--list", action="store_true", help="the rows and their bars, and nothing else")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    return chosen


def main() -> int:
    chosen = arguments()
    if chosen.list:
        for row in ROWS.values():
            print(f"{row.name:12} {row.title}")
            for bar in row.bars:
                print(f"{'':15}{bar.text} {bar.limit}")
        return 0
    if chosen.size is not None:
        os.environ[SIZE] = str(chosen.size)
    machine = f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"Python {platform.python_version()}, trio {trio.__version__}, {platform.system()}, {machine}")
    return 0 if trio.run(play, chosen.rows or list(ROWS), chosen.rounds, chosen.placement) else 1


if __name__ == "__main__":
    sys.exit(main())
