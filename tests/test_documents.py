"""Finding documents, reading one, selecting from it: what runs in a worker, called here directly."""

from __future__ import annotations

import gc
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trio_isolates._documents import (
    Document,
    Problem,
    Reader,
    Summary,
    find_documents,
    printable,
    read_document,
    read_piped,
)
from trio_isolates._selection import SelectionError, compile_selection, to_json

MANY = 10**6


def read(
    path: Path | str, select: str | None = None, *, limit: int = MANY, cut: int | None = None
) -> Summary | Problem:
    return read_document(Reader(select, limit, cut), Document(str(path)))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a file in the current folder, which is a fresh one, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: bytes | str = "{}") -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    return write


def found(*paths: str) -> tuple[list[str], list[str], list[str]]:
    result = find_documents(paths)
    return [d.name for d in result.documents], [str(p) for p in result.problems], list(result.repeated)


def test_paths_keep_their_order_and_folders_are_sorted(write: Callable[..., str]) -> None:
    """Files come as given; a folder stands for its *.json and *.json.gz, at any depth, sorted."""
    for name in ("z.json", "data/b.json", "data/a.JSON", "data/sub/c.json.gz", "data/notes.txt", "data.txt"):
        write(name)
    inside = ["data/a.JSON", "data/b.json", "data/sub/c.json.gz"]
    assert found("z.json", "data", "data.txt") == (["z.json", *inside, "data.txt"], [], [])


def test_a_pattern_that_the_shell_has_left_alone_is_expanded(write: Callable[..., str]) -> None:
    """`**` stands for any folders; folders that match without JSON are passed over in silence."""
    for name in ("data/b.json", "data/sub/a.json", "data/sub/a.txt"):
        write(name)
    os.mkdir("data/empty")
    assert found("data/**/*.json")[0] == ["data/b.json", "data/sub/a.json"]
    assert found("data/*") == (["data/b.json", "data/sub/a.json"], [], [])
    assert found("*.xml")[1] == ["*.xml: no document matches this pattern"]


def test_a_file_with_the_name_of_a_pattern_is_that_file(write: Callable[..., str]) -> None:
    """`a[1].json` is a pattern only if there is no such file."""
    write("a1.json")
    assert found(write("a[1].json"))[0] == ["a[1].json"]


def test_a_file_is_found_once_under_all_its_names(write: Callable[..., str]) -> None:
    """A path given twice, `./` in front, a link, a folder it is in: all the same; each is said once."""
    write("data/a.json")
    write("b.json")
    os.symlink("a.json", "data/link.json")
    names, problems, repeated = found("data/a.json", "./data/a.json", "data", "b.json", "-", "b.json", "-")
    assert names == ["data/a.json", "b.json", "-"]
    assert problems == []
    assert repeated == ["./data/a.json", "b.json", "-"]


def test_a_pattern_that_matches_a_folder_and_its_files_repeats_nothing(write: Callable[..., str]) -> None:
    """The user has named each of them once."""
    write("data/sub/a.json")
    assert found("data/**") == (["data/sub/a.json"], [], [])


def test_what_cannot_be_found_is_a_problem_each(write: Callable[..., str]) -> None:
    """Missing files, broken links, files as folders, folders without JSON; what is good is still found."""
    write("good.json")
    os.symlink("nowhere", "broken.json")
    os.mkdir("empty")
    names, problems, _ = found("missing.json", "broken.json", "good.json/x", "empty", "good.json")
    assert names == ["good.json"]
    assert problems == [
        "missing.json: no such file or folder",
        "broken.json: broken symbolic link",
        "good.json/x: cannot be read: Not a directory",
        "empty: no *.json or *.json.gz file in this folder",
    ]


def test_a_fifo_is_read_only_if_it_is_named(write: Callable[..., str]) -> None:
    """In a folder or behind a pattern nobody asked for it, and reading might wait for ever."""
    os.mkdir("data")
    os.mkfifo("data/queue.json")
    assert find_documents(["data/queue.json"]).documents == (Document("data/queue.json", piped=True),)
    for path in ("data", "data/*"):
        assert found(path) == ([], ["data/queue.json: not a regular file; name it to read it"], [])


def test_a_folder_that_may_not_be_listed(write: Callable[..., str]) -> None:
    """It is a problem, and the folders beside it are read."""
    write("data/closed/a.json")
    write("data/open/b.json")
    os.chmod("data/closed", 0)
    try:
        if os.access("data/closed", os.R_OK):
            pytest.skip("this user may read everything")
        assert found("data") == (["data/open/b.json"], ["data/closed: cannot be read: Permission denied"], [])
    finally:
        os.chmod("data/closed", 0o700)


