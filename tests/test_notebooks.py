"""The notebooks: their cells run, their exercises are what they say, and what is committed is what was built.

Each exercise is done three times, in one kernel, from top to bottom with all that is around it: as it stands
(its check refuses it), wrong (its check says why), and right (its check passes).
"""

from __future__ import annotations

import ast
import asyncio
import base64
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat

from notebooks.kernel import FOLDER, NOTEBOOKS, CellError, Kernel, has_tag, open_kernel, plain, read, written

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])

NO_EXERCISE_NEEDED = {"00_map"}
LARGEST_PICTURE = 80 * 1024
WIDEST_PICTURE = 1600


@frozen
class Exercise:
    """One of a notebook, with the answers to it.

    Attributes:
        number: as in its tags.
        index: the place of its cell; its check is in the next.
        right: code in the place of that cell, each of which is right.
        wrong: such code that is wrong, each with a piece of what the check says then.
    """

    number: int
    index: int
    right: tuple[str, ...]
    wrong: tuple[tuple[str, str], ...]


_HEADER = re.compile(r"^# %% exercise-(\d+) (?:(answer)|wrong: (.+))$\n", re.MULTILINE)


def _answers(path: Path) -> dict[int, list[tuple[str | None, str]]]:
    """What the file of answers has for each exercise: None, or what is wrong, and the code."""
    file = FOLDER / "answers" / f"{path.stem}.py"
    found: dict[int, list[tuple[str | None, str]]] = {}
    if file.exists():
        parts = _HEADER.split(file.read_text("utf-8"))
        for number, _, wrong, code in zip(parts[1::4], parts[2::4], parts[3::4], parts[4::4], strict=True):
            found.setdefault(int(number), []).append((wrong, code.strip()))
    return found


def exercises(path: Path, cells: list[Any]) -> Iterator[Exercise]:
    """The exercises of a notebook; each must have a check, an answer and a wrong answer."""
    answers = _answers(path)
    for index, cell in enumerate(cells):
        for tag in cell.metadata.get("tags", ()):
            if not tag.startswith("exercise-"):
                continue
            number = int(tag.removeprefix("exercise-"))
            assert has_tag(cells[index + 1], f"check-{number}"), f"the cell after {tag} is not its check"
            right = tuple(code for wrong, code in answers.get(number, ()) if wrong is None)
            wrong = [(piece, code) for piece, code in answers.get(number, ()) if piece is not None]
            assert right, f"{tag} has no answer"
            assert wrong, f"{tag} has no wrong answer"
            yield Exercise(number, index, right, tuple(wrong))


async def _refused(kernel: Kernel, check: Any, index: int) -> str:
    """Run a check that must not pass, and return what it says."""
    with pytest.raises(CellError) as caught:
        await kernel.execute(check, index)
    assert caught.value.raised == "AssertionError", str(caught.value)
    return caught.value.said


async def _try(kernel: Kernel, cells: list[Any], exercise: Exercise) -> None:
    at, check = exercise.index, cells[exercise.index + 1]
    assert await _refused(kernel, check, at + 1), "the check says nothing"
    for piece, code in exercise.wrong:
        await kernel.execute(nbformat.v4.new_code_cell(code, id="wrong"), at)
        said = await _refused(kernel, check, at + 1)
        assert piece in said, f"instead of {piece!r} the check says: {said}"
    for code in exercise.right:
        await kernel.execute(nbformat.v4.new_code_cell(code, id="answer"), at)
        await kernel.execute(check, at + 1)
        assert "Right" in "".join(output.get("text", "") for output in check.outputs)


def _kinds(cell: Any) -> set[str]:
    """What kinds of output a cell has: streams, errors, and of the rest what they can be shown as."""
    return {
        kind
        for output in cell.outputs
        for kind in output.get("data", {output.get("name", "error"): None})
        if kind != "stderr"
    }


