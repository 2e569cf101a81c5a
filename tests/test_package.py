"""What importing the package may cost; tests/test_imports.py says which room may know which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "codeshell"


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


COMMAND_LINE = (
    "import codeshell.cli as c, importlib; [importlib.import_module(f'codeshell.cli.{n}') for n in c.COMMANDS]"
)


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import codeshell", {"torch", "numpy", "pyarrow", "tokenizers", "codeshell._C"}),
        (COMMAND_LINE, {"torch", "numpy", "pyarrow", "tokenizers", "transformers"}),
        ("import codeshell.engine, codeshell.recipe, codeshell.pipeline", {"torch", "pyarrow"}),
        ("import codeshell.recipe, codeshell.registry, codeshell.environment", {"torch", "numpy"}),
        ("import codeshell.tokenizer", {"torch", "transformers"}),
        ("import codeshell.train, codeshell.evaluate, codeshell.report", {"torch"}),
        ("import codeshell._C", {"torch", "numpy"}),
    ],
)
def test_imports_stay_light(statement: str, forbidden: set[str]) -> None:
    assert not modules_after(statement) & forbidden


@pytest.mark.parametrize("room", ["documents", "data", "dedup", "engine", "scorers"])
def test_no_file_of_a_data_room_loads_torch(room: str) -> None:
    files = (PACKAGE / room).rglob("*.py")
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files]
    loaded = modules_after("import " + ", ".join(sorted(name.removesuffix(".__init__") for name in names)))
    assert f"codeshell.{room}" in loaded
    assert not loaded & {"torch", "transformers"}


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--version"], {"torch", "numpy", "pyarrow"}),
        (["dedup", "TEXTS", "-o", "OUT", "--workers", "1"], {"torch"}),
        (["tokenizer", "train", "TEXTS", "-o", "OUT", "--vocab-size", "300"], {"torch"}),
        (["run", "RECIPE", "-o", "OUT", "--workers", "1", "--until", "tokens"], {"torch"}),
    ],
)
def test_a_command_on_documents_does_not_load_torch(arguments: list[str], heavy: set[str], tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number}.py").write_text(f"def f_{number}(x):\n    return x * {number}\n" * 9)
    recipe = f'[collect]\ninputs = ["{tmp_path / "texts"}"]\n[rules]\nlanguage_floor = 0\n'
    (tmp_path / "recipe.toml").write_text(recipe)
    places = {"TEXTS": tmp_path / "texts", "RECIPE": tmp_path / "recipe.toml", "OUT": tmp_path / "out"}
    argv = [str(places.get(argument, argument)) for argument in arguments]
    code = (
        "import sys\nfrom codeshell.cli import main\ntry:\n    code = main(sys.argv[1:])\n"
        "except SystemExit as end:\n    code = end.code\nprint()\nprint(code, *sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    status, *loaded = result.stdout.splitlines()[-1].split()
    assert status == "0", result.stderr
    assert not set(loaded) & heavy


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
