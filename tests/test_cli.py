"""The command line as its users see it: whole programs, their output, their exit status, their terminal."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from programs import environment
from trio_isolates._cli import _human, _Table, main
from trio_isolates._documents import Summary

COMMAND = [sys.executable, "-W", "error", "-m", "trio_isolates"]
# On [1] this takes many seconds and then gigabytes; on [] nothing.
ENDLESS = " | ".join(["[@,@][]"] * 26)


def finished(
    command: Sequence[str],
    cwd: Path | None = None,
    stdin: bytes = b"",
    stdout: int | BinaryIO = subprocess.PIPE,
) -> tuple[int, str, str]:
    """Run it to its end: its exit status, what it wrote to stdout, and to stderr."""
    with subprocess.Popen(
        command, cwd=cwd, env=environment(), stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE
    ) as process:
        out, err = process.communicate(stdin, timeout=50)
    return process.returncode, (out or b"").decode(), err.decode()


def run(*args: str, cwd: Path | None = None, stdin: bytes = b"") -> tuple[int, str, str]:
    return finished([*COMMAND, *args], cwd, stdin)


@contextmanager
def started(*args: str, cwd: Path, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*COMMAND, *args],
        cwd=cwd,
        env=environment(),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()  # or a test that fails would wait for its end


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def busy_worker(process: subprocess.Popen[bytes]) -> psutil.Process:
    """Wait until one of its workers has computed for a while."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in below(process):
            with suppress(psutil.NoSuchProcess):  # it may end while it is looked at
                if child.cpu_times().user > 0.5:
                    return child
        time.sleep(0.02)
    pytest.fail("no worker is busy")


def all_end(processes: Sequence[psutil.Process]) -> bool:
    """Wait for their end; who has lost its parent may stay a zombie until init looks after it."""
    deadline = time.monotonic() + 5
    for process in processes:
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
                return False
        finally:
            os.close(fd)
    return True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good documents and bad ones."""
    (tmp_path / "data").mkdir()
    contents = {
        "data/a.json": b'{"name": "Ann", "items": [1, 2]}',
        "data/bad.json": b'{"a": 1,\n "b" 2}',
        "data/c.json.gz": gzip.compress(b'["x", "y", "z"]'),
        "data/empty.json": b"",
        "data/latin.json": b'"caf\xe9"',
        "data/n.json": b"12.5",
        "data/notes.txt": b"no JSON",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


BAD = """\
data/bad.json:2:6: Expecting ':' delimiter, not '2'
data/empty.json:1:1: empty document
data/latin.json:1:5: not UTF-8: byte 0xe9 at offset 4
"""


def test_a_folder_becomes_a_table(folder: Path) -> None:
    """Good documents are rows on stdout in order, bad ones lines on stderr, and the status says so."""
    status, out, err = run("parse", "data", cwd=folder)
    assert (status, err) == (1, BAD)
    assert [line.split()[:5] for line in out.splitlines()] == [
        ["path", "bytes", "type", "length", "ms"],
        ["data/a.json", "32", "B", "object", "2"],
        ["data/c.json.gz", "15", "B", "array", "3"],
        ["data/n.json", "4", "B", "number", "-"],
    ]
    assert len({len(line) for line in out.splitlines()}) == 1  # aligned
    assert out.isascii()  # no boxes


def test_ndjson_has_an_object_for_each_good_document(folder: Path) -> None:
    """In the order of the paths, with the workers' milliseconds."""
    status, out, err = run("parse", "data/n.json", "data", "--output", "ndjson", "--workers", "2", cwd=folder)
    assert (status, err) == (1, "trio-isolates: named more than once, parsed once: data/n.json\n" + BAD)
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(row.pop("ms") >= 0 for row in rows)
    assert rows == [
        {"path": "data/n.json", "bytes": 4, "type": "number", "length": None},
        {"path": "data/a.json", "bytes": 32, "type": "object", "length": 2},
        {"path": "data/c.json.gz", "bytes": 15, "type": "array", "length": 3},
    ]


