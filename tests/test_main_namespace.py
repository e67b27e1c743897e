"""Programs without a main guard, in a script, at a prompt and in a notebook: what is in `__main__` works."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from fifo import within
from programs import environment, running
from trio_isolates import run

DEFINITIONS = """
import trio
from trio_isolates import open_pool, open_worker, run

class MyError(Exception):
    pass

class Point:
    made = 0
    def __init__(self, x):
        self.x = x
    def double(self):
        return Point(self.x * 2)
    def __eq__(self, other):
        return type(self) is type(other) and self.x == other.x
    __hash__ = None

class Slotted:
    __slots__ = ("x",)
    def __init__(self, x):
        self.x = x

counter = 0
offset = 10

def init():
    global counter
    counter += 100

def handler(x):
    global counter
    counter += 1
    if x is None:
        raise MyError("none")
    return counter, x + offset

def read():
    return counter

def touch():
    Point.made = 99
    return Point

"""

USE = """
async def main():
    async with open_worker(handler, init=init) as worker:
        assert await worker.call(1) == (101, 11)
        assert await worker.run(read) == 101  # init, handler and run functions share globals
        assert await worker.run(lambda: counter) == 101
        try:
            await worker.call(None)
        except MyError as exc:
            assert exc.args == ("none",)
        else:
            raise AssertionError
    point = await run(Point(4).double)
    assert type(point) is Point and point == Point(8)
    slotted = await run(lambda: Slotted(3))
    assert type(slotted) is Slotted and slotted.x == 3
    assert await run(touch) is Point
    assert Point.made == 0  # the parent's class is never written to
    assert counter == 0
    add = 5
    async with open_pool(lambda x: x + add, workers=2) as pool:
        assert await pool.map(range(4)) == [5, 6, 7, 8]

"""


@within(30)
async def test_unguarded_script(tmp_path: Path) -> None:
    """A script without a main guard is run once, and its functions, lambdas and classes work in isolates."""
    script = "print('RUN')\n" + DEFINITIONS + USE + "trio.run(main)\nprint('DONE')\n"
    async with running(tmp_path, script) as program:
        text = await program.rest()
        assert program.process.returncode == 0, text
        assert text.split() == ["RUN", "DONE"]
        assert list(program.temporary.iterdir()) == []


def test_prompt(tmp_path: Path) -> None:
    """The same lines, fed to an interactive interpreter."""
    lines = _as_typed(DEFINITIONS + USE) + "trio.run(main)\nprint('DO' + 'NE')\n"
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(),
        cwd=tmp_path,
        check=False,
    )
    assert "DONE" in done.stdout, done.stderr
    assert "Error" not in done.stderr


def _as_typed(code: str) -> str:
    """As one would type it: no blank line inside of a block, one after it."""
    lines: list[str] = []
    for line in code.splitlines():
        if not line.strip():
            continue
        is_top = not line.startswith(" ")
        if is_top and lines and lines[-1].startswith(" ") and not line.startswith(("else", "except")):
            lines.append("")
        lines.append(line)
    return "\n".join([*lines, "", ""])


def _notebook(*cells: str) -> Any:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]
    return notebook


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that drive the kernel
def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the cells of a notebook that begins with `%autoawait trio`; prints are its output."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)  # with it, the kernel hides what isolates print
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "TMPDIR"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    notebook = _notebook(
        "%autoawait trio",
        DEFINITIONS,
        USE,
        "await main()",
        "print(await run(lambda: print('from the isolate') or 'from the cell'))",
    )
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=30, kernel_name="python3", resources=resources)
    asyncio.run(client.async_execute())  # its own execute() leaves a loop behind
    for cell in notebook.cells:
        assert all(output["output_type"] != "error" for output in cell.outputs), cell.outputs
    text = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    # Two pipes: a line of one may stand in the middle of a line of the other.
    assert sorted(text) == sorted("from the cell\nfrom the isolate\n")
    assert "from the cell" in text and "from the isolate" in text


@within(30)
async def test_an_isolates_main_is_its_own(tmp_path: Path) -> None:
    """What an isolate changes in `__main__` stays there for its whole life, whatever arrives."""
    script = """
        import trio
        from trio_isolates import open_worker
        number = 1
        def bump():
            global number
            number += 1
            return number
        def get():
            return number
        async def main():
            async with open_worker() as worker:
                assert await worker.run(bump) == 2
                assert await worker.run(get) == 2
                assert await worker.run(lambda: number) == 2
                assert get() == 1
            async with open_worker() as worker:
                assert await worker.run(get) == 1
        trio.run(main)
        print("DONE")
    """
    async with running(tmp_path, script) as program:
        assert await program.rest() == "DONE\n"
    assert await run(abs, -1) == 1


@within(30)
async def test_a_class_that_was_passed_on(tmp_path: Path) -> None:
    """A class that goes from isolate to isolate by ports, relayed or direct, is one class everywhere."""
    script = """
        import trio
        from trio_isolates import ReceivePort, open_isolate
        class Point:
            def __init__(self, x):
                self.x = x
        async def pass_on(out, home):
            port = ReceivePort()
            await out.send(port.send_port)
            async for point in port:
                if point is None:
                    return
                assert type(point) is Point
                await home.send(point)
        def make(to, count):
            for number in range(count):
                to.send_sync(Point(number))
        async def make_async(to, count):
            for number in range(count):
                await to.send(Point(number))
        async def main():
            out, home = ReceivePort(), ReceivePort()
            async with open_isolate(pass_on, out.send_port, home.send_port):
                to = await out.receive()
                for source in (make, make_async):
                    async with open_isolate(source, to, 100):
                        for number in range(100):
                            point = await home.receive()
                            assert type(point) is Point and point.x == number
                await to.send(None)
        trio.run(main)
        print("DONE")
    """
    async with running(tmp_path, script) as program:
        assert await program.rest() == "DONE\n"
