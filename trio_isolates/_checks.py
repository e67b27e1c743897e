"""Values that users give to errors in plain words: what is wrong with them, by the name of the option.

This module knows numbers, choices and names. It does not know what an option is there for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_int(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return `value` if it is an int from `least` to `most`; else raise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}= must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name}= must be at least {least}, not {value}")
    if most is not None and value > most:
        raise ValueError(f"{name}= must be at most {most}, not {value}")
    return value


def check_number(name: str, value: object, least: float, most: float) -> None:
    """Raise unless `value` is a number from `least` to `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name}= must be a number, not {value!r}")
    if not least <= value <= most:  # also NaN
        raise ValueError(f"{name}= must be from {least} to {most}, not {value}")


def check_seconds(name: str, value: object) -> None:
    """Raise unless `value` is a number of seconds, 0 or more; `math.inf` passes."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name}= must be a number of seconds, not {value!r}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name}= must be 0 seconds or more, not {value}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of a few words."""
    if value not in choices:
        raise ValueError(f"{name}= must be one of {', '.join(map(repr, choices))}, not {value!r}")


def check_name(name: object) -> None:
    """Raise unless it can stand in an error, in a log and in `ps`; None passes."""
    if name is None:
        return
    if not isinstance(name, str):
        raise TypeError(f"name= must be a str, not {name!r}")
    if not name:
        raise ValueError("name= must not be empty; without it, a name is made up")
    if not name.isprintable():
        raise ValueError(f"name= must be printable text, not {name!r}")
