"""`python -m notebooks.build`: what it writes, what it leaves alone, and what it says."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat

from notebooks.build import build, chosen
from notebooks.kernel import CellError, package_folder, portable, read

v4: Any = nbformat.v4


def _write(path: Path, **cells: str) -> None:
    """A notebook whose cells have these ids; the word before a colon is a tag."""
    notebook = v4.new_notebook(metadata={"kernelspec": {"name": "another", "display_name": "Another"}})
    for name, source in cells.items():
        tag, _, code = source.rpartition(": ")
        cell = v4.new_code_cell(code, id=name, metadata={"collapsed": True})
        if tag:
            cell.metadata["tags"] = [tag]
        notebook.cells.append(cell)
    nbformat.write(notebook, path)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that drive the kernel
def test_it_writes_what_cells_show(tmp_path: Path) -> None:
    """Cells have their outputs, of isolates too, without folders; checks have none; another's metadata go."""
    path = tmp_path / "01_try.ipynb"
    _write(
        path,
        trio="%autoawait trio",
        prints="from trio_isolates import run\nawait run(print, 'from an isolate')",
        meant="raises-exception: 1 / 0",
        folder="import trio_isolates\nprint(trio_isolates.__file__)",
        check="check-1: print('Right')",
    )
    build(path)
    notebook = read(path)
    _, prints, meant, folder, check = notebook.cells
    assert [output.text for output in prints.outputs] == ["from an isolate\n"]
    assert [output.ename for output in meant.outputs] == ["ZeroDivisionError"]
    assert folder.outputs[0].text == "trio_isolates/__init__.py\n"
    assert check.outputs == [] and check.execution_count is None
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.metadata for cell in notebook.cells if cell is not meant and cell is not check] == [{}] * 3


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("from trio_isolates import run\nawait run(int, 'x')", "cell 'bad': ValueError: invalid literal"),
        ("raises-exception: 1", "cell 'bad' has the tag raises-exception, and did not raise"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "cell 'bad' had no end: DeadKernelError"),
    ],
    ids=["raises", "does not raise", "dies"],
)
def test_a_cell_that_fails(tmp_path: Path, source: str, says: str) -> None:
    """The cell is named, with what went wrong, and the file is as it was."""
    path = tmp_path / "01_try.ipynb"
    _write(path, trio="%autoawait trio", bad=source)
    before = path.read_bytes()
    with pytest.raises(CellError) as caught:
        build(path)
    assert str(caught.value).startswith(says)
    assert path.read_bytes() == before


def test_portable() -> None:
    """Cells, the package, the standard library and addresses are the same on all machines."""
    library = sysconfig.get_path("stdlib")
    text = (
        f'File "/tmp/x/ipykernel_12/34.py", line 1\nFile "{package_folder()}/trio_isolates/_run.py"\n'
        f'File "{library}/json/decoder.py"\n<object at 0x7f00>'
    )
    assert portable(text) == (
        'File "<cell>", line 1\nFile "trio_isolates/_run.py"\nFile "json/decoder.py"\n<object at 0x...>'
    )


def test_chosen() -> None:
    """A number chooses; none chooses all; one that no notebook has is named."""
    assert [path.stem for path in chosen(["00", "02_n"])] == ["00_map", "02_nothing_is_shared"]
    assert len(chosen([])) >= 4
    with pytest.raises(SystemExit, match="no notebook begins with '77': 00_map, "):
        chosen(["00", "77"])
