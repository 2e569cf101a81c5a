"""What importing the package may cost, and which room may know which."""

from __future__ import annotations

import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


COMMAND_LINE = (
    "import codeshell.cli as c, importlib; [importlib.import_module(f'codeshell.cli.{n}') for n in c.COMMANDS]"
)
DATA = "import codeshell.data.collect, codeshell.data.filter, codeshell.data.neardup, codeshell.data.split"


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import codeshell", {"torch", "numpy", "pyarrow", "tokenizers", "codeshell._C"}),
        (COMMAND_LINE, {"torch", "numpy", "pyarrow", "tokenizers", "transformers"}),
        ("import codeshell.engine, codeshell.recipe, codeshell.pipeline", {"torch", "pyarrow"}),
        (DATA, {"torch"}),
        ("import codeshell.dedup", {"torch"}),
        ("import codeshell.tokenizer", {"torch", "transformers"}),
        ("import codeshell.train, codeshell.evaluate, codeshell.report", {"torch"}),
        ("import codeshell._C", {"torch", "numpy"}),
    ],
)
def test_imports_stay_light(statement: str, forbidden: set[str]) -> None:
    assert not modules_after(statement) & forbidden


def test_every_public_room_loads_on_first_use() -> None:
    import codeshell

    functions = {"patch", "unpatch"}
    for name in set(codeshell.__all__) - functions:
        assert getattr(codeshell, name).__name__ == f"codeshell.{name}"
    for name in functions:  # they need transformers, which is optional
        pytest.importorskip("transformers")
        assert getattr(codeshell, name).__module__ == "codeshell.integrations.patching"


def test_an_unknown_name_is_an_attribute_error() -> None:
    import codeshell

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = codeshell.nonsense


def test_extension_answers_without_a_driver() -> None:
    from codeshell import _C

    assert _C.simd_level() in {"scalar", "neon", "avx2", "avx512"}
    assert isinstance(_C.gpu_devices(), list)
