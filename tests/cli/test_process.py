"""The command as a process: closed and full streams, odd names, recipe errors before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codeshell.cli import main

CODESHELL = f"{sys.executable} -m codeshell"


def shell(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("codeshell ", CODESHELL + " ", 1)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | variables,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe and some code, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("mini.toml").write_text(
        'name = "mini"\n[rules]\nlanguage_floor = 0\n[split]\nvalid = 0.0\ntest = 0.0\n'
        "[tokenizer]\nbase_vocab_size = 300\n"
    )
    Path("code").mkdir()
    for number in range(4):
        text = "".join(f"def f{number}_{line}(a):\n    return a + {line * number}\n" for line in range(20))
        Path(f"code/m{number}.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["codeshell info > /dev/full", "codeshell --help > /dev/full"])
def test_a_full_stdout_is_one_line(command: str, unbuffered: str) -> None:
    done = shell(command, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "codeshell: error: standard output or a temporary file: No space left on device; free some space, or write "
        "elsewhere"
    ]


@pytest.mark.parametrize("streams", ["2>&-", ">&-", "<&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_command_works_without_a_stream(folder: Path, streams: str) -> None:
    """A closed stream's number must not go to a file of the run, either."""
    done = shell(f"codeshell run mini.toml --input code -o run --until filter --workers 2 {streams}")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (folder / "run" / "filter" / "stats.json").exists()
    assert (folder / "run" / "run.lock").read_text().isdigit()


def test_a_wrong_argument_on_a_full_or_closed_stderr_keeps_its_code() -> None:
    assert shell("codeshell run --nope 2>/dev/full").returncode == 2
    assert shell("codeshell nope 2>&-").returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_path_can_be_printed(folder: Path, encoding: str) -> None:
    done = shell("codeshell dedup code -o 'é🚀' --workers 1", PYTHONIOENCODING=encoding, LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert ("é🚀" if encoding == "utf-8" else "\\xe9\\U0001f680") in done.stdout


@pytest.mark.parametrize("name", [b"\xf0\x9f\x9a\x80 app", b"caf\xe9", b"a\nb", b'it\'s "q"', b"-x", b"#1 [x]"])
def test_run_reads_a_folder_of_any_name_and_resumes(name: bytes, folder: Path) -> None:
    os.rename(b"code", name)  # noqa: PTH104 (bytes)
    command = ["run", "mini.toml", f"--input={os.fsdecode(name)}", "-o", "run", "--until", "collect", "--workers", "1"]
    assert main(command) == 0
    assert main(command) == 0


@pytest.mark.parametrize(
    "output", ["", "x" * 300, "caf\udce9", "/proc/x", "mini.toml", "mini.toml/x", "s3://b/x", "loop"]
)
def test_outputs_that_cannot_be_are_one_line(output: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("loop").symlink_to("loop")
    for command in (["run", "mini.toml", "--input", "code", "--workers", "1"], ["train", "mini.toml"]):
        assert main([*command, "-o", output]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("codeshell: error: ")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('rules.languages=["Python"]', "rules.languages"),
        ("rules.overrides.python.max_line=300", "max_line"),
        ("split.test=1.0", "split"),
        ("tokenizer.path=/nope", "/nope"),
        ('score.scorers=["nope.py:X"]', "nope.py"),
        ('score.scorers=["text"]', "leave it out"),
        ('rules.own=["nope.py:X"]', "nope.py"),
        ("near_dedup.rows=100000", "near_dedup"),
    ],
)
def test_what_the_recipe_alone_shows_is_told_before_any_work(
    setting: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "mini.toml", "--input", "code", "-o", "run", "--workers", "1", "--set", setting]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert not (folder / "run" / "collect").exists()


def test_settings_that_a_scorer_does_not_take(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(
        "import pyarrow as pa\n"
        "class Lines:\n"
        "    version, columns = 1, pa.schema([('my_lines', pa.int64())])\n"
        "    def __init__(self, most: int = 3) -> None: ...\n"
        "    def score(self, batch): return {'my_lines': [1] * batch.num_rows}\n"
    )
    command = ["run", "mini.toml", "--input", "code", "-o", "run", "--workers", "1", "--until", "score"]
    command += ["--set", 'score.scorers=["mine.py:Lines"]', "--set"]
    assert main([*command, 'score.settings."mine.py:Lines".least=3']) == 2
    assert "got an unexpected keyword argument 'least'; its settings: most" in capsys.readouterr().err
    assert main([*command, 'score.settings."mine.py:Lines".most=3']) == 0


def test_what_a_stage_drops_is_said_after_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("code/copy.py").write_bytes(Path("code/m1.py").read_bytes())
    Path("code/long.py").write_text(f"x = '{'a' * 3000}'\n")
    command = ["run", "mini.toml", "--input", "code", "-o", "run", "--workers", "1", "--until", "filter"]
    assert main(command) == 0
    told = capsys.readouterr().err.splitlines()
    (line,) = [line for line in told if line.startswith("filter: dropped ")]
    assert "1 exact_duplicate" in line and "1 max_line_length" in line and "codeshell explain" in line
    assert main(command) == 0
    assert "dropped" not in capsys.readouterr().err
    assert main([*command, "--set", "rules.language_floor=100000000", "--until", "filter"]) == 2
    assert "lower rules.language_floor" in capsys.readouterr().err


def test_an_error_with_a_file_is_one_line_and_a_fault_of_ours_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(args: object) -> int:
        open("/nowhere/x").close()
        return 0

    monkeypatch.setattr("codeshell.cli.info.main", refuse)
    assert main(["info"]) == 2
    assert capsys.readouterr().err.startswith("codeshell: error: /nowhere/x: No such file or directory")

    def fault(args: object) -> int:
        raise ValueError("ours")

    monkeypatch.setattr("codeshell.cli.info.main", fault)
    with pytest.raises(ValueError, match="ours"):
        main(["info"])