def test_a_file_that_may_not_be_read(write: Callable[..., str]) -> None:
    """The operating system's reason is given."""
    path = write("a.json")
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert str(read(path)) == "a.json: cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("content", "kind", "length"),
    [
        ('{"a": 1, "b": 2}', "object", 2),
        ("[1, 2, 3]", "array", 3),
        ('"h\\u00e9"', "string", 2),
        (" -1.5e3 ", "number", None),
        ("0", "number", None),
        ("true", "boolean", None),
        ("null", "null", None),
        ("[NaN, Infinity]", "array", 2),
        (b"\xef\xbb\xbf[1]", "array", 1),
        ('{"a": "中"}'.encode("utf-16"), "object", 1),
        ("[]".encode("utf-32"), "array", 0),
        ("[1]".encode("utf-16-le"), "array", 1),
    ],
)
def test_a_summary_has_type_and_length(
    write: Callable[..., str], content: str | bytes, kind: str, length: int | None
) -> None:
    """Of every kind of top-level value, in every encoding that json detects."""
    path = write("a.json", content)
    summary = read(path)
    assert isinstance(summary, Summary)
    assert (summary.name, summary.type, summary.length) == (path, kind, length)
    assert summary.size == os.path.getsize(path)
    assert summary.selected is None


LONG = "1" * 9000
NESTED = "[" * 200_000 + "]" * 200_000
GZIPPED = gzip.compress(b"[1, 2, 3]" * 100, mtime=0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "1:1: empty document"),
        (" \n\t", "1:1: nothing but white space"),
        ("[1,\n 2,,]", "2:4: Expecting value, not ','"),
        ('{"a": [1, 2', "1:12: Expecting ',' delimiter, not the end of the document"),
        ("nope", "1:1: Expecting value, not 'n'"),
        ('["a\nb"]', "1:4: Invalid control character at"),
        ("[1] [2]", "1:5: Extra data after the document"),
        ('{"a": 1}\n{"a": 2}\n', "2:1: Extra data after the document (one document a file: is this NDJSON?)"),
        (b'{"a":\n "caf\xe9"}', "2:6: not UTF-8: byte 0xe9 at offset 11"),
        (b'\xef\xbb\xbf"\xff"', "1:2: not UTF-8: byte 0xff at offset 4"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "1:1: not UTF-8: byte 0x89 at offset 0; the file looks binary"),
        (b'\xff\xfe"\0a', "1:2: not UTF-16: byte 0x61 at offset 4"),
        ('{"[[": "[[",\n "b": ' + NESTED + "}", "2:200006: nested too deeply: 200,001 levels"),
        (f'["{LONG}", 1.{LONG},\n -{LONG}]', "2:2: an integer of more than 4,300 digits"),
    ],
)
def test_a_bad_document_is_said_with_its_place(
    write: Callable[..., str], content: str | bytes, problem: str
) -> None:
    """Lines and columns count characters from 1; bytes that do not decode are named with their offset."""
    assert str(read(write("a.json", content))) == f"a.json:{problem}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (GZIPPED[:-12], "truncated gzip data"),
        (GZIPPED[:4], "truncated gzip data"),
        (GZIPPED[:-6] + b"\0\0" + GZIPPED[-4:], "corrupt gzip data: CRC check failed"),
        (GZIPPED[:10] + b"\x07" * 9, "corrupt gzip data: Error -3 while decompressing data"),
        (b"[1, 2]", "not gzip data, in spite of its name"),
    ],
)
def test_bad_gzip_data(write: Callable[..., str], content: bytes, problem: str) -> None:
    """It is told apart from bad JSON, and has no place in the text."""
    assert str(read(write("a.json.gz", content))).startswith(f"a.json.gz: {problem}")


def test_gzip_is_known_by_its_content(write: Callable[..., str]) -> None:
    """A name without .gz is no obstacle; the size is that of the JSON; several members are one document."""
    summary = read(write("a.json", gzip.compress(b"[1, ") + gzip.compress(b"2]")))
    assert isinstance(summary, Summary)
    assert (summary.size, summary.length) == (6, 2)


def test_the_limit_holds_before_and_after_decompression(write: Callable[..., str]) -> None:
    """What is larger is refused, without the memory that it would take."""
    for name, content in ("a.json", b" " * 1001), ("b.json.gz", gzip.compress(b" " * 10**7)):
        problem = f"{name}: larger than the limit of 1,000 bytes (--max-size)"
        assert str(read(write(name, content), limit=1000)) == problem


