"""Turns a JMESPath expression into a search, and what it finds into a line of JSON.

It does not know where documents come from. jmespath is imported when an expression is compiled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, cast, final

Search = Callable[[Any], Any]


@final
class SelectionError(ValueError):
    """What is wrong with an expression, or with its use on a document.

    `position` counts the expression's characters from 0; it is None where no place can be named.
    """

    def __init__(self, text: str, position: int | None = None) -> None:
        super().__init__(text, position)
        self.text = text
        self.position = position


def compile_selection(expression: str) -> Search:
    """The search that a JMESPath expression stands for.

    Raises SelectionError, also for what jmespath itself would only notice while searching: unknown
    functions, the wrong number of arguments, a slice whose step is 0.
    """
    import jmespath
    from jmespath import exceptions as errors

    try:
        compiled = jmespath.compile(expression)
    except errors.EmptyExpressionError:
        raise SelectionError("it is empty") from None
    except errors.IncompleteExpressionError:
        raise SelectionError("it ends too early", len(expression)) from None
    except errors.LexerError as error:
        raise SelectionError(error.message, error.lex_position) from None
    except errors.ParseError as error:
        raise SelectionError(f"unexpected {error.token_value!r}", error.lex_position) from None
    _check(compiled.parsed, expression)
    search: Search = compiled.search
    return search


def _check(node: Mapping[str, Any], expression: str) -> None:
    children: list[Any] = node["children"]
    if node["type"] == "slice" and children[2] == 0:
        raise SelectionError("the step of a slice cannot be 0")
    if node["type"] == "function_expression":
        name, given = node["value"], len(children)
        at = re.search(rf"\b{re.escape(name)}\s*\(", expression)
        if (why := _misused(name, given)) is not None:
            raise SelectionError(why, None if at is None else at.start())
    for child in children:
        if isinstance(child, dict):  # those of a slice are numbers
            _check(cast(dict[str, Any], child), expression)


def _misused(name: str, given: int) -> str | None:
    from jmespath.functions import Functions

    table = Functions.FUNCTION_TABLE
    if name not in table:
        return f"there is no function {name}()"
    signature = table[name]["signature"]
    wanted, more = len(signature), bool(signature and signature[-1].get("variadic"))
    if given == wanted or (more and given > wanted):
        return None
    return f"{name}() takes {'at least ' if more else ''}{wanted} argument{'s'[: wanted != 1]}, not {given}"


def select(search: Search, value: object) -> bytes:
    """What `search` finds in `value`, as one line of JSON.

    Raises SelectionError if the expression does not fit this value, and RecursionError.
    """
    try:
        return to_json(search(value))
    except RecursionError:
        raise
    except Exception as error:
        # What an expression can meet is open-ended, and jmespath's own text may quote the whole value.
        raise SelectionError(_brief(error)) from None


def _brief(error: Exception) -> str:
    name = getattr(error, "function_name", None)
    if name is not None:
        wanted = " or ".join(getattr(error, "expected_types", ()))
        return f"{name}() takes {wanted}, not {getattr(error, 'actual_type', 'this')}"
    return str(error)[:200] or type(error).__name__


def to_json(value: object) -> bytes:
    """`value` as one line of JSON in UTF-8; half surrogate pairs, which UTF-8 cannot hold, are escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
