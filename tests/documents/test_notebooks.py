from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeshell.documents import batches, notebooks, templates
from codeshell.documents.inputs import InputOptions, Listing, cut

PYTHON = {"kernelspec": {"name": "python3", "language": "python"}, "language_info": {"name": "python"}}


def cell(kind: str, source: Any, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": kind, "metadata": {}, "source": source} | (
        {"outputs": list(outputs)} if kind == "code" else {}
    )


def stream(text: Any) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


def notebook(*cells: dict[str, Any], metadata: dict[str, Any] = PYTHON, **more: Any) -> bytes:
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5} | more).encode()


LESSON = notebook(
    cell("markdown", ["# A lesson\n", "\n", "On <b>sums</b>."]),
    cell("code", "%matplotlib inline\nimport math\n!pip install x", stream("no\n")),
    cell("code", ["total = 1 + 1\n", "total"], {"output_type": "execute_result", "data": {"text/plain": ["2"]}}),
    cell("markdown", "Then a picture."),
    cell(
        "code",
        "plot()",
        {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": "<Figure size 1>"}},
    ),
    cell("markdown", "The end."),
)


def test_a_script_has_code_and_prose_as_comments() -> None:
    text, reason = notebooks.convert(LESSON, templates.SCRIPTS)
    assert reason == ""
    assert text.decode() == (
        "# # A lesson\n#\n# On <b>sums</b>.\n\nimport math\n\ntotal = 1 + 1\ntotal\n\n# Then a picture.\n\nplot()\n\n"
        "# The end.\n"
    )
    compile(text, "script", "exec")


def test_pairs_of_prose_and_code_with_their_last_output() -> None:
    text, reason = notebooks.convert(LESSON, templates.STRUCTURED)
    assert reason == ""
    assert text.decode() == (
        "<jupyter_start><jupyter_text>A lesson\nOn sums.<jupyter_code>%matplotlib inline\nimport math\n!pip install x\n"
        "total = 1 + 1\ntotal<jupyter_output>2<jupyter_text>Then a picture.<jupyter_code>plot()<jupyter_output>"
        "<empty_output>"
    )


def test_code_before_all_prose_and_prose_after_all_code_are_left_out() -> None:
    data = notebook(
        cell("code", "a"), cell("markdown", "m"), cell("code", " "), cell("code", "b"), cell("markdown", "n")
    )
    text, _ = notebooks.convert(data, templates.STRUCTURED)
    assert text == b"<jupyter_start><jupyter_text>m<jupyter_code>b<jupyter_output><empty_output>"


def test_long_outputs_are_cut() -> None:
    data = notebook(cell("markdown", "m"), cell("code", "b", stream("x" * 1001)))
    text, _ = notebooks.convert(data, templates.STRUCTURED)
    assert text.decode().endswith("<jupyter_output>" + "x" * 1000 + "[...]")


def test_no_special_token_comes_from_a_notebook() -> None:
    bad = "<jupyter_code>".join(["a", "<|endoftext|>", "<fim_<fim_middle>middle>", "b"])
    data = notebook(cell("markdown", bad), cell("code", bad, stream(bad)))
    text, _ = notebooks.convert(data, templates.STRUCTURED)
    marks = [part for special, part in templates.pieces(text.decode()) if special]
    assert marks == ["<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>"]
    assert b"<|endoftext|>" not in text
    assert b"<fim_middle>" not in text


def test_version_3_and_its_headings() -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Old"]},
        {"cell_type": "code", "input": ["print 1"], "outputs": [{"output_type": "pyout", "text": ["1\n"]}]},
    ]
    data = json.dumps({"worksheets": [{"cells": cells}], "nbformat": 3, "metadata": {"name": ""}}).encode()
    assert notebooks.convert(data, templates.SCRIPTS) == (b"# ## Old\n\nprint 1\n", "")
    assert notebooks.convert(data, templates.STRUCTURED)[0] == (
        b"<jupyter_start><jupyter_text>Old<jupyter_code>print 1<jupyter_output>1"
    )


