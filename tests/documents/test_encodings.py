"""Texts in other encodings than UTF-8: named in the reason, read where asked, and never taken for another."""

from __future__ import annotations

import codecs
import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.trees import program, recipe, rows, run_collect, write_tree
from hypothesis import assume, given
from hypothesis import strategies as st

from codeshell.cli import main
from codeshell.documents import batches, encodings, inputs, readers
from codeshell.documents.inputs import InputOptions

CODE = "def total(values):\n    # {}\n    result = 0\n    for value in values:  # {}\n        result += value\n"

COMMENTS = {
    "latin1": ("cp1252", "Ça dépend de la dernière valeur", "größer als null, außer für Überschüsse"),
    "gbk": ("gb18030", "返回所有元素的总和", "遍历列表中的每个值"),
    "big5": ("cp950", "傳回所有元素的總和", "逐一處理串列中的每個值"),
    "shift_jis": ("cp932", "すべての値の合計を返す", "リストの要素を順に処理する"),
    "euc_jp": ("euc_jp", "すべての値の合計を返す", "リストの要素を順に処理する"),
    "euc_kr": ("cp949", "모든 값의 합계를 반환한다", "목록의 각 값을 차례로 처리"),
    "cp1251": ("cp1251", "возвращает сумму всех значений", "по каждому элементу списка"),
    "koi8_r": ("koi8_r", "возвращает сумму всех значений", "по каждому элементу списка"),
    "utf16": ("utf-16", "返回 the sum", "für jeden Wert"),
    "utf32": ("utf-32", "返回 the sum", "für jeden Wert"),
}


def text_in(name: str) -> str:
    _, first, second = COMMENTS[name]
    return CODE.format(first, second)


@pytest.mark.parametrize("name", COMMENTS)
def test_comments_within_code_show_the_encoding(name: str) -> None:
    text, codec = text_in(name), COMMENTS[name][0]
    data = text.encode(codec)
    assert encodings.reason(data) == f"encoding_{name}"
    assert encodings.to_utf8(data) == (text.encode(), "")
    # Lines of Windows stay as they are.
    assert encodings.to_utf8(text.replace("\n", "\r\n").encode(codec)) == (text.replace("\n", "\r\n").encode(), "")


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_wide_units_with_and_without_a_mark(codec: str, mark: str) -> None:
    text = text_in("utf16")
    data = (mark + text).encode(codec)
    assert readers.why_not_text(data, 1 << 20) == "encoding_" + codec[:6].replace("-", "")
    assert encodings.to_utf8(data) == (text.encode(), "")
    # A file that was cut is still named, and is not read in part.
    assert encodings.reason(data[:-1]) == "encoding_" + codec[:6].replace("-", "")
    assert encodings.to_utf8(data[:-1])[1] == "encoding_" + codec[:6].replace("-", "")


def test_binary_files_stay_binary() -> None:
    random = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(200))
    counts = b"".join(i.to_bytes(2, "little") for i in range(4000))
    samples = {
        "elf": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0>\0\x01\0\0\0" + random,
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + random,
        "random": random,
        "random after a mark": codecs.BOM_UTF16_LE + random,
        "numbers of 16 bits": counts,
        "small numbers of 16 bits": b"".join((i % 9).to_bytes(2, "big") for i in range(4000)),
        "numbers of 32 bits": b"".join((i % 90).to_bytes(4, "little") for i in range(4000)),
        "one zero": b"int a;\n\0",
        "zeros": bytes(100),
    }
    for name, data in samples.items():
        assert readers.why_not_text(data, 1 << 20) == "binary", name


