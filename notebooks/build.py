"""Turns the notebooks' cells into notebooks with outputs, in place, as they are committed.

It does not know what is right: exercises stay as they are, unsolved, and their checks are not run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from importlib import import_module
from pathlib import Path

from nbformat import NotebookNode

from notebooks.kernel import NOTEBOOKS, CellError, has_tag, make_portable, open_kernel, read, written

EXAMPLES = """examples:
  python -m notebooks.build            all of them
  python -m notebooks.build 03 07      those whose names begin so

It runs the cells of each in a new kernel, from top to bottom, and writes the notebook back with what they
show; what only this machine has (folders, addresses) is taken out. A notebook in which a cell raises that
has no tag raises-exception is left as it was, and named. Needs pip install '.[notebooks]'.
"""


async def execute(notebook: NotebookNode) -> str:
    """Run all cells of a notebook but the checks, which then have outputs as they are committed.

    Returns:
        Which cell took longest, and how long.

    Raises:
        CellError: one raised and was not to; its text says which.
    """
    slowest = (0.0, "")
    async with open_kernel(notebook) as kernel:
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            cell.outputs, cell.execution_count = [], None
            if has_tag(cell, "check-"):
                continue
            start = time.perf_counter()
            await kernel.execute(cell, index)
            slowest = max(slowest, (time.perf_counter() - start, cell.id))
            for output in cell.outputs:
                make_portable(output)
    return f"longest: {slowest[1]}, {slowest[0]:.1f} s"


def build(path: Path) -> str:
    """Run a notebook and write it back with its outputs; see `execute`."""
    notebook = read(path)
    about = asyncio.run(execute(notebook))
    path.write_text(written(notebook), "utf-8")
    return about


def chosen(beginnings: list[str]) -> list[Path]:
    """Return the notebooks whose names begin so; all, if there is no beginning.

    Raises:
        SystemExit: there is none that begins so.
    """
    for beginning in beginnings:
        if not any(path.name.startswith(beginning) for path in NOTEBOOKS):
            raise SystemExit(f"no notebook begins with {beginning!r}: {', '.join(p.stem for p in NOTEBOOKS)}")
    return [path for path in NOTEBOOKS if not beginnings or path.name.startswith(tuple(beginnings))]


def main() -> None:
    """Build what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m notebooks.build",
        description="Run the notebooks and write them back with their outputs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("NN", nargs="*", help="how a notebook's name begins; none: all of them")
    paths = chosen(parser.parse_args().NN)
    import_module("matplotlib.font_manager")  # the first import on a machine says in the cell that it is slow
    failed: list[str] = []
    begun = time.perf_counter()
    for path in paths:
        start = time.perf_counter()
        print(f"{path.stem} ...", end=" ", flush=True)
        try:
            about = build(path)
        except CellError as exc:
            failed.append(path.stem)
            print(f"FAILED\n{path.name}, {exc}", file=sys.stderr, flush=True)
        else:
            print(f"{time.perf_counter() - start:.1f} s ({about})", flush=True)
    print(f"{len(paths) - len(failed)} of {len(paths)} built in {time.perf_counter() - begun:.1f} s")
    if failed:
        raise SystemExit(f"not built: {', '.join(failed)}")


if __name__ == "__main__":
    main()
