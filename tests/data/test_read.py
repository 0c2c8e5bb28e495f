"""Rows from every kind of source, with their places; malformed rows in their place; unreadable sources as errors."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from prefloop.data.read import check_split, has_splits, read_rows
from prefloop.data.rows import BadRow, Row
from prefloop.errors import InputError
from tests.data.cases import jsonl

ROWS = [{"text": "one"}, {"text": "zwei, drei"}, {"text": 'a "quoted"\nline'}]


def rows_of(source: str | Path, **options: Any) -> list[Row]:
    rows = list(read_rows(source, **options))
    assert all(isinstance(row, Row) for row in rows), rows
    return [row for row in rows if isinstance(row, Row)]


def values(source: str | Path, **options: Any) -> list[dict[str, Any]]:
    return [dict(row.values) for row in rows_of(source, **options)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson", "a.json", "a.json.gz", "A.JSONL"])
def test_json_lines_know_their_line(tmp_path: Path, name: str) -> None:
    path = jsonl(tmp_path / name, [ROWS[0], "", ROWS[1], ROWS[2]])  # a blank line is no row
    assert values(path) == ROWS
    assert [row.origin for row in rows_of(path)] == [f"{path}:1", f"{path}:3", f"{path}:4"]


def test_line_separators_inside_strings_do_not_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\u2028b\u0085c"}\r\n{"text": "d"}', encoding="utf-8")
    assert values(path) == [{"text": "a\u2028b\u0085c"}, {"text": "d"}]


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", '{"text": "x"}'),
        ("a.json", '[{"text": "x"}]'),
        ("a.csv", "text\nx\n"),
    ):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8-sig")
        assert values(path) == [{"text": "x"}]


@pytest.mark.parametrize(
    "around", ["{}", '{{"data": {}}}', '{{"version": {{"data": [0]}}, "data": {}, "n": [1]}}']
)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_list_gives_each_elements_line(tmp_path: Path, around: str, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(around.format(json.dumps(ROWS, indent=indent)))
    assert values(path) == ROWS
    one_line = ["1", "1 (element 2)", "1 (element 3)"]
    lines = one_line if indent is None else ["2", "5", "8"]  # "[" on line 1, three lines an element
    assert [row.origin for row in rows_of(path)] == [f"{path}:{line}" for line in lines]


def test_json_of_one_object_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\n{"prompt":\n "x"}\n')
    assert [(row.values, row.origin) for row in rows_of(path)] == [({"prompt": "x"}, f"{path}:2")]


@pytest.mark.parametrize(("content", "count"), [("[]", 0), ("", 0), ('{"data": []}', 0), (" [\n] ", 0)])
def test_empty_json(tmp_path: Path, content: str, count: int) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    assert len(values(path)) == count


def test_csv_knows_the_first_line_of_each_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,n\none,1\n"two\nlines, ""quoted""",2\n\n' + "x" * 200_000 + ",3\n")
    assert values(path) == [
        {"text": "one", "n": "1"},
        {"text": 'two\nlines, "quoted"', "n": "2"},
        {"text": "x" * 200_000, "n": "3"},
    ]
    assert [row.origin for row in rows_of(path)] == [f"{path}:2", f"{path}:3", f"{path}:6"]
    assert not any(row.typed for row in rows_of(path))
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert values(packed) == values(path)


def test_parquet_knows_its_row(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    rows = [
        {"messages": [{"role": "user", "content": "x"}], "label": True},
        {"messages": [], "label": None},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert values(path) == rows
    assert [row.origin for row in rows_of(path)] == [f"{path}:1", f"{path}:2"]


def test_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl", [{"text": "2"}])
    jsonl(tmp_path / "a.jsonl.gz", [{"text": "1"}])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert [row.values["text"] for row in rows_of(tmp_path)] == ["1", "2"]
    assert rows_of(tmp_path)[1].origin == f"{tmp_path}/b.jsonl:1"


def test_a_split_of_what_has_none_is_refused(tmp_path: Path) -> None:  # K7
    (tmp_path / "plain").mkdir()
    for name in ("one.jsonl", "plain/a.jsonl", "plain/b.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}\n')
    for source in (tmp_path / "one.jsonl", tmp_path / "plain"):
        assert not has_splits(source)
        check_split(source, "train")
        with pytest.raises(InputError, match=r"split is 'test', but .* has no splits and is read whole"):
            check_split(source, "test")
    (tmp_path / "plain/test.jsonl").write_text('{"text": "x"}\n')
    check_split(tmp_path / "plain", "test")
    check_split("owner/name", "test")


def test_folder_with_splits_gives_the_one_asked_for(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test"):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": name}])
    assert [row.values["text"] for row in rows_of(tmp_path)] == [
        "train-00000-of-00002",
        "train-00001-of-00002",
    ]
    assert [row.values["text"] for row in rows_of(tmp_path, split="test")] == ["test"]
    with pytest.raises(
        InputError, match=r"split is 'dev', and no file .* begins with it; it has: test, train"
    ):
        list(read_rows(tmp_path, split="dev"))


def test_saved_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "many")
    assert values(tmp_path / "one") == ROWS
    assert values(tmp_path / "many", split="test") == ROWS[:1]
    assert rows_of(tmp_path / "many")[2].origin == f"{tmp_path}/many/train:3"
    with pytest.raises(InputError, match="split is 'dev', and this data set has: train, test"):
        list(read_rows(tmp_path / "many", split="dev"))