@pytest.mark.parametrize(
    "data",
    [
        "# caf\xe9 ".encode("latin-1") + "und größer, für Überschüsse, naïve\n".encode() * 3,
        "# 値を返す\n# リスト\n".encode() + "# 値を返す\n".encode("cp932"),
        text_in("gbk").encode()[:-40] + b"\xe5\xad",
        "# \ud800 lone".encode("utf-8", "surrogatepass"),
        bytes(range(128, 256)) * 4,
        b"\xff",
        b"x = 1 # \x80\x81\x82\n",
    ],
    ids=["latin-1 within UTF-8", "Shift-JIS after UTF-8", "cut", "surrogate", "all bytes", "one byte", "no text"],
)
def test_what_cannot_be_told_is_bad_utf8(data: bytes) -> None:
    assert encodings.reason(data) == "bad_utf8"
    assert encodings.to_utf8(data) == (data, "bad_utf8")


@pytest.mark.parametrize(
    ("head", "codec", "name"),
    [
        ("# -*- coding: latin-1 -*-\n", "latin-1", "latin1"),
        ("# vim: set fileencoding=euc-jp :\n", "euc_jp", "euc_jp"),
        ("#!/usr/bin/ruby\n# encoding: Shift_JIS\n", "cp932", "shift_jis"),
        ("# coding=iso-8859-15\n", "iso8859_15", "iso8859_15"),
        ('<?xml version="1.0" encoding="windows-1251"?>\n', "cp1251", "cp1251"),
        ('<meta charset="gb2312">\n', "gb18030", "gbk"),
        ("// -*- coding: koi8-r-unix -*-\n", "koi8_r", "koi8_r"),
    ],
)
def test_a_file_that_declares_its_encoding_is_believed(head: str, codec: str, name: str) -> None:
    # One character alone tells nothing by itself.
    sign = {"latin1": "é", "iso8859_15": "€", "cp1251": "я", "koi8_r": "я"}.get(name, "値" if "j" in name else "返")
    text = f"{head}a = '{sign}'\n"
    assert encodings.reason(text.encode(codec)) == f"encoding_{name}"
    assert encodings.to_utf8(text.encode(codec)) == (text.encode(), "")


@pytest.mark.parametrize("name", ["utf-8", "zlib", "rot13", "unicode_escape", "punycode", "nonsense", "latin-1" * 3])
def test_a_declaration_that_is_no_encoding_of_the_file_is_passed_over(name: str) -> None:
    data = f"# coding: {name}\n".encode() + text_in("shift_jis").encode("cp932")
    assert encodings.reason(data) == "encoding_shift_jis"


CHINESE = "返回所有元素的总和 遍历列表中的每个值 设置默认参数 检查文件是否存在 如果没有找到则抛出错误 初始化连接"
JAPANESE = "すべての値の合計を返す リストの要素を処理する ファイルがない場合はエラー 初期化する データを読み込む"
RUSSIAN = "возвращает сумму значений если файл не найден то ошибка для каждого элемента списка"
words = st.lists(st.sampled_from(CHINESE.split()), min_size=3)
japanese = st.lists(st.sampled_from(JAPANESE.split()), min_size=2)
russian = st.lists(st.sampled_from(RUSSIAN.split()), min_size=6, unique=True)


@given(
    st.one_of(
        st.tuples(words, st.sampled_from(["gb18030", "gbk"])),
        st.tuples(japanese, st.sampled_from(["cp932", "euc_jp"])),
        st.tuples(russian, st.sampled_from(["cp1251", "koi8_r"])),
    ),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=30),
)
def test_what_is_decoded_is_what_was_encoded(chosen: tuple[list[str], str], code: str) -> None:
    texts, codec = chosen
    # A declaration or an escape within the code would say something else.
    assume(not encodings.DECLARED.search(code.encode()))
    text = "".join(f"{code}\n# {words}\n" for words in texts)
    assert encodings.to_utf8(text.encode(codec)) == (text.encode(), "")


@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.sampled_from(["utf-16", "utf-32"]))
def test_any_printable_text_survives_wide_units(text: str, codec: str) -> None:
    assert encodings.to_utf8(text.encode(codec)) == (text.removeprefix("\ufeff").encode(), "")


