"""The architecture's picture: each file imports only from the files above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# `__init__` stands where the public API is complete: it may import everything, and what comes after it
# may import from the package. On one line, a file may import from those left of it.
LAYERS = """
    _errors _checks _events _shared_buffer _messages                           words
    _wire _identities _views _by_value _unsendable _pieces _unpickling _pickling   sans-IO
    _exceptions _data _calls _restart                          the same
    _memory _link _side _bulk _notes                             bytes that move
    _interrupt _peers _inbox _exchange _pace _direct           messages between isolates
    _functions _group _here _capability _ports _progress _current     ports, on both sides
    _entry _service _sync_server _async_server _warnings _environment _deaths _boot _preload   inside it
    _job _engine                                               starting one
    _options _chronicle _collector _building _isolate                    the parent's handle of one
    _queue _histogram _resident _call _client _dispatch        calls, and who serves them
    _posts _supervisor _statistics                             who is alive
    _stream _open_isolate _open_worker _actor _run _map _pool _open_pool   the doors
    _child_spec _child_log _siblings _tree _open_supervisor               isolates that live again
    _selection _json_place _json_decode _json_source _json_pieces _json_shape   JSON: texts and trees
    _json_desk _json_lines _json_home _json_question _json_document             and what becomes of them
    _json_reader _json_pool _open_json_pool                                     in isolates
    __init__ testing _pytest_plugin                            what is built on them
    _blocks _clock _story _places _timescale _view _perfetto           a recording: what there is to see
    _letters _sheet _picture _legend _names _looks _lifelines _gantt _family draw trace   and its pictures
    _documents _screen _demo _cli __main__          the command line
"""
TABLE = [word for line in LAYERS.strip().splitlines() for word in line.strip().split("   ")[0].split()]
FOLDER = Path(__file__).parent.parent / "trio_isolates"


def imported(path: Path) -> Iterator[str]:
    """The package's own files that a file imports anywhere, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(filter(None, ["trio_isolates" if node.level else "", node.module]))
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            module = rest.partition(".")[0]
            if package == "trio_isolates":
                yield module if (FOLDER / f"{module}.py").exists() else "__init__"


def test_the_picture_is_complete() -> None:
    """Every file is in the picture, once, and nothing else is."""
    assert sorted(TABLE) == sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("module", [name for name in TABLE if (FOLDER / f"{name}.py").exists()])
def test_imports_only_from_above(module: str) -> None:
    """Of the package's own files, a file imports only those before it."""
    above = TABLE if module == "__init__" else TABLE[: TABLE.index(module)]
    assert set(imported(FOLDER / f"{module}.py")) <= set(above)