def test_hub_data_set_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert values("owner/name:config", split="test") == ROWS
    assert asked == [(("owner/name", "config"), {"split": "test"})]
    assert rows_of("owner/name")[0].origin == "owner/name/train:1"


def test_hub_out_of_reach_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub\nmore\nlines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError) as raised:
        list(read_rows("owner/name"))
    assert str(raised.value) == (
        "owner/name: neither a file, a folder, nor a Hugging Face data set that loads with split 'train' "
        "(ConnectionError: Couldn't reach 'owner/name' on the Hub); check the name and the split, connect to the network, "
        "or download the data and name the file"
    )


@pytest.mark.parametrize(("package", "source"), [("datasets", "owner/name"), ("pyarrow", "a.parquet")])
def test_missing_package_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.parquet").touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'prefloop\[data\]'"):
        list(read_rows(source))


def test_malformed_lines_are_reported_in_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good"}\n'
        b'{"text": "cut\n'
        b"[1, 2]\n"
        b'{"text": "caf\xe9"}\n'
        b'{"text": "a", "text": "b"}\n'
        b'{"text": ' + b"[" * 200_000 + b"\n"
        b'{"text": "good too"}\n'
    )
    rows = list(read_rows(path))
    assert [row.origin for row in rows] == [f"{path}:{line}" for line in range(1, 8)]
    assert [type(row) for row in rows] == [Row, BadRow, BadRow, BadRow, BadRow, BadRow, Row]
    said = [str(row).removeprefix(f"{path}:") for row in rows]
    assert said[2:5] == [
        '3: `row` is [1, 2]: not one JSON object with named columns; write {"column": value, ...}, each column once',
        '4: `line` is \'{"text": "caf�"}\': not UTF-8 (byte 0xe9 at position 14); save the file as UTF-8',
        "5: `row` is an object with the key 'text' twice: not one JSON object with named columns; "
        'write {"column": value, ...}, each column once',
    ]
    assert said[1].startswith('2: `line` is \'{"text": "cut\': not JSON (')
    assert said[1].endswith("; write one JSON object on each line")
    assert said[5].startswith('6: `line` is \'{"text": [[[[')
    assert len(said[5]) < 250


def test_malformed_csv_rows_are_reported_in_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,n\none,1\ntwo\nthree,3,3\ncaf\xe9,4\n"a"b,5\nsix,6\n"open,7\n')
    rows = [str(row).removeprefix(f"{path}:") for row in read_rows(path) if isinstance(row, BadRow)]
    cells = "the header has 2 columns; write one cell for each column, in quotes where a cell holds a comma or a line break"
    assert rows == [
        f"3: `line` is 1 cells: {cells}",
        f"4: `line` is 3 cells: {cells}",
        "5: `text` is b'caf\\xe9': not UTF-8; save the file as UTF-8",
        "6: `line` is not CSV: ',' expected after '\"'; close every quote, and write a quote inside quotes as \"\"",
        '8: `line` is not CSV: unexpected end of data; close every quote, and write a quote inside quotes as ""',
    ]
    assert [row.values["text"] for row in read_rows(path) if isinstance(row, Row)] == ["one", "six"]


