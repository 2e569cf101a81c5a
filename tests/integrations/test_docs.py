"""The examples of docs/integrations.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from helpers import tiny_transformers  # noqa: F401 (skips without transformers)

from codeshell.integrations import ARCHITECTURES

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()


def test_the_examples_run(capsys):
    names: dict[str, object] = {}
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        exec(example, names)
    printed = capsys.readouterr().out.strip()
    assert f"# {printed}\n" in PAGE
    assert names["model"].config._attn_implementation == "codeshell"


def test_every_type_is_in_the_table():
    (table,) = re.findall(r"^\| `model_type` .*?\n\n", PAGE, re.DOTALL | re.MULTILINE)
    rows = "".join(line for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) - {"model_type"} == set(ARCHITECTURES)
