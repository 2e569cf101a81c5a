"""Formats, compressions, layouts, data set folders: `run` and `dedup` read the same texts, and `kept/` holds them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers.read_both import dedup_texts, plan_texts, run_texts
from helpers.trees import program, recipe, rows, run_collect, write_tree

from codeshell.cli import main
from codeshell.documents import inputs
from codeshell.documents.columns import InputOptions
from codeshell.documents.json_lines import decode_record
from codeshell.errors import UserError

TEXTS = [program(i) for i in range(9)]
RECORDS: list[dict[str, Any]] = [
    {"text": text, "path": f"m{i}.py", "repo": f"r{i % 3}"} for i, text in enumerate(TEXTS)
]
PACKS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def lines(records: list[dict[str, Any]] = RECORDS) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def arrow(path: Path, records: list[dict[str, Any]] = RECORDS, make: Any = pa.ipc.new_stream) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(records)
    with open(path, "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def parquet(path: Path, records: list[dict[str, Any]] = RECORDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=4)
    return path


def table_of(delimiter: str, records: list[dict[str, Any]] = RECORDS, **dialect: Any) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), delimiter=delimiter, **dialect)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def archive(files: dict[str, str | bytes], mode: str = "w", form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def saved(root: Path, records: list[dict[str, Any]] = RECORDS) -> None:
    """A folder as `save_to_disk` writes it, with the cache of another version beside the data."""
    half = len(records) // 2
    names = [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
    arrow(root / names[0], records[:half])
    arrow(root / names[1], records[half:])
    arrow(root / "cache-0123456789abcdef.arrow", [{"text": program(90)}])
    write_tree(
        root,
        {
            "state.json": json.dumps({"_data_files": [{"filename": name} for name in names]}, indent=2),
            "dataset_info.json": json.dumps({"features": {}}, indent=2),
        },
    )


CODE: dict[str, str | bytes] = {f"src/m{i}.py": text for i, text in enumerate(TEXTS)}
JSON_ARRAY = json.dumps(RECORDS)
LONG_PATH = "a/" * 90 + "m.py"

FILES: dict[str, dict[str, str | bytes]] = {
    # JSON Lines under every name and compression.
    "json_of_lines": {"a.json": lines()},
    "json_with_a_mark": {"a.json": b"\xef\xbb\xbf" + lines()},
    **{f"jsonl_{pack}": {f"a.jsonl.{pack}": PACKS[pack](lines())} for pack in PACKS},
    **{f"json_{pack}": {f"a.json.{pack}": PACKS[pack](lines())} for pack in PACKS},
    "jsonl_zstd": {"a.jsonl.zstd": zstandard.compress(lines())},
    "packed_without_a_name": {"a.jsonl": gzip.compress(lines())},
    "named_as_packed": {"a.jsonl.gz": lines()},
    "packed_as_another": {"a.jsonl.zst": bz2.compress(lines())},
    **{
        f"members_{pack}": {f"a.jsonl.{pack}": PACKS[pack](lines()[:700]) + PACKS[pack](lines()[700:])}
        for pack in PACKS
    },
    "one_record": {"a.json": lines(RECORDS[:1])},
    "no_last_line_end": {"a.jsonl": lines().rstrip(b"\n")},
    "windows_line_ends": {"a.jsonl": lines().replace(b"\n", b"\r\n")},
    "joined_with_marks": {"a.jsonl": b"".join(b"\xef\xbb\xbf" + lines([record]) for record in RECORDS)},
    # CSV.
    "csv": {"a.csv": table_of(",")},
    "csv_quoted_all": {"a.csv": table_of(",", quoting=csv.QUOTE_ALL)},
    "csv_mark": {"a.csv": b"\xef\xbb\xbf" + table_of(",")},
    "csv_semicolon": {"a.csv": table_of(";")},
    "csv_unix": {"a.csv": table_of(",", lineterminator="\n")},
    "tsv": {"a.tsv": table_of("\t")},
    "csv_gz": {"a.csv.gz": gzip.compress(table_of(","))},
    "csv_zst": {"a.csv.zst": zstandard.compress(table_of(","))},
    # Archives of code.
    **{f"tar_{form}": {"a.tar": archive(CODE, form=number)} for form, number in (("ustar", 0), ("gnu", 1), ("pax", 2))},
    "tar_gz": {"a.tar.gz": archive(CODE, "w:gz")},
    "tgz": {"a.tgz": archive(CODE, "w:gz")},
    "tar_xz": {"a.tar.xz": archive(CODE, "w:xz")},
    "tar_bz2": {"a.tar.bz2": archive(CODE, "w:bz2")},
    "tar_zst": {"a.tar.zst": zstandard.compress(archive(CODE))},
    "tars_joined": {"a.tar": archive(dict(list(CODE.items())[:4])) + archive(dict(list(CODE.items())[4:]))},
    "folder_of_tars": {f"{i}.tar": archive({f"m{i}.py": text}) for i, text in enumerate(TEXTS)},
    "tar_with_odd_members": {
        "a.tar": archive(CODE | {"../../up.py": "x = 1\n", "p.png": b"\x89PNG\0", "node_modules/a.js": "x"})
    },
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_each_format(tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path / "in", FILES[name])
    expected = TEXTS[:1] if name == "one_record" else TEXTS
    # The file by itself, and the folder that holds it.
    for given in {str(root), str(root / next(iter(FILES[name])))} if name != "folder_of_tars" else {str(root)}:
        by_run = run_texts([given], tmp_path / f"run{len(given)}")
        by_dedup = dedup_texts([given], tmp_path / f"out{len(given)}")
        assert sorted(by_run) == sorted(by_dedup) == sorted(expected)
        # What dedup writes is read again, and is compressed as its input is.
        assert sorted(plan_texts([str(tmp_path / f"out{len(given)}/kept")])) == sorted(expected)
        for path in (tmp_path / f"out{len(given)}/kept").rglob("*"):
            if path.is_file():
                (old,) = root.rglob(path.name)
                assert path.read_bytes()[:2] == old.read_bytes()[:2]


@pytest.mark.parametrize("make", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_files_keep_their_format(tmp_path: Path, make: Any) -> None:
    path = arrow(tmp_path / "a.arrow", RECORDS + RECORDS[:3], make)
    assert run_texts([str(path)], tmp_path / "run") == TEXTS + TEXTS[:3]
    assert plan_texts([str(path)], shard_bytes=200) == TEXTS + TEXTS[:3]
    dedup_texts([str(path)], tmp_path / "out")
    kept = tmp_path / "out/kept/a.arrow"
    assert kept.read_bytes()[:4] == path.read_bytes()[:4]
    opened = pa.ipc.open_file if make is pa.ipc.new_file else pa.ipc.open_stream
    with open(kept, "rb") as file:
        table = opened(file).read_all()
    assert table.to_pylist() == RECORDS


def test_save_to_disk(tmp_path: Path) -> None:
    saved(tmp_path / "in/train")
    saved(tmp_path / "in/test", [{"text": program(50), "path": "t.py", "repo": "r"}] * 2)
    write_tree(tmp_path / "in", {"dataset_dict.json": '{"splits": ["train", "test"]}'})
    by_run = run_texts([str(tmp_path / "in")], tmp_path / "run")
    assert by_run == dedup_texts([str(tmp_path / "in")], tmp_path / "out")
    assert sorted(by_run) == sorted([*TEXTS, program(50), program(50)])
    kept = tmp_path / "out/kept/in"
    assert (kept / "train/state.json").is_file()
    assert (kept / "dataset_dict.json").is_file()
    assert sorted(plan_texts([str(kept)])) == sorted([*TEXTS, program(50)])


def hub(root: Path) -> None:
    parquet(root / "data/train.parquet")
    write_tree(
        root,
        {"load.py": program(80), "README.md": "# D", "LICENSE": "MIT", ".gitattributes": "x", "a.png": b"\x89PNG\0"},
    )


def jsonl_and_scripts(root: Path) -> None:
    write_tree(root, {"train.jsonl": lines(), "make.py": program(80), "upload.py": program(81), "stats.json": "{\n}\n"})


def json_lines_and_configuration(root: Path) -> None:
    write_tree(root, {"train.json": lines(), "dataset_infos.json": "{\n}", "config.json": '{"a": 1}'})


@pytest.mark.parametrize("build", [hub, jsonl_and_scripts, json_lines_and_configuration])
def test_a_data_set_beside_other_files(
    tmp_path: Path, build: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path / "in")
    assert run_texts([str(tmp_path / "in")], tmp_path / "run") == TEXTS
    said = capsys.readouterr().err
    assert "in: read as a data set: 1 " in said
    assert "left out (" in said
    assert dedup_texts([str(tmp_path / "in")], tmp_path / "out") == TEXTS


def checkout(root: Path) -> None:
    write_tree(root, {".git/HEAD": "x", "tests/fixture.jsonl": lines([{"text": program(70)}] * 50)})


def small_checkout(root: Path) -> None:
    write_tree(root, {"fixture.jsonl": lines([{"text": program(70)}] * 50), ".git/HEAD": "x"})


def build_file(root: Path) -> None:
    parquet(root / "data/sample.parquet", [{"text": program(70)}] * 50)
    write_tree(root, {"pyproject.toml": "[project]\n"})


def rows_without_a_text(root: Path) -> None:
    parquet(root / "prices.parquet", [{"date": "2020-01-01", "price": float(i)} for i in range(3000)])


def small_sample(root: Path) -> None:
    write_tree(root, {"sample.jsonl": b'{"text": "x"}\n', "settings.json": '{"a": 1}\n', "table.csv": table_of(",")})


@pytest.mark.parametrize("build", [checkout, small_checkout, build_file, rows_without_a_text, small_sample])
def test_code_beside_a_few_rows_stays_code(tmp_path: Path, build: Callable[[Path], None]) -> None:
    write_tree(tmp_path / "in", dict(CODE))
    build(tmp_path / "in")
    by_run = run_texts([str(tmp_path / "in")], tmp_path / "run")
    assert set(TEXTS) <= set(by_run)
    assert program(70) not in by_run
    assert by_run == dedup_texts([str(tmp_path / "in")], tmp_path / "out")


def test_code_with_many_rows_says_that_they_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path / "in", CODE | {f"x{i}.py": program(20 + i) for i in range(9)} | {"big.jsonl": lines() * 20})
    assert len(run_texts([str(tmp_path / "in")], tmp_path / "run")) == 18
    assert "in: read as source code, without its files of rows (1, 0.1 MB)" in capsys.readouterr().err


LAYOUTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "the-stack": (["content", "max_stars_repo_name", "max_stars_repo_path", "lang"], {"hexsha": "0", "size": "1"}),
    "starcoderdata": (["content", "max_stars_repo_name", "max_stars_repo_path"], {"id": "7"}),
    "the-stack-v2": (["content", "repo_name", "path", "language"], {"src_encoding": "UTF-8", "blob_id": "f"}),
    "github-code": (["code", "repo_name", "path", "language"], {"license": "mit"}),
    "codeparrot": (["content", "repo_name", "path"], {"license": "mit", "hash": "1"}),
    "plain": (["text", "repo", "path", "language"], {"stars": "1"}),
}


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layouts_of_known_data_sets(
    tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names, more = LAYOUTS[name]
    records = [
        dict(zip(names, (text, f"o/r{i}", f"m{i}.py", "Python"), strict=False)) | more for i, text in enumerate(TEXTS)
    ]
    path = tmp_path / f"python/a.{kind}"
    path.parent.mkdir()
    if kind == "parquet":
        parquet(path, records)
    else:
        path.write_bytes(lines(records) if kind == "jsonl" else table_of(",", records))
    run_collect(recipe(path), tmp_path / "run")
    found = rows(tmp_path / "run/collect", "documents")
    assert [row["text"] for row in found] == TEXTS
    assert [(row["repo"], row["path"]) for row in found] == [(f"o/r{i}", f"m{i}.py") for i in range(9)]
    assert {row["language"] for row in found} == {"python"}
    assert (f"recognised {name}:" in capsys.readouterr().err) == (name != "plain")
    # The layout by its name gives the same; so does dedup.
    assert run_texts([str(path)], tmp_path / "named", layout=name) == TEXTS
    assert dedup_texts([str(path)], tmp_path / "out", InputOptions(layout=name)) == TEXTS
    with pytest.raises(UserError, match=r"no column '\w+'; it has .*; set collect\."):
        run_texts([str(path)], tmp_path / "other", layout="plain" if name != "plain" else "the-stack")


def test_a_folder_names_the_language_of_starcoderdata(tmp_path: Path) -> None:
    records = [{"content": text, "max_stars_repo_name": "o/r", "max_stars_repo_path": "no-suffix"} for text in TEXTS]
    parquet(tmp_path / "in/python/train-0000.parquet", records)
    parquet(tmp_path / "in/c-sharp/train-0000.parquet", records[:2])
    run_collect(recipe(tmp_path / "in"), tmp_path / "run")
    languages = [row["language"] for row in rows(tmp_path / "run/collect", "documents")]
    assert languages == ["c-sharp"] * 2 + ["python"] * 9


def test_a_column_that_is_named_wins_over_the_layout(tmp_path: Path) -> None:
    records = [{"content": "no\n", "body": text, "lang": "Python"} for text in TEXTS]
    path = parquet(tmp_path / "a.parquet", records)
    assert run_texts([str(path)], tmp_path / "run", text_column="body") == TEXTS


@pytest.mark.parametrize("role", ["path", "repo", "language", "text"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_column_that_is_named_must_be_there(tmp_path: Path, role: str, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    parquet(path) if kind == "parquet" else path.write_bytes(lines())
    with pytest.raises(UserError, match=rf"{role}_column.*'pth'|'pth'.*{role}_column") as caught:
        run_texts([str(path)], tmp_path / "run", **{f"{role}_column": "pth"})
    assert "text, path, repo" in str(caught.value)


def test_one_input_with_the_named_column_is_enough(tmp_path: Path) -> None:
    first = parquet(tmp_path / "a.parquet", [record | {"file": record["path"]} for record in RECORDS[:4]])
    second = parquet(tmp_path / "b.parquet", [record | {"language": "Python"} for record in RECORDS[4:]])
    assert run_texts([str(first), str(second)], tmp_path / "run", path_column="file") == TEXTS


def test_a_language_for_rows_without_any(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        lines([{"text": TEXTS[0]}, {"text": TEXTS[1], "path": "a.go"}, {"text": TEXTS[2], "language": "Klingon"}])
    )
    run_collect(recipe(path, language="Python"), tmp_path / "run")
    found = rows(tmp_path / "run/collect", "documents")
    assert [row["language"] for row in found] == ["python", "go"]
    with pytest.raises(UserError, match=r"collect\.language: 'pyhton' is not a language; did you mean python\?"):
        run_texts([str(path)], tmp_path / "x", language="pyhton")


def test_partitions_stay_in_the_output_and_name_the_language(tmp_path: Path) -> None:
    for language, part in (("python", RECORDS[:5]), ("go", RECORDS[5:])):
        parquet(tmp_path / f"in/lang={language}/part-0.parquet", [{"text": record["text"]} for record in part])
    for given in (tmp_path / "in", tmp_path / "in/lang=*/part-0.parquet"):
        output = tmp_path / f"run{len(str(given))}"
        run_collect(recipe(given), output)
        assert {row["language"] for row in rows(output / "collect", "documents")} == {"python", "go"}
        kept = tmp_path / f"out{len(str(given))}"
        dedup_texts([str(given)], kept)
        found = sorted(str(path.relative_to(kept / "kept")) for path in (kept / "kept").rglob("*.parquet"))
        top = "in/" if given.name == "in" else ""
        assert found == [f"{top}lang=go/part-0.parquet", f"{top}lang=python/part-0.parquet"]


def cut(data: bytes) -> bytes:
    return data[: len(data) * 3 // 4]


DAMAGED: dict[str, bytes] = {
    **{f"b.jsonl.{pack}": cut(PACKS[pack](lines())) for pack in PACKS},
    "b.tar": cut(archive(CODE)),
    "c.tar": archive(CODE)[:5000] + b"x" * 512 + archive(CODE)[5512:],
    "b.tar.gz": cut(archive(CODE, "w:gz")),
    "b.csv": b'text,path\n"never closed,a.py\n' + b"x,y\n" * 9,
    "b.csv.gz": cut(gzip.compress(table_of(","))),
}


@pytest.mark.parametrize("name", [*DAMAGED, "b.parquet", "b.arrow"])
def test_damaged_files_are_refused_or_left_out_whole(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = parquet(tmp_path / "a.parquet")
    path = tmp_path / name
    if name in DAMAGED:
        path.write_bytes(DAMAGED[name])
    else:
        (parquet if name == "b.parquet" else arrow)(path)
        path.write_bytes(cut(path.read_bytes()))
    names = [str(good), str(path)]
    for read in (run_texts, dedup_texts):
        with pytest.raises(UserError, match=rf"{name}: (cannot be read whole|no CSV)") as caught:
            read(names, tmp_path / read.__name__)
        assert "\n" not in str(caught.value)
    assert run_texts(names, tmp_path / "run", damaged="skip") == TEXTS
    assert f"1 damaged file left out: {path}" in capsys.readouterr().err
    dropped = rows(tmp_path / "run/collect", "dropped")
    assert [(row["path"], row["rule"]) for row in dropped] == [(name, "damaged")]
    assert dedup_texts(names, tmp_path / "out", InputOptions(damaged="skip")) == TEXTS
    statistics = json.loads((tmp_path / "out/stats.json").read_text())
    assert statistics["left_out"] == {"damaged": 1}


REFUSED: dict[str, tuple[bytes, str]] = {
    "a.json": (JSON_ARRAY.encode(), "one JSON array; JSON Lines is read, with an object on each line"),
    "b.jsonl": (lines().decode().encode("utf-16"), "UTF-16 or UTF-32, not UTF-8; convert it with iconv"),
    "c.jsonl": (lines().decode().encode("utf-16-le"), "UTF-16 or UTF-32, not UTF-8; convert it with iconv"),
    "d.csv": (table_of(",").decode().encode("utf-16"), "UTF-16 or UTF-32, not UTF-8; convert it with iconv"),
    "e.parquet": (b"version https://git-lfs.github.com/spec/v1\noid x\nsize 999\n", "a Git LFS pointer, not the data"),
    "f.parquet.gz": (gzip.compress(b"PAR1" * 99), "a Parquet file that is packed as a whole; unpack it first"),
    "g.jsonl": (lines([{"blob_id": "1", "path": "a.py"}]), r"it names files \(blob_id\) without their content"),
    "i.zip": (b"PK\x03\x04" + bytes(99), "a zip archive; unpack it, or pack its files as .tar"),
    "h.csv": (b"a,b\n1,2\n", "no column 'text'; it has a, b; set collect.text_column"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_as_it_is(tmp_path: Path, name: str) -> None:
    data, message = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(data)
    for read in (run_texts, dedup_texts):
        with pytest.raises(UserError, match=message) as caught:
            read([str(path)], tmp_path / read.__name__)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rest",
    [
        b'"a": NaN',
        b'"a": -Infinity',
        b'"a": 1e400',
        b'"a": ' + b"9" * 6000,
        b'"a": "\\ud800"',
        b'"a": "\xff\xfe"',
        b'"a": "raw\ttab"',
        b'"a": ' + b"[" * 5000 + b"]" * 5000,
        b'"a": ' + b'{"b":' * 5000 + b'"]}\\""' + b"}" * 5000,
        b'"text": "first", "a": 1',
        b'"a": "\\u0000"',
    ],
)
def test_what_other_fields_hold_costs_no_record(rest: bytes) -> None:
    for line in (b"{" + rest + b', "text": "x"}', b'{"b": [1], ' + rest + b', "text": "x"}\r\n'):
        record = decode_record(line)
        assert record is not None
        assert record["text"] == "x"


@pytest.mark.parametrize(
    "line", [b"[1]", b'"x"', b'{"a": 1,}', b"{'a': 1}", b"{", b'{"a": [1}', b'{"a": 1} x', b"", b"nan"]
)
def test_what_is_no_record(line: bytes) -> None:
    assert decode_record(line) is None
    assert decode_record(line.replace(b"1", b"[" * 3000)) is None


def test_a_member_of_an_archive_cannot_fill_the_memory(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("long")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "a.tar").write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(UserError, match=r"a\.tar: cannot be read whole \(an extension header of 1099511627776 bytes\)"):
        run_texts([str(tmp_path / "a.tar")], tmp_path / "run")


def test_members_of_an_archive(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in (("link.py", tarfile.SYMTYPE), ("pipe.py", tarfile.FIFOTYPE), ("folder", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        files = {
            "/abs/m0.py": TEXTS[0],
            "./m1.py": TEXTS[1],
            LONG_PATH: TEXTS[2],
            "é/m3.py": TEXTS[3],
            "same.py": TEXTS[0],
        }
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    path = tmp_path / "a.tar"
    path.write_bytes(out.getvalue())
    run_collect(recipe(path), tmp_path / "run")
    documents = rows(tmp_path / "run/collect", "documents")
    assert [row["path"] for row in documents] == ["abs/m0.py", "m1.py", LONG_PATH, "é/m3.py", "same.py"]
    dropped = {row["path"]: row["rule"] for row in rows(tmp_path / "run/collect", "dropped")}
    assert dropped == {"link.py": "link", "pipe.py": "special_file"}
    # Dedup writes the archive again, without the duplicate.
    dedup_texts([str(path)], tmp_path / "out")
    with tarfile.open(tmp_path / "out/kept/a.tar") as kept:
        names = kept.getnames()
    assert names == ["link.py", "pipe.py", "folder", "/abs/m0.py", "./m1.py", LONG_PATH, "é/m3.py"]


def test_records_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'id,text,stars\r\n1,"a ""quoted"", text\r\nof two lines",5\r\n\r\n'
        b"2,too,many,fields\r\n3,\xff,1\r\n4,,2\r\n5,last"
    )
    plan = inputs.plan([str(path)], InputOptions(order_column="stars"), 1 << 20)
    assert plan.shards[0].order_type == "float64"
    assert plan_texts([str(path)]) == ['a "quoted", text\r\nof two lines', "last"]
    dedup_texts([str(path)], tmp_path / "out")
    statistics = json.loads((tmp_path / "out/stats.json").read_text())
    assert statistics["left_out"] == {"bad_csv": 1, "bad_utf8": 1, "empty": 1}
    assert (tmp_path / "out/kept/a.csv").read_bytes() == path.read_bytes().replace(b"\r\n\r\n", b"\r\n")


def test_chained_urls(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("data/a.jsonl", lines(RECORDS[:5]))
        file.writestr("data/b.jsonl.gz", gzip.compress(lines(RECORDS[5:])))
    for url in (f"zip://data/*::file://{tmp_path}/a.zip", f"zip://data::file://{tmp_path}/a.zip"):
        assert plan_texts([url]) == TEXTS
    assert plan_texts([f"zip://data/a.jsonl::file://{tmp_path}/a.zip"]) == TEXTS[:5]
    (tmp_path / "c.jsonl").write_bytes(lines())
    assert plan_texts([f"simplecache::file://{tmp_path}/c.jsonl"]) == TEXTS


def test_a_data_set_behind_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    hub(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            system.pipe(f"/hub/{path.relative_to(tmp_path)}", path.read_bytes())
    assert plan_texts(["memory://hub"]) == TEXTS
    assert "memory://hub: read as a data set: 1 Parquet file taken, 2 other files left out" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("make", [pa.ipc.new_stream, pa.ipc.new_file])
def test_texts_of_arrow_files(tmp_path: Path, kind: pa.DataType, make: Any) -> None:
    path = tmp_path / "a.arrow"
    array = pa.array([*TEXTS, None], pa.string())
    array = array.dictionary_encode() if pa.types.is_dictionary(kind) else array.cast(kind)
    table = pa.table({"n": range(10), "text": array, "path": pa.array(["a.py"] * 10).dictionary_encode()})
    with (
        open(path, "wb") as sink,
        make(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
    ):
        writer.write_table(table)
    assert run_texts([str(path)], tmp_path / "run") == TEXTS
    assert dedup_texts([str(path)], tmp_path / "out") == TEXTS
    assert plan_texts([str(tmp_path / "out/kept")]) == TEXTS


def test_the_cache_of_a_hub_is_made_of_links(tmp_path: Path) -> None:
    parquet(tmp_path / "blobs/0123")
    folder = tmp_path / "snapshots/abc"
    (folder / "data").mkdir(parents=True)
    (folder / "data/train.parquet").symlink_to("../../../blobs/0123")
    assert run_texts([str(folder)], tmp_path / "run") == TEXTS
    assert dedup_texts([str(folder)], tmp_path / "out") == TEXTS


def test_files_without_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(parquet(tmp_path / "a.parquet"))]
    schema = pa.schema([("text", pa.string())])
    with open(tmp_path / "b.arrow", "wb") as sink, pa.ipc.new_stream(sink, schema):
        pass
    pq.write_table(schema.empty_table(), tmp_path / "c.parquet")
    write_tree(tmp_path, {"d.csv": "text,path\n", "e.jsonl": "", "f.tar": archive({})})
    names += [str(tmp_path / name) for name in ("b.arrow", "c.parquet", "d.csv", "e.jsonl", "f.tar")]
    assert dedup_texts(names, tmp_path / "out") == TEXTS
    assert sorted(path.name for path in (tmp_path / "out/kept").iterdir()) == sorted(Path(name).name for name in names)


def test_a_column_that_is_named_for_a_folder_of_code_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "in", CODE)
    run_texts([str(tmp_path / "in")], tmp_path / "run", text_column="body")
    assert "not used, because no input has columns" in capsys.readouterr().err


def test_the_options_of_dedup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = parquet(tmp_path / "a.parquet", [{"content": text, "path": "x"} for text in TEXTS])
    bad = tmp_path / "b.jsonl.gz"
    bad.write_bytes(cut(gzip.compress(lines())))
    command = ["dedup", str(path), str(bad), "-o", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--layout", "stack"]) == 2
    assert "--layout stack: no such layout; choose auto, the-stack" in capsys.readouterr().err
    assert main(command) == 2
    assert main([*command, "--damaged", "skip"]) == 0
    captured = capsys.readouterr()
    assert "not compared: 1 damaged" in captured.out
    assert "a.parquet: recognised the usual names: text from 'content'" in captured.err