def test_what_cannot_be_read_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = gzip.compress(b'{"text": "x"}\n' * 1000)
    files: dict[str, tuple[bytes, str]] = {
        "cut.jsonl.gz": (whole[:-12], "cut.jsonl.gz: cannot be read"),
        "plain.jsonl.gz": (b'{"text": "x"}', "plain.jsonl.gz: cannot be read"),
        "wide.jsonl": (
            '{"text": "x"}'.encode("utf-16"),
            "wide.jsonl:1: the file is UTF-16; save it as UTF-8",
        ),
        "cut.json": (b'[\n{"text": "x"},\n{"text"', "cut.json:3: not JSON"),
        "gap.json": (
            b'[{"text": "x"}\n {"text": "y"}]',
            "gap.json:2: not JSON .expected `,` or `]`, found '{",
        ),
        "open.json": (
            b'[{"text": "x"}\n',
            "open.json:2: not JSON .expected `,` or `]`, found the end of the file",
        ),
        "more.json": (b'[{"text": "x"}] x', "more.json:1: not JSON after the list ends"),
        "other.json": (b"7", "other.json:1: the file begins with '7'; write a list of objects"),
        "bytes.json": (
            b'[\n{"text": "\xff"}]',
            "bytes.json:2: not UTF-8 .byte 0xff.; save the file as UTF-8",
        ),
        "twice.csv": (b"a,b,a\n", "twice.csv:1: the header names 'a' twice"),
        "no.parquet": (b"no", "no.parquet: not a Parquet file"),
        "a.txt": (b"x", "a.txt: this kind of file is not read; use one of .jsonl,"),
        "a.parquet.gz": (b"x", "a.parquet.gz: this kind .* .Parquet is already compressed."),
    }
    for name, (content, message) in files.items():
        Path(name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            list(read_rows(name))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "the data source is empty; name a file"),
        ("no.jsonl", "no.jsonl: there is no such file or folder; check the path"),
        ("./no", "./no: there is no such file"),
        ("a/b/c", "a/b/c: there is no such file"),
    ],
)
def test_names_that_stand_for_nothing(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_rows(source))


def test_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"no data file in this folder .*; it has folders: data"):
        list(read_rows(tmp_path))


def test_reading_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\nbroken\n' * 3)
    rows = read_rows(path)
    assert isinstance(next(rows), Row)
    path.write_text("")  # what follows was not read yet, or only a buffer of it
    assert isinstance(next(rows), BadRow)


# --- bounds


def packed(path: Path, content: bytes) -> Path:
    """The content in a file, compressed as its name says."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        with pyarrow.output_stream(str(path), compression="zstd") as stream:
            stream.write(content)
    return path


def test_zst_is_read(tmp_path: Path) -> None:
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path = packed(tmp_path / "a.jsonl.zst", content)
    assert values(path) == ROWS
    assert [row.origin for row in rows_of(path)] == [f"{path}:{number}" for number in (1, 2, 3)]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"a\.jsonl\.zst"):
        values(path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "a.csv.gz"])
def test_a_compressed_file_that_grows_too_large_is_refused(tmp_path: Path, name: str) -> None:
    rows = ['{"text": "' + "x" * 90 + '"}'] * 20_000  # 2 MB
    content = {"a.json.gz": "[" + ",".join(rows) + "]", "a.csv.gz": "text\n" + ("x" * 100 + "\n") * 20_000}
    path = packed(tmp_path / name, content.get(name, "\n".join(rows)).encode())
    assert path.stat().st_size < 100_000
    assert len(values(path, max_gb=0.01)) == 20_000
    with pytest.raises(InputError, match=r"more than 0\.001 GB once decompressed; .* raise data\.max_gb"):
        values(path, max_gb=0.001)


@pytest.mark.parametrize("grows", ["on disk", "in memory"])
def test_a_parquet_file_that_grows_too_large_is_refused(tmp_path: Path, grows: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    same = grows == "in memory"  # one entry of a dictionary, in every row
    texts = ["x" * 1000] * 2000 if same else [f"{i:05d}" + "x" * 1000 for i in range(2000)]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": texts}), path, use_dictionary=same, compression="zstd")
    assert path.stat().st_size < 100_000
    assert len(values(path, max_gb=0.01)) == 2000
    with pytest.raises(InputError, match=r"a\.parquet: .* more than 0\.001 GB once decompressed"):
        values(path, max_gb=0.001)


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefloop.data.streams.LONGEST", 2**20)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "' + "x" * 2**20 + '"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: the line is longer than 1 MiB; write one row"):
        values(path)


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, "9" * 5000])
def test_depth_and_huge_integers_are_bad_rows(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": {value}}}\n{{"text": "fine"}}\n')
    bad, row = read_rows(path)
    assert isinstance(bad, BadRow)
    assert bad.origin == f"{path}:1"
    assert len(str(bad)) < 500
    assert isinstance(row, Row)
    (tmp_path / "b.json").write_text(f'[{{"text": {value}}}]')
    with pytest.raises(InputError, match=r"b\.json") as raised:
        list(read_rows(tmp_path / "b.json"))
    assert len(str(raised.value)) < 500