def test_selected_values_are_ndjson(folder: Path) -> None:
    """One value a line, null included; options may stand between paths."""
    paths = ["data/a.json", "--output", "ndjson", "data/c.json.gz", "--select", "items", "data/n.json"]
    assert run("parse", *paths, cwd=folder) == (0, "[1,2]\nnull\nnull\n", "")


def test_selected_values_are_a_column(folder: Path) -> None:
    """The table has room for it at its end."""
    status, out, err = run("parse", "data/a.json", "data/c.json.gz", "--select", "@", cwd=folder)
    assert (status, err) == (0, "")
    assert [line.split()[-1] for line in out.splitlines()] == [
        "selected",
        '{"name":"Ann","items":[1,2]}',
        '["x","y","z"]',
    ]


def test_standard_input_takes_its_place_among_the_paths(folder: Path) -> None:
    """Compressed or not, once."""
    for content in b"[[], []]", gzip.compress(b"[[], []]"):
        status, out, err = run("parse", "data/n.json", "-", "data/a.json", "-", cwd=folder, stdin=content)
        assert (status, err) == (0, "trio-isolates: named more than once, parsed once: -\n")
        assert [line.split()[0] for line in out.splitlines()] == ["path", "data/n.json", "-", "data/a.json"]
        assert out.splitlines()[2].split()[1:5] == ["8", "B", "array", "2"]
    assert run("parse", "-") == (1, "", "-:1:1: empty document\n")


def test_what_cannot_be_found_does_not_stop_the_rest(folder: Path) -> None:
    """One line each, and the status says so; where nothing is left there is no table."""
    problems = "gone.json: no such file or folder\n*.xml: no document matches this pattern\n"
    status, out, err = run("parse", "gone.json", "*.xml", "data/n*.json", cwd=folder)
    assert (status, err, len(out.splitlines())) == (1, problems, 2)
    assert run("parse", "gone.json", "*.xml", cwd=folder) == (1, "", problems)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "required: COMMAND"),
        (["prase"], "invalid choice: 'prase'"),
        (["parse"], "required: PATH"),
        (["parse", ".", "--workers", "0"], "argument --workers: '0' is not a whole number from 1"),
        (
            ["parse", ".", "--workers", "9999"],
            "argument --workers: '9999' is not a whole number from 1 to 1024",
        ),
        (["demo", "--megabytes", "x"], "argument --megabytes: 'x' is not a whole number from 1"),
        (["parse", ".", "--max-size", "1T"], "argument --max-size: '1T' is not a size like 500k, 20M or 2G"),
        (["parse", ".", "--output", "xml"], "argument --output: invalid choice: 'xml'"),
        (
            ["parse", ".", "--select", "a.#"],
            "argument --select: Unknown token #, at column 3\n  a.#\n    ^\n",
        ),
        (["parse", ".", "--select", ""], "argument --select: it is empty\n"),
    ],
)
def test_wrong_usage_is_told_at_once(
    capsys: pytest.CaptureFixture[str], args: Sequence[str], text: str
) -> None:
    """Status 2, what is wrong and where, nothing done."""
    with pytest.raises(SystemExit) as info:
        main(args)
    out, err = capsys.readouterr()
    assert (info.value.code, out) == (2, "")
    assert text in err


