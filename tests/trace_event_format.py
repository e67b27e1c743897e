"""What a file must be that the Perfetto UI draws: its form, as a JSON schema, and what events must fit."""

from __future__ import annotations

from collections import defaultdict
from importlib import import_module
from typing import Any

jsonschema: Any = import_module("jsonschema")  # which is published without types

_TIME = {"type": "number", "minimum": 0}
_NUMBER = {"type": "integer", "minimum": 1}
_COMMON = {
    "ph": True,
    "name": {"type": "string"},
    "cat": {"type": "string", "minLength": 1},
    "pid": _NUMBER,
    "tid": _NUMBER,
}


def _event(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**_COMMON, "ts": _TIME, **properties},
        "required": ["ph", "name", "ts", "pid", "tid", *required],
        "additionalProperties": False,
    }


_NAMED = {
    "properties": {"name": {"type": "string"}, "sort_index": {"type": "integer"}},
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}
_META = {"enum": ["process_name", "thread_name", "process_sort_index", "thread_sort_index"]}
_BY_PHASE = {
    "X": _event(["cat", "dur"], dur=_TIME, args={"type": "object"}),
    "i": _event(["cat", "s"], s={"enum": ["g", "p", "t"]}, args={"type": "object"}),
    "s": _event(["cat", "id"], id=_NUMBER),
    "f": _event(["cat", "id", "bp"], id=_NUMBER, bp={"const": "e"}),
    "M": _event(["args"], name=_META, args=_NAMED),
}
_TRACE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "traceEvents": {
            "type": "array",
            "items": {"properties": {"ph": {"enum": list(_BY_PHASE)}}, "required": ["ph"]},
        },
    },
    "required": ["traceEvents"],
}
_VALIDATOR = jsonschema.Draft202012Validator(_TRACE)
_OF_EVENTS = {phase: jsonschema.Draft202012Validator(schema) for phase, schema in _BY_PHASE.items()}


def check_trace(trace: Any) -> list[dict[str, Any]]:
    """Raise unless all holds; return the events."""
    _VALIDATOR.validate(trace)
    events: list[dict[str, Any]] = trace["traceEvents"]
    for event in events:
        _OF_EVENTS[event["ph"]].validate(event)
    timed = [event for event in events if event["ph"] != "M"]
    assert [e["ts"] for e in timed] == sorted(e["ts"] for e in timed), "in the order of time"
    threads: dict[int, int] = {}
    for event in events:
        assert threads.setdefault(event["tid"], event["pid"]) == event["pid"], "a thread is of one process"
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert named == set(threads), "each thread has a name"
    open_at = _check_nesting(timed)
    flows: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for index, event in enumerate(timed):
        if event["ph"] in "sf":
            assert open_at[index], f"no slice at {event}"
            flows[event["id"]].append(event)
    for start, end in flows.values():
        assert (start["ph"], end["ph"]) == ("s", "f") and start["ts"] <= end["ts"]
        assert (start["name"], start["cat"]) == (end["name"], end["cat"]), "or they are no pair"
    return events


def _check_nesting(timed: list[dict[str, Any]]) -> list[bool]:
    """Assert that the slices of a thread nest; return for each event whether it is in one of its thread."""
    stacks: defaultdict[int, list[float]] = defaultdict(list)
    inside: list[bool] = []
    for event in timed:
        stack = stacks[event["tid"]]
        while stack and stack[-1] <= event["ts"]:
            stack.pop()
        if event["ph"] == "X":
            end = event["ts"] + event["dur"]
            assert event["dur"] > 0
            assert not stack or end <= stack[-1], f"{event} ends after what it is in"
            stack.append(end)
        inside.append(bool(stack))
    return inside