@pytest.mark.parametrize(
    ("metadata", "comment"),
    [
        ({"kernelspec": {"name": "ir"}}, "# m"),
        ({"language_info": {"name": "R"}}, "# m"),
        ({"kernelspec": {"name": "julia-1.9"}}, "# m"),
        ({"kernelspec": {"language": "scala"}}, "// m"),
        ({"language_info": {"name": "C++17"}, "kernelspec": {"name": "xeus-cling"}}, "// m"),
        ({"language_info": {"file_extension": ".hs"}}, "-- m"),
        ({"kernelspec": {"name": "conda-env-mypy37-py"}}, "# m"),
        ({"language_info": {"name": "octave"}}, "% m"),
    ],
)
def test_the_language_is_that_of_the_kernel(metadata: dict[str, Any], comment: str) -> None:
    text, reason = notebooks.convert(notebook(cell("markdown", "m"), cell("code", "%x"), metadata=metadata), "")
    assert reason in ("", "empty_notebook")
    # `%x` is a magic in Python alone.
    if "py" not in str(metadata):
        assert text.decode() == f"{comment}\n\n%x\n"


def test_a_notebook_without_metadata_is_python_if_it_looks_so() -> None:
    assert notebooks.convert(notebook(cell("code", "import os"), metadata={}), "") == (b"import os\n", "")
    assert notebooks.convert(notebook(cell("code", "x"), metadata={}), "")[1] == "notebook_language"


def test_magics() -> None:
    code = (
        "%%time\nimport os\nif os:\n    !ls \\\n  -l\n    %cd /\nx != y\nz = 5 \\\n  % 3\nhelp?\npip install a\nd = '!'"
    )
    other = "%%bash\nrm -r x"
    text, _ = notebooks.convert(notebook(cell("code", code), cell("code", other), cell("code", "x = 1")), "")
    expected = "import os\nif os:\n    pass\n    pass\nx != y\nz = 5 \\\n  % 3\nd = '!'\n\nx = 1\n"
    assert text.decode() == expected
    compile(text, "script", "exec")


def test_a_cell_may_be_indented_as_a_whole() -> None:
    text, _ = notebooks.convert(notebook(cell("code", " if x:\n   y\nz = 1"), cell("code", "\n  a = 1")), "")
    assert text.decode() == "if x:\n  y\nz = 1\n\na = 1\n"


def test_pictures_in_prose_are_cut() -> None:
    data = notebook(cell("markdown", f"![a](data:image/png;base64,{'A' * 500}) b"), cell("code", "x"))
    assert notebooks.convert(data, "")[0] == b"# ![a]() b\n\nx\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad_notebook"),
        (b"{", "bad_notebook"),
        (b"[]", "bad_notebook"),
        (b'{"cells": 5}', "bad_notebook"),
        (b'{"cells": [5, null, {}]}', "empty_notebook"),
        (notebook(), "empty_notebook"),
        (notebook(cell("markdown", "m")), "empty_notebook"),
        (notebook(cell("code", "%load x")), "empty_notebook"),
        (notebook(cell("code", "x"), metadata={"kernelspec": {"name": "brainfuck"}}), "notebook_language"),
        (b'{"cells":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "bad_notebook"),
    ],
)
def test_what_is_no_notebook_has_a_reason(data: bytes, reason: str) -> None:
    assert notebooks.convert(data, templates.SCRIPTS) == (b"", reason)


