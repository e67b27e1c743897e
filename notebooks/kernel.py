"""Turns a notebook's cells into what they show, in a kernel of the running interpreter's own.

It does not know what the cells teach, nor which of them are exercises.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, final

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))

CELL_SECONDS = 120
"""What one cell may take, on the slowest machine."""


def read(path: Path) -> NotebookNode:
    """Return a notebook, checked against the format's own schema."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def has_tag(cell: NotebookNode, beginning: str) -> bool:
    """Say whether a cell has a tag that begins so."""
    return any(tag.startswith(beginning) for tag in cell.metadata.get("tags", ()))


@final
class CellError(Exception):
    """A cell has not done what it is there for: it raised, or should have, or took too long.

    Attributes:
        raised: the name of the exception's type; empty if the kernel was at fault.
        said: the exception's text, or what the kernel did.
    """

    def __init__(self, cell: NotebookNode, raised: str, said: str, traceback: str = "") -> None:
        text = f"cell {cell.id!r}: {raised}: {said}" if raised else f"cell {cell.id!r} {said}"
        super().__init__(f"{text}\n{traceback}".rstrip())
        self.raised = raised
        self.said = said


@final
class _OwnInterpreter(KernelSpecManager):
    """Knows one kernel: that of the interpreter that runs this, whatever is installed on the machine."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


@final
class Kernel:
    """Where the cells of one notebook run, one after the other."""

    def __init__(self, client: NotebookClient) -> None:
        self._client = client

    async def execute(self, cell: NotebookNode, index: int) -> None:
        """Run a code cell, which then has its outputs, as they were shown.

        Args:
            cell: it; one with the tag "raises-exception" has to raise.
            index: its place in the notebook.

        Raises:
            CellError: it raised and was not to, or the other way round; it took too long; or the kernel died.
        """
        try:
            await self._client.async_execute_cell(cell, index)
        except CellExecutionError as exc:
            raise CellError(cell, exc.ename, exc.evalue, plain(exc.traceback)) from None
        except (CellControlSignal, DeadKernelError) as exc:
            raise CellError(cell, "", f"had no end: {type(exc).__name__}: {exc}") from None
        is_error = any(output.output_type == "error" for output in cell.outputs)
        if has_tag(cell, "raises-exception") and not is_error:
            raise CellError(cell, "", "has the tag raises-exception, and did not raise")


@asynccontextmanager
async def open_kernel(notebook: NotebookNode) -> AsyncIterator[Kernel]:
    """Start a kernel for a notebook, and stop it in the end; its working directory is the notebooks' own."""
    with tempfile.TemporaryDirectory(prefix="nb-", ignore_cleanup_errors=True) as folder:
        kernels = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=_OwnInterpreter(),
            connection_file=f"{folder}/kernel.json",
        )
        client = NotebookClient(
            notebook,
            km=kernels,
            timeout=CELL_SECONDS,
            startup_timeout=CELL_SECONDS,
            coalesce_streams=True,
            record_timing=False,
            shutdown_kernel="immediate",  # all that its cells have started is gone
            resources={"metadata": {"path": str(FOLDER)}},
            extra_arguments=["--IPKernelApp.log_level=40"],
        )
        # What isolates print is shown twice: by the notebook, which counts, and by the kernel's own stdout.
        async with client.async_setup_kernel(env=_environment(folder), stdout=DEVNULL, cleanup_kc=True):
            yield Kernel(client)


def _environment(folder: str) -> dict[str, str]:
    """The kernel's environment: the package is the one that is imported here, and nobody's settings count."""
    # With the first, the kernel hides what isolates print; with the second, pictures open windows; with the
    # last, a notebook does not find its lesson.
    without = {"PYTEST_CURRENT_TEST", "MPLBACKEND", "PYTHONSAFEPATH"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(package_folder()) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        paths.insert(0, str(package_folder()))
    return {**environment, "IPYTHONDIR": folder, "TMPDIR": folder, "PYTHONPATH": os.pathsep.join(paths)}


def package_folder() -> Path:
    """Return the folder from which the package is imported."""
    spec = find_spec("trio_isolates")
    if spec is None or spec.origin is None:
        raise ImportError("trio_isolates cannot be imported here: pip install '.[notebooks]'")
    return Path(spec.origin).resolve().parent.parent


_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_CELL = re.compile(r"/[\w./+-]*ipykernel_\d+/\d+\.py")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def plain(text: str) -> str:
    """Return a text without colours."""
    return _ANSI.sub("", text)


def _folders() -> list[str]:
    paths = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {path.resolve() for path in paths} | {package_folder(), FOLDER, FOLDER.resolve()}
    names = {str(path) for path in paths}
    home = str(Path.home())
    names |= {"~" + name.removeprefix(home) for name in names if name.startswith(home + "/")}
    return sorted((name + "/" for name in names), key=len, reverse=True)


def portable(text: str) -> str:
    """Return a text without what only this machine and this run have in it: folders, addresses."""
    text = _CELL.sub("<cell>", text)
    for folder in _folders():
        text = text.replace(folder, "")
    return _ADDRESS.sub(" at 0x...", text)


def make_portable(output: NotebookNode) -> None:
    """Change all the texts of a cell's output so, and leave pictures as they are."""
    if output.output_type == "stream":
        output.text = portable(output.text)
    elif output.output_type == "error":
        output.evalue = portable(output.evalue)
        output.traceback = [portable(line) for line in output.traceback]
    else:
        output.metadata = NotebookNode()
        for kind, data in output.data.items():
            if kind.startswith("text/"):
                output.data[kind] = portable(data)
            elif kind.startswith("image/"):
                output.data[kind] = data.strip()


def written(notebook: NotebookNode) -> str:
    """Return a notebook's text as it is committed: the same for the same cells and outputs."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
    nbformat.validate(notebook)
    text: Any = nbformat.writes(notebook)
    return f"{text.rstrip()}\n"