async def _work_through(path: Path) -> None:
    notebook, committed = read(path), read(path)
    at = {exercise.index: exercise for exercise in exercises(path, list(notebook.cells))}
    async with open_kernel(notebook) as kernel:
        for index, cell in enumerate(committed.cells):
            if cell.cell_type != "code" or has_tag(cell, "check-"):
                continue
            await kernel.execute(notebook.cells[index], index)
            assert _kinds(notebook.cells[index]) == _kinds(cell), f"cell {cell.id!r} shows something else"
            if index in at:
                await _try(kernel, notebook.cells, at[index])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")  # of the libraries that drive the kernel
@each
def test_a_reader_works_through_it(path: Path) -> None:
    """Each cell runs and shows what it is committed with; each check refuses what is wrong, and only that."""
    asyncio.run(_work_through(path))  # nbclient's own execute() leaves a loop behind


@each
def test_form(path: Path) -> None:
    """It begins with a question and `%autoawait trio`, ends with what to keep, and its cells have ids."""
    cells = list(read(path).cells)
    code = [cell for cell in cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert code[0].source == "%autoawait trio"
    assert text.count("**Question.**") == 1 and text.count("**Keep this.**") == 1
    assert len({cell.id for cell in cells}) == len(cells)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", cell.id) for cell in cells)
    assert not any(re.fullmatch(r"[0-9a-f]{8}", cell.id) for cell in cells), "an id that a program made up"


@each
def test_exercises(path: Path) -> None:
    """Each exercise has a check, an answer and a wrong one, and each answer an exercise; asserts say why."""
    cells = list(read(path).cells)
    found = list(exercises(path, cells))
    assert found or path.stem in NO_EXERCISE_NEEDED
    assert [exercise.number for exercise in found] == list(range(1, len(found) + 1))
    assert set(_answers(path)) == {exercise.number for exercise in found}
    for exercise in found:
        for node in ast.walk(ast.parse(cells[exercise.index + 1].source)):
            assert not isinstance(node, ast.Assert) or node.msg is not None, "an assert that says nothing"


_ABSOLUTE = re.compile(r"""(?:^|[\s"'(\[=])(?:~|/[\w.-]+)/[\w./-]+""", re.MULTILINE)


def _texts(cell: Any) -> Iterator[str]:
    for output in cell.outputs:
        data = output.get("data", {})
        yield from (data[kind] for kind in data if kind.startswith("text/"))
        yield from [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", ())]


@each
def test_committed_outputs(path: Path) -> None:
    """Every cell but the checks was run; nothing shows a path or an error that is not meant to be shown."""
    notebook = read(path)
    count = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if has_tag(cell, "check-"):
            assert not cell.outputs and cell.execution_count is None, f"check {cell.id!r} has outputs"
            continue
        count += 1
        assert cell.execution_count == count, f"cell {cell.id!r} was not run in its turn"
        is_error = any(output.output_type == "error" for output in cell.outputs)
        assert is_error == has_tag(cell, "raises-exception"), f"cell {cell.id!r} raises, or does not"
        for text in map(plain, _texts(cell)):
            assert "ipykernel_" not in text, f"cell {cell.id!r}"
            assert not (path_shown := _ABSOLUTE.search(text)), f"cell {cell.id!r} shows {path_shown}"
    assert written(notebook) == path.read_text("utf-8"), "python -m notebooks.build writes it otherwise"


@each
def test_pictures(path: Path) -> None:
    """Pictures are small enough to be committed, and fit on a screen."""
    for cell in read(path).cells:
        for output in cell.get("outputs", ()):
            if text := output.get("data", {}).get("image/png"):
                picture = base64.b64decode(text)
                (width,) = struct.unpack_from(">I", picture, 16)
                assert len(picture) <= LARGEST_PICTURE, f"cell {cell.id!r}: {len(picture)} bytes"
                assert width <= WIDEST_PICTURE, f"cell {cell.id!r}: {width} pixels wide"
