"""`codeshell lm train` as a user runs it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.cli import main
from codeshell.ngram.model import LanguageModel


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    for number in range(30):
        (folder / f"m{number}.py").write_text(f"def f{number}(x):\n    return x + {number}\n" * 20)
    (folder / "a.go").write_text("package a\n\nfunc A() int { return 1 }\n" * 20)
    return folder


def test_folder_becomes_a_model(code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, arpa = tmp_path / "m.lm", tmp_path / "m.arpa"
    assert main(["lm", "train", str(code), "-o", str(model), "--arpa", str(arpa), "--threads", "2"]) == 0
    printed = capsys.readouterr().out
    assert "31 documents" in printed
    assert "order 3: " in printed
    assert f"written to {model} (" in printed and f"{arpa} (" in printed
    assert "0.5, 1 and 1.5 are used there" in printed  # so small a text has no usable counts
    loaded = LanguageModel.load(model)
    assert loaded.about["order"] == 3
    about = json.loads(loaded.handle.metadata)
    assert (about["documents"], about["units"], len(about["units_hash"])) == (31, "lexical", 16)
    assert arpa.read_text().startswith("\\data\\\nngram 1=")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "m.arpa", "m.lm"]


def test_language_vocabulary_and_quantize(code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.lm", tmp_path / "bad.lm"
    assert main(["lm", "train", str(code), "-o", str(good), "--language", "Python", "--vocabulary", "200"]) == 0
    printed = capsys.readouterr().out
    assert "30 documents" in printed and "1 other_language" in printed
    command = ["lm", "train", str(code / "a.go"), "-o", str(bad), "--vocabulary", str(good), "--prune", "0", "0", "1"]
    assert main([*command, "--quantize"]) == 0
    assert "of them kept" in capsys.readouterr().out
    units = [LanguageModel.load(path).handle.units.serialize() for path in (good, bad)]
    assert units[0] == units[1]


def test_rows_and_files_of_the_same_text_give_the_same_model(code: Path, tmp_path: Path) -> None:
    texts = [path.read_text() for path in sorted(code.iterdir())]
    pq.write_table(pa.table({"content": texts, "path": ["x"] * len(texts)}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = []
    for number, given in enumerate((code, tmp_path / "t.parquet", tmp_path / "t.jsonl")):
        model = tmp_path / f"{number}.lm"
        assert main(["lm", "train", str(given), "-o", str(model), "--threads", str(number + 1)]) == 0
        made.append(model.read_bytes())
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-o MODEL: missing"),
        (["-o", "{tmp}/no/m.lm"], "is no directory; make it first"),
        (["-o", "{tmp}"], "is a directory; name a file in it"),
        (["-o", "{tmp}/m.lm", "--order", "7"], "--order 7: give 1 to 6"),
        (["-o", "{tmp}/m.lm", "--memory", "100MiB"], "too little; give 256MiB or more"),
        (["-o", "{tmp}/m.lm", "--prune", "1", "0"], "--prune 1 0: give at most 3 numbers"),
        (["-o", "{tmp}/m.lm", "--vocabulary", "many"], "--vocabulary many: no number, and no such file"),
        (["-o", "{tmp}/m.lm", "--vocabulary", "12"], "--vocabulary 12: give 128 to"),
        (["-o", "{tmp}/m.lm", "--language", "Pyton"], "--language Pyton: not known; did you mean python?"),
        (["-o", "{tmp}/m.lm", "--language", "rust"], "no text in rust in it (31 other_language left out)"),
        (["-o", "{tmp}/m.lm", "--units", "bpe"], "units bpe: need --tokenizer FILE"),
        (["-o", "{tmp}/m.lm", "--units", "bpe", "--tokenizer", "{tmp}/code/a.go"], "no tokenizer.json"),
        (["-o", "{tmp}/m.lm", "--threads", "-1"], "--threads: -1"),
    ],
)
def test_bad_arguments_are_one_line(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [word.format(tmp=tmp_path) for word in arguments]
    assert main(["lm", "train", str(code), *given]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["code"]


def test_empty_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("")
    assert main(["lm", "train", str(tmp_path / "a.py"), "-o", str(tmp_path / "m.lm")]) == 2
    assert "no text in it" in capsys.readouterr().err
    assert not (tmp_path / "m.lm").exists()


def test_bpe(code: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "two words"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([path.read_text() for path in sorted(code.iterdir())], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = tmp_path / "m.lm"
    command = ["lm", "train", str(code), "-o", str(model), "--units", "bpe", "--tokenizer", str(tmp_path)]
    assert main(command) == 0
    units = LanguageModel.load(model).handle.units
    assert units.kind == "bpe"
    assert units.extra == (tmp_path / "tokenizer.json").read_bytes()
    # Tokens that an ARPA file could not tell from its own words.
    assert [units.word(one) for one in (3, 4)] == ["\\x3Cs>", "two\\x20words"]
    about = json.loads(LanguageModel.load(model).handle.metadata)
    expected = sum(len(tokenizer.encode(path.read_text()).ids) + 1 for path in code.iterdir())
    assert about["tokens"] == expected


def opened(process: int) -> list[str]:
    """What a process has open, as the system names it."""
    names = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed in the meantime
            names.append(str(link.readlink()))
    return names


def test_killed_command_leaves_nothing_that_stops_the_next(code: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.mkdir()
    for number in range(120):
        lines = (f"name_{number}_{line} = value{line * number % 9973}\n" for line in range(3000))
        (big / f"{number}.py").write_text("".join(lines))
    model = tmp_path / "m.lm"
    command = [sys.executable, "-m", "codeshell", "lm", "train", str(big), "-o", str(model), "--order", "6"]
    job = subprocess.Popen([*command, "--memory", "256MiB"], stdout=subprocess.DEVNULL)
    # It is killed in the middle, while it has a temporary file open beside the model.
    end = time.monotonic() + 60
    while time.monotonic() < end and job.poll() is None:
        if any(name.startswith(str(tmp_path)) and "deleted" in name for name in opened(job.pid)):
            break
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert not model.exists()
    left = {path.name for path in tmp_path.iterdir()} - {"code", "big"}
    assert left <= {"m.lm.partial"}
    assert main(["lm", "train", str(code), "-o", str(model)]) == 0
    assert {path.name for path in tmp_path.iterdir()} - {"code", "big"} == {"m.lm"}