@given(st.binary(max_size=400))
def test_no_bytes_are_an_error(data: bytes) -> None:
    text, reason = encodings.to_utf8(data)
    assert reason.startswith(("encoding_", "bad_utf8")) if reason else text.decode() is not None


def test_large_files_are_judged_quickly() -> None:
    for data in (
        "# 返回所有元素的总和\n".encode("gb18030") * 50_000,
        b"\xe9" * (1 << 20),
        b"\xff\xfe" * (1 << 19),
        b"\xa4\xce" * (1 << 19),
        b"a\x81" * (1 << 19),
        b"coding:" * (1 << 17) + b"\xff",
    ):
        encodings.reason(data[: 1 << 20])  # each takes less than a second


def tree(root: Path) -> Path:
    files: dict[str, str | bytes] = {f"{name}.py": text_in(name).encode(COMMENTS[name][0]) for name in COMMENTS}
    files |= {"plain.py": program(1), "mark.py": b"\xef\xbb\xbf" + program(2).encode(), "bad.py": b"x = '\xff'\n"}
    return write_tree(root, files | {"raw.py": b"\x7fELF" + bytes(40) + os.urandom(4000)})


def test_a_run_names_encodings_and_reads_them_where_asked(tmp_path: Path) -> None:
    root = tree(tmp_path / "code")
    statistics = run_collect(recipe(root), tmp_path / "run")
    assert statistics["documents"] == 2
    assert statistics["dropped"] == {f"encoding_{name}": 1 for name in sorted(COMMENTS)} | {"bad_utf8": 1, "binary": 1}
    assert {row["path"]: row["rule"] for row in rows(tmp_path / "run/collect", "dropped")}["gbk.py"] == "encoding_gbk"
    statistics = run_collect(recipe(root, encoding="auto"), tmp_path / "auto")
    assert statistics["dropped"] == {"bad_utf8": 1, "binary": 1}
    texts = {row["path"]: row["text"] for row in rows(tmp_path / "auto/collect", "documents")}
    assert {name: texts[f"{name}.py"] for name in COMMENTS} == {name: text_in(name) for name in COMMENTS}


def test_dedup_compares_texts_and_keeps_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(f"# {comment}\nvalue_{i} = {i}\n" for i in range(30) for comment in COMMENTS["shift_jis"][1:])
    root = write_tree(
        tmp_path / "code",
        {"a.py": text.encode("cp932"), "b.py": text, "c.py": text.encode("utf-16"), "d.py": program(3)},
    )
    command = ["dedup", str(root), "--workers", "1", "-o"]
    assert main([*command, str(tmp_path / "plain")]) == 0
    assert "1 encoding_shift_jis, 1 encoding_utf16" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "auto"), "--encoding", "auto"]) == 0
    kept = {path.name: path.read_bytes() for path in (tmp_path / "auto/kept/code").iterdir()}
    assert kept == {"a.py": text.encode("cp932"), "d.py": program(3).encode()}


@pytest.mark.parametrize("encoding", encodings.MODES)
def test_rows_of_parquet_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    texts = [
        program(1).encode(),
        text_in("gbk").encode("gb18030"),
        None,
        b"x = '\xff'\n",
        text_in("latin1").encode("cp1252"),
    ]
    pq.write_table(pa.table({"text": pa.array(texts, pa.binary())}), tmp_path / "a.parquet")
    options = InputOptions(encoding=encoding)
    (shard,) = inputs.plan([str(tmp_path / "a.parquet")], options, 1 << 20).shards
    (batch,) = batches.read(shard, options)
    left_out = {"no_text": 1, "bad_utf8": 1}
    if encoding == "auto":
        assert batch.texts.to_pylist() == [program(1), text_in("gbk"), text_in("latin1")]
        assert batch.rows.tolist() == [0, 1, 4]
    else:
        assert batch.texts.to_pylist() == [program(1)]
        left_out |= {"encoding_gbk": 1, "encoding_latin1": 1}
    assert batch.left_out == left_out
    assert next(row.text for row in batches.rows(shard, options) if not row.reason) == program(1).encode()