def test_the_collector_is_left_as_it_was(write: Callable[..., str]) -> None:
    """Reading pauses it, also when it ends in a problem, and never turns on what was off."""
    good, bad = write("a.json"), write("b.json", "[")
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            read(good)
            read(bad)
            assert gc.isenabled() is enabled
        finally:
            gc.enable()


def test_a_vanished_file(tmp_path: Path) -> None:
    """Files may go between the moments when they are found and read."""
    assert str(read(tmp_path / "a.json")) == f"{tmp_path}/a.json: no such file or folder"


def test_what_only_the_parent_can_read_travels_with_the_document(write: Callable[..., str]) -> None:
    """A pipe's content is read ahead; one that cannot be read is a problem, and too much is refused."""
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"[1, 2]")
        os.close(write_end)
        document = read_piped(Document(f"/dev/fd/{read_end}", piped=True), MANY)
    finally:
        os.close(read_end)
    summary = read_document(Reader(None, MANY, None), document)
    assert isinstance(summary, Summary)
    assert summary.length == 2
    missing = read_piped(Document("gone", piped=True), MANY)
    assert str(read_document(Reader(None, MANY, None), missing)) == "gone: no such file or folder"
    endless = read_piped(Document("/dev/zero", piped=True), 1000)
    assert "larger than the limit" in str(read_document(Reader(None, 1000, None), endless))


def test_names_stay_on_one_line() -> None:
    """Line ends, escape sequences and bytes that are not UTF-8 are shown as Python would write them."""
    assert printable("plain é 中.json") == "plain é 中.json"
    assert str(Problem("a\n\x1b[31m\udcff", "why\n?", 1, 2)) == "a\\n\\x1b[31m\\udcff:1:2: why\\n?"


def test_a_selected_value_is_json(write: Callable[..., str]) -> None:
    """Whole for programs, cut for tables."""
    path = write("a.json", '{"items": [{"name": "é"}, {"name": "b"}, {}]}')
    whole, cut = read(path, "items[].name"), read(path, "items[].name", cut=6)
    assert isinstance(whole, Summary)
    assert isinstance(cut, Summary)
    assert (whole.selected, cut.selected) == ('["é","b"]'.encode(), '["é","…'.encode())


def test_a_selection_that_does_not_fit_is_a_problem_of_the_document(write: Callable[..., str]) -> None:
    """Without quoting the document, which may be large."""
    assert str(read(write("a.json", "[1]"), "keys(@)")) == "a.json: --select: keys() takes object, not array"


def test_half_a_surrogate_pair_is_escaped() -> None:
    """UTF-8 cannot hold it; everything else is written as it is."""
    assert to_json({"a": "é\ud800"}) == b'{"a":"\\u00e9\\ud800"}'
    assert to_json("é") == '"é"'.encode()


@pytest.mark.parametrize(
    ("expression", "text", "position"),
    [
        ("foo[", "it ends too early", 4),
        ("a b", "unexpected 'b'", 2),
        ("a.#", "Unknown token #", 2),
        ("`x", "Unclosed ` delimiter", 0),
        ("", "it is empty", None),
        ("a.lenght(@)", "there is no function lenght()", 2),
        ("a || length()", "length() takes 1 argument, not 0", 5),
        ("merge()", "merge() takes at least 1 argument, not 0", 0),
        ("[::0]", "the step of a slice cannot be 0", None),
    ],
)
def test_a_wrong_expression_is_told_before_any_document(
    expression: str, text: str, position: int | None
) -> None:
    """Also what jmespath would only notice while it searches; positions count from 0."""
    with pytest.raises(SelectionError) as info:
        compile_selection(expression)
    assert (info.value.text, info.value.position) == (text, position)


@pytest.mark.parametrize(
    "expression", ["merge(@, @, @)", "join(',', items[].name)", "sort_by(a, &b)", "a[::2] | [0]"]
)
def test_right_expressions_compile(expression: str) -> None:
    """Functions with their number of arguments, variadic ones with more."""
    compile_selection(expression)


def test_documents_and_answers_travel(write: Callable[..., str]) -> None:
    """What goes to a worker and comes back is small: names, numbers, a selected value."""
    import pickle

    summary = read(write("a.json", json.dumps(list(range(10**5)))), "[0]")
    assert len(pickle.dumps(summary)) < 500
    assert pickle.loads(pickle.dumps(summary)) == summary
