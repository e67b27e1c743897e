"""Turns seconds, and counts, into short texts: one unit for all, as many digits as tell them apart.

It does not know what happened then.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def tell_times(times: Sequence[float]) -> tuple[str, list[str]]:
    """Return the unit, and a text for each; the times are in their order."""
    longest = max(times, default=0.0)
    unit, factor, most = (
        ("s", 1.0, 4) if longest >= 1 else ("ms", 1e3, 3) if longest >= 1e-3 else ("µs", 1e6, 1)
    )
    told: list[str] = []
    for digits in range(most + 1):
        told = [f"{time * factor:.{digits}f}" for time in times]
        if all(a != b for a, b in pairwise(told)):
            break
    return unit, told


def tell_duration(seconds: float) -> str:
    """Return "1.2 s", "35 ms" or "12 µs"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def tell_count(number: int, noun: str) -> str:
    """Return "1 call" or "1,200 calls"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
