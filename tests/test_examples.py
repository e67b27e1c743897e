"""The examples, run as a user would, with small sizes; what they find is counted again by plain loops."""

from __future__ import annotations

import http.client
import json
import re
import signal
import sqlite3
import subprocess
import sys
import wave
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import audio
import search
from programs import environment

# Whole programs, which are slow to start; that they work depends on no version of Python.
pytestmark = pytest.mark.slow

FOLDER = Path(audio.__file__).parent
NAMES = "large_json", "photos", "audio", "search", "database", "many_requests", "service"


def command(script: Path, *arguments: object) -> list[str]:
    workers = [] if script.stem == "database" else ["--workers", "2"]
    return [sys.executable, "-W", "error", str(script), *workers, *map(str, arguments)]


def run(name: str, folder: Path, *arguments: object) -> list[str]:
    """Run an example in a folder; return the lines that it prints. Its bar is quiet, as nobody sees it."""
    done = subprocess.run(
        command(FOLDER / f"{name}.py", *arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str) -> None:
    """Help is what the module says of itself, with command lines to copy."""
    done = subprocess.run(
        command(FOLDER / f"{name}.py", "--help"),
        env={**environment(), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert f"\n    python {name}.py --" in done.stdout


# Far too much to be done soon; each is interrupted after the first line that it prints.
LARGE = {
    "large_json": ["--megabytes", 1000],
    "photos": ["--photos", 5000],
    "audio": ["--seconds", 600],
    "search": ["^$", "--people", 1000, "--most", 10**9],
    "database": ["--rows", 10**9],
    "many_requests": ["--requests", 10**6],
    "service": ["--uploads", 1000],
}


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c(name: str, tmp_path: Path) -> None:
    """Interrupted, also without its main guard, it ends with nothing but a word; nothing is left behind."""
    source = (FOLDER / f"{name}.py").read_text("utf-8")
    unguarded = tmp_path / f"{name}.py"
    unguarded.write_text(
        source.replace('if __name__ == "__main__":\n    start(main)', "start(main)"), "utf-8"
    )
    assert "__main__" not in unguarded.read_text("utf-8")
    env = environment()
    env["PYTHONPATH"] = f"{FOLDER}:{env['PYTHONPATH']}"
    with subprocess.Popen(
        command(unguarded, *LARGE[name]),
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        _, complaints = program.communicate(timeout=30)
    assert (complaints, program.returncode) == ("interrupted\n", 130)


def test_nobody_reads() -> None:
    """When its reader has seen enough (`| head`), it ends, without complaint."""
    with subprocess.Popen(
        command(FOLDER / "search.py", "^", "--most", 10**9, "--people", 1000),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == ""
        assert program.wait(timeout=30) == 0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Without the packages that the examples need, one line says what to install."""
    (tmp_path / "numpy.py").write_text("raise ModuleNotFoundError('none', name='numpy')")
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    done = subprocess.run(
        command(FOLDER / "audio.py"), env=env, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 1
    needs = "this example needs numpy: pip install 'trio-isolates[examples]'"
    assert done.stderr.splitlines()[-1] == f"ImportError: {needs}"
    assert done.stderr.count("Traceback") == 1


def test_large_json(tmp_path: Path) -> None:
    """Each document is a line with its size, its kind and its values; so is one that is no JSON."""
    document = {"a": [1, 2, {"b": None}], "c": "x", "d": {}}  # 8 values with the document itself, on 4 levels
    (tmp_path / "one.json").write_text(json.dumps(document))
    (tmp_path / "two.json").write_text("[1, ")
    (tmp_path / "three.json").write_text("[" + "0," * 2000 + "0]")
    lines = run("large_json", tmp_path, "one.json", "two.json", "three.json", "none.json")
    assert lines[0].startswith("in the main loop: ")
    shown = [re.sub(" +", " ", line) for line in lines]
    assert shown[1] == "one.json 0 kB object with a, c, d 8 values, 4 levels"
    assert lines[2].split()[:2] == ["two.json", "JSONDecodeError:"]
    assert shown[3] == "three.json 4 kB array of 2,001 2,002 values, 2 levels"
    assert lines[4].split()[:2] == ["none.json", "FileNotFoundError:"]
    assert re.fullmatch(
        r"in the pool: \d+\.\d+ s, longest pause of the main loop \d+\.\d ms, in \d+ heartbeats", lines[5]
    )
    assert len(lines) == 6


def test_large_json_makes_documents(tmp_path: Path) -> None:
    """Without documents it makes some, of the size asked for, and leaves none behind."""
    lines = run("large_json", tmp_path, "--documents", 2, "--megabytes", 1)
    assert [line.split()[:3] for line in lines[2:4]] == [[f"orders-{n}.json", "1.0", "MB"] for n in (0, 1)]
    assert list(tmp_path.iterdir()) == []


def test_photos(tmp_path: Path) -> None:
    """Photos become small, and the sheet shows them before and after, side by side."""
    colours = {"red": (200, 30, 20), "blue": (20, 40, 210)}
    for name, colour in colours.items():
        Image.new("RGB", (640, 480), colour).save(tmp_path / f"{name}.png", compress_level=0)
    lines = run("photos", tmp_path, "red.png", "blue.png", "--side", 200, "--to", "small", "--sheet", "s.png")
    size = sum(path.stat().st_size for path in (tmp_path / "small").iterdir())
    assert lines[-1] == f"all 2: 1.8 MB -> {size / 1000:.0f} kB; see s.png"
    for name in colours:
        with Image.open(tmp_path / "small" / f"{name}.webp") as small:
            assert small.size == (200, 150)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (1020, 230)
        for x, name in ((100, "red"), (400, "red"), (600, "blue"), (900, "blue")):
            pixel = np.array(sheet.convert("RGB"))[100, x].astype(int)
            assert np.allclose(pixel, colours[name], atol=8)


def test_photos_are_made(tmp_path: Path) -> None:
    """Without photos it makes landscapes, which are many times smaller afterwards."""
    lines = run("photos", tmp_path, "--photos", 1)
    assert lines[1].startswith("hills-0.jpg ") and lines[2].startswith("all 1: ")
    with Image.open(tmp_path / "photos.png") as sheet:
        assert sheet.size == (516, 230)
        photo = np.array(sheet.convert("L").crop((12, 12, 252, 192)))
    assert photo.max() > 230  # the sun
    assert photo[160:].mean() < photo[70:90].mean() - 20  # the nearest hill is the darkest, unlike the sky


def test_audio(tmp_path: Path) -> None:
    """A pure tone is a bright line at its frequency, and the rest of the picture is dark."""
    rate, tone = 8000, 1000
    sound = (16000 * np.sin(2 * np.pi * tone * np.arange(20 * rate) / rate)).astype("<i2")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.tobytes())
    first, second = run("audio", tmp_path, "tone.wav", "--picture", "tone.png")
    assert first.startswith("20.0 s in 3 pieces, ")
    assert abs(int(second.split()[2].replace(",", "")) - tone) <= rate / audio.WINDOW
    with Image.open(tmp_path / "tone.png") as picture:
        plot = np.array(picture.convert("L").crop((60, 12, 1060, 524)))
    bright = plot.mean(1)
    line = int(np.argmax(bright))
    assert abs(line - 512 * (1 - tone / (rate / 2))) <= 2
    assert np.median(bright) < 10 and bright[line] > 150 and np.std(plot[line]) < 10


def test_audio_is_the_same_however_it_is_cut() -> None:
    """The pieces overlap by one window: together they are the spectrum of the whole."""
    sound = audio.make_chirps(seconds=9)
    parts = [audio.spectrum(piece) for piece in audio.pieces(sound)]
    assert len(parts) == 3
    assert np.array_equal(np.hstack(parts), audio.spectrum(sound))


def make_tree(folder: Path) -> None:
    for number in range(40):
        path = folder / f"part-{number % 4}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"line {n}\n" for n in range(number)), "utf-8")
    (folder / "binary.txt").write_bytes(b"line 7\n\xff")


def test_search(tmp_path: Path) -> None:
    """All hits in all files, and all people, are those that a plain loop finds."""
    make_tree(tmp_path)
    many = "--most", 10**6, "--people", 5000, "--name", "^ann", "--before", 1940
    lines = run("search", tmp_path, "7$", "--under", tmp_path, "--glob", "*.txt", *many)
    people = [
        f"{person.name:20} {person.born}"
        for person in search.make_people(5000)
        if person.name.startswith("ann") and person.born < 1940
    ]
    hits = {
        f"part-{number % 4}/{number}.txt:{n + 1}: line {n}"
        for number in range(40)
        for n in range(number)
        if n % 10 == 7
    }
    assert len(people) > 10
    assert lines[2 : 2 + len(people)] == people
    assert lines[2 + len(people)].startswith(f"{len(people)} people in ")
    assert set(lines[-1 - len(hits) : -1]) == hits
    assert lines[-1].startswith(f"{len(hits)} hits in 41 files in ")


def test_search_ends_early(tmp_path: Path) -> None:
    """As many hits as are enough, of both searches; nobody waits for the rest of an endless file."""
    make_tree(tmp_path)
    lines = run(
        "search", tmp_path, "line", "--under", tmp_path, "--glob", "*.txt", "--most", 3, "--name", "a"
    )
    assert lines.count("... and more") == 2
    assert len([line for line in lines if re.match(r"part-\d/", line)]) == 3
    assert [line[:8] for line in lines if re.match(r"\d+ (people|hits) in", line)] == ["3 people", "3 hits i"]


def test_database(tmp_path: Path) -> None:
    """Queries cancelled half-way leave the file unlocked and as it was, and are answered when asked again."""
    rows, path = 500_000, tmp_path / "sales.db"
    lines = run("database", tmp_path, "--rows", rows, "--file", path)
    totals = [[0, 0, 0] for _ in range(7)]
    for n in range(1, rows + 1):
        total, price = totals[n % 7], n * 7919 % 10007
        total[:] = total[0] + 1, total[1] + price, max(total[2], price)
    shown = [[int(word.replace(",", "")) for word in line.split()] for line in lines[4:11]]
    assert shown == [[shop, *total] for shop, total in enumerate(totals)]
    assert lines[11:15] == [
        "select: cancelled half-way",
        "    locked then: False, now: False",
        "update: cancelled half-way",
        "    locked then: True, now: False",
    ]
    assert lines[16:] == ["    the same as before: True", "    workers killed and replaced: 2"]
    with closing(sqlite3.connect(path, timeout=0)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select count(*), sum(price) from sales").fetchone() == (
            rows,
            sum(total[1] for total in totals),
        )
        database.execute("begin immediate")
    assert [file.name for file in tmp_path.iterdir()] == ["sales.db"]


def test_many_requests(tmp_path: Path) -> None:
    """Every request is accounted for: those answered by their path, and the others by their errors."""
    lines = run("many_requests", tmp_path, "--requests", 100, "--concurrency", 5)
    assert lines[1].startswith("100 answered in ")
    table = {line.split()[0]: line.split()[1:] for line in lines[3:6]}
    assert {path: int(columns[0]) for path, columns in table.items()} == {
        "/quick": 50,
        "/large": 10,
        "/slow": 20,
    }
    assert float(table["/slow"][1]) >= 50  # ms: so long the server waits
    assert lines[6].startswith("10 times /dropped: RemoteProtocolError: ")
    assert lines[7:] == ["10 times /missing: status 404"]


def test_service(tmp_path: Path) -> None:
    """It answers its visitors alike, wherever it parses."""
    lines = run("service", tmp_path, "--megabytes", 2, "--uploads", 1)
    item = len('{"id": 12345, "name": "Zoe", "scores": [1.5, 2.25, 3.125], "active": true},')
    items = 2 * 10**6 // item
    upload = f"  list of {items + 1:,}, {items * item + len('[null]'):,} bytes in "
    assert [line.startswith(upload) for line in lines] == [True, False, True, False]
    for line, where in (lines[1], "in the loop"), (lines[3], "in a pool"):
        median, rare, most = map(float, line.removeprefix(f"/health, parsed {where}").split()[:3])
        assert 0 <= median <= rare <= most


def test_service_for_others(tmp_path: Path) -> None:
    """It answers whoever asks, also what is no JSON and who breaks off, until Ctrl-C."""
    with subprocess.Popen(
        command(FOLDER / "service.py", "--port", 0),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        address = program.stdout.readline().strip().removeprefix("http://")
        with closing(http.client.HTTPConnection(address, timeout=30)) as visitor:
            answers = []
            for path, body in (
                ("/health", None),
                ("/parse", b'{"a": 1}'),
                ("/parse", b"[1, "),
                ("/else", b"x"),
            ):
                visitor.request("GET" if body is None else "POST", path, body)
                response = visitor.getresponse()
                answers.append((response.status, response.read().decode()))
        with closing(http.client.HTTPConnection(address, timeout=30)) as leaver:
            leaver.putrequest("POST", "/parse")
            leaver.putheader("Content-Length", "1000")
            leaver.endheaders(b"[1, ")
        with closing(http.client.HTTPConnection(address, timeout=30)) as visitor:
            visitor.request("GET", "/health")
            assert visitor.getresponse().read() == b"fine"
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=30) == ("", "interrupted\n")
    assert [status for status, _ in answers] == [200, 200, 400, 404]
    assert [text for _, text in answers[:2]] == ["fine", "dict of 1, 8 bytes"]
    assert answers[2][1].startswith("no JSON: Expecting value: ")