def test_a_notebook_without_a_pair_is_no_structured_one() -> None:
    assert notebooks.convert(notebook(cell("code", "x")), templates.STRUCTURED) == (b"", "notebook_no_pair")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["cells", "cell_type", "source", "outputs", "metadata", "kernelspec", "name", "text", "data"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_ends_with_a_text_or_a_reason(value: Any) -> None:
    for form in (templates.SCRIPTS, templates.STRUCTURED):
        text, reason = notebooks.convert(json.dumps(value).encode(), form)
        assert bool(text) != bool(reason)


def read(*inputs: str, **options: Any) -> list[batches.Row]:
    given = InputOptions(max_row_bytes=1 << 20, **options)
    shards = [shard for task in cut(Listing(inputs, given, by_input=True), 1 << 20) for shard in task]
    return [row for shard in shards for row in batches.rows(shard, given)]


def test_notebooks_of_a_folder_are_scripts_or_what_the_prefix_says(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/lesson.ipynb").write_bytes(LESSON)
    (tmp_path / "a/bad.ipynb").write_bytes(b"{}")
    (tmp_path / "a/code.py").write_text("x = 1\n")
    script, structured = (notebooks.convert(LESSON, form)[0] for form in (templates.SCRIPTS, templates.STRUCTURED))
    folder = {row.path: (row.text, row.reason, row.language) for row in read(str(tmp_path / "a"))}
    assert folder == {
        "bad.ipynb": (b"", "bad_notebook", None),
        "code.py": (b"x = 1\n", "", None),
        "lesson.ipynb": (script, "", None),
    }
    for prefix, text, language in (
        ("notebook-scripts", script, "jupyter-scripts"),
        ("notebook-texts", structured, "jupyter-structured"),
    ):
        for place in ("a", "a/lesson.ipynb", "a/*.ipynb"):
            rows = [row for row in read(f"{prefix}:{tmp_path / place}") if not row.reason]
            assert [(row.text, row.language) for row in rows] == [(text, language)]
    both = read(f"notebook-scripts:{tmp_path / 'a'}", f"notebook-texts:{tmp_path / 'a'}")
    assert [row.text for row in both if not row.reason] == [script, structured]


def test_a_notebook_may_be_larger_than_its_text(tmp_path: Path) -> None:
    picture = {"output_type": "display_data", "data": {"image/png": "A" * 3_000_000}}
    (tmp_path / "large.ipynb").write_bytes(notebook(cell("code", "x = 1", picture)))
    (tmp_path / "long.ipynb").write_bytes(notebook(cell("code", "x = 1\n" * 200_000)))
    found = {row.path: (row.size, row.reason) for row in read(str(tmp_path))}
    assert found["large.ipynb"] == (6, "")
    assert found["long.ipynb"][1] == "over_large"


def test_notebooks_in_archives_and_rows(tmp_path: Path) -> None:
    script = notebooks.convert(LESSON, templates.SCRIPTS)[0]
    (tmp_path / "n.ipynb").write_bytes(LESSON)
    with tarfile.open(tmp_path / "n.tar", "w") as archive:
        archive.add(tmp_path / "n.ipynb", "x/n.ipynb")
    rows = {
        "content": [LESSON.decode(), "print(1)", "{}"],
        "path": ["n.ipynb", "script.ipynb", "bad.ipynb"],
        "lang": ["Jupyter Notebook"] * 3,
    }
    pq.write_table(pa.table(rows), tmp_path / "n.parquet")
    assert [(row.text, row.reason) for row in read(str(tmp_path / "n.tar"))] == [(script, "")]
    found = [(row.text, row.reason) for row in read(str(tmp_path / "n.parquet"))]
    assert found == [(script, ""), (b"print(1)", ""), (b"", "bad_notebook")]


def test_dedup_compares_the_texts(tmp_path: Path) -> None:
    (tmp_path / "n.ipynb").write_bytes(LESSON)
    options = InputOptions()
    (shards,) = cut(Listing([str(tmp_path)], options), 1 << 20)
    (batch,) = batches.read(shards[0], options, ("text", "id"))
    assert batch.texts.to_pylist() == [notebooks.convert(LESSON, "")[0].decode()]
    left_out: Counter[str] = Counter()
    assert [row.row for row, _ in batches.texts(shards[0], options, left_out)] == [0]