@pytest.mark.parametrize("args", [["--help"], ["demo", "--help"], ["parse", "--help"]])
def test_help_has_examples(capsys: pytest.CaptureFixture[str], args: Sequence[str]) -> None:
    """For each command, in 80 columns, with the exit status."""
    with pytest.raises(SystemExit) as info:
        main(args)
    out, err = capsys.readouterr()
    assert (info.value.code, err) == (0, "")
    assert "examples:\n  trio-isolates " in out
    assert "exit status: 0 " in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the installed package, if it is installed."""
    with pytest.raises(SystemExit) as info:
        main(["--version"])
    assert info.value.code == 0
    assert re.fullmatch(r"trio-isolates (\d+\.\d+\S*|\(not installed\))\n", capsys.readouterr().out)


@pytest.mark.parametrize("missing", ["rich", "jmespath"])
def test_the_extra_is_asked_for_when_it_is_missing(missing: str) -> None:
    """In one line; --help needs no extra."""
    hide = f"import sys; sys.modules[{missing!r}] = None"
    command = [sys.executable, "-c", f"{hide}; from trio_isolates._cli import main; sys.exit(main())"]
    hint = "trio-isolates: this command needs the 'cli' extra: pip install 'trio-isolates[cli]'\n"
    assert finished([*command, "parse", "."]) == (2, "", hint)
    status, out, err = finished([*command, "--help"])
    assert (status, err, out[:6]) == (0, "", "usage:")


def test_importing_the_package_imports_no_extra() -> None:
    """Nor does the command line, until it has something to do."""
    script = "import sys, trio_isolates._cli; print({'rich', 'jmespath', 'msgspec'} & set(sys.modules))"
    assert finished([sys.executable, "-c", script]) == (0, "set()\n", "")


def test_a_worker_that_dies_costs_its_document_only(tmp_path: Path) -> None:
    """The document whose parsing killed it is one line; the others come."""
    for name, content in ("a.json", "[]"), ("b.json", "[1]"), ("c.json", "[]"):
        (tmp_path / name).write_text(content)
    with started(
        "parse", ".", "--select", ENDLESS, "--output", "ndjson", "--workers", "1", cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"[]\n"
        busy_worker(process).kill()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, b"[]\n")
    assert err == b"./b.json: its worker died while parsing it (SIGKILL: out of memory?)\n"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_it_while_it_waits_for_input(tmp_path: Path, number: int, status: int) -> None:
    """At once, with all its processes, and in one line."""
    (tmp_path / "a.json").write_text("[]")
    read_end, write_end = os.pipe()
    try:
        with started("parse", "a.json", "-", cwd=tmp_path, stdin=read_end) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"path")
            assert process.stdout.readline().startswith(b"a.json")
            children = below(process)
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=10)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert (process.returncode, out) == (status, b"")
    # The signal has killed the forkserver, too, and then a worker may say that nobody heard its farewell.
    assert err.endswith(b"trio-isolates: interrupted\n")
    assert children
    assert all_end(children)


def test_ctrl_c_ends_busy_workers_at_once(tmp_path: Path) -> None:
    """Workers that compute are killed, not asked."""
    (tmp_path / "a.json").write_text("[1]")
    with started("parse", "a.json", "--select", ENDLESS, cwd=tmp_path) as process:
        worker = busy_worker(process)
        children = below(process)
        sent = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=10)
        took = time.monotonic() - sent
    assert (process.returncode, out, err) == (130, b"", b"trio-isolates: interrupted\n")
    assert took < 2
    assert worker in children
    assert all_end(children)


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """As in `| head -1`: it ends quietly."""
    for name in "abcdef":
        (tmp_path / f"{name}.json").write_text(json.dumps("x" * 10**6))
    with started("parse", ".", "--output", "ndjson", "--select", "@", cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert (process.wait(timeout=30), err) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """In one line, and the status says so."""
    (tmp_path / "a.json").write_text("[]")
    with open("/dev/full", "wb") as full:
        result = finished([*COMMAND, "parse", "a.json"], tmp_path, stdout=full)
    assert result == (1, "", "trio-isolates: cannot write: No space left on device\n")


class Terminal:
    """A program on a terminal of 80 columns."""

    def __init__(self, *args: str, cwd: Path) -> None:
        self.output = b""
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        env = {**environment(), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [*COMMAND, *args],
            cwd=cwd,
            env=env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def wait_for(self, text: bytes) -> None:
        while text not in self.output:
            assert self._more(), f"it ended: {self.output!r}"

    def finish(self) -> int:
        while self._more():
            pass
        os.close(self._fd)
        return self.process.wait(timeout=10)

    def _more(self) -> bool:
        assert select.select([self._fd], [], [], 30)[0], f"nothing happens: {self.output!r}"
        try:
            more = os.read(self._fd, 65536)
        except OSError:  # EIO: nobody has it open any more
            return False
        self.output += more
        return bool(more)

    def is_usable(self) -> bool:
        """The cursor is shown, and stands at the beginning of a line."""
        shown = self.output.rfind(b"\x1b[?25h") > self.output.rfind(b"\x1b[?25l")
        return shown and plain(self.output).endswith("\n")


def plain(output: bytes) -> str:
    """What is left on the screen: no erased lines, no colours."""
    kept = re.sub(r"[^\n]*\n[^\n]*\x1b\[1A\x1b\[2K|[^\n]*\x1b\[2K", "", output.decode())
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", kept)


def test_a_progress_bar_on_a_terminal(folder: Path) -> None:
    """It stands below rows and problems while it works, goes, and leaves the cursor and one line of sums."""
    terminal = Terminal("parse", "data", cwd=folder)
    assert terminal.finish() == 1
    assert re.search(r"parsing .*━.*6/6.* 51 B", terminal.output.decode())
    assert terminal.is_usable()
    text = plain(terminal.output)
    assert "━" not in text
    rows = re.findall(r"^data/\S+?(?=[ :])|^6 documents, 3 bad, 51 B in \d+\.\d s$", text, re.MULTILINE)
    names = ["a.json", "bad.json", "c.json.gz", "empty.json", "latin.json", "n.json"]
    assert rows[:-1] == [f"data/{name}" for name in names]
    assert rows[-1].startswith("6 documents")


def test_ctrl_c_leaves_the_terminal_usable(tmp_path: Path) -> None:
    """The bar goes, the cursor comes back, the status is 130."""
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "b.json").write_text("[1]")
    terminal = Terminal("parse", ".", "--select", ENDLESS, cwd=tmp_path)
    terminal.wait_for(b"a.json")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.output.endswith(b"trio-isolates: interrupted\r\n")
    assert terminal.is_usable()


def test_no_bar_while_a_person_types(tmp_path: Path) -> None:
    """`parse -` on a terminal: the bar would draw over what is typed."""
    terminal = Terminal("parse", "-", cwd=tmp_path)
    os.write(terminal._fd, b"[1]\n\x04")
    assert terminal.finish() == 0
    assert "━" not in terminal.output.decode()


def row(table: _Table, name: str, selected: bytes | None = None) -> str:
    return table.row(Summary(name, 12345, "array", 1234567, 1.23456, selected))


def test_tables_fit_80_columns() -> None:
    """Long names lose their beginning, selected values their end; wide characters count twice."""
    names = ["a.json", "/".join(["folder"] * 20) + "/b.json", "文件" * 3 + ".json"]
    for selected in None, b'"' + b"x" * 300 + b'"':
        table = _Table(names, 80, selected is not None)
        rows = [row(table, name, selected) for name in names]
        assert all(len(line) <= 80 for line in rows)
        assert [line.index("12.3 kB") + line.count("文") + line.count("件") for line in rows] == [
            table.header.index("bytes") - 2
        ] * 3
        assert rows[1].split()[0].startswith("…")
        assert rows[1].split()[0].endswith("folder/b.json")
        assert selected is None or rows[0].endswith("x…")


def test_tables_elsewhere_cut_nothing() -> None:
    """A long name pushes its own row only."""
    name = "x" * 100
    table = _Table(["a", name], None, selecting=True)
    assert row(table, name, b"y" * 200).startswith(
        f"{name}   12.3 kB  array    1,234,567   1,234.6  {'y' * 200}"
    )
    assert row(table, "a", b"1").index("12.3") == 43


def test_escape_sequences_do_not_reach_the_terminal() -> None:
    """Neither from names nor from documents."""
    line = row(_Table(["a\x1b"], 80, selecting=True), "a\x1b", b'"\xc2\x9b31m"')
    assert line.isprintable()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_600, "1.0 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    """In powers of 1000."""
    assert _human(size) == text
