"""What is recorded of the place where something runs."""

from __future__ import annotations

import sys

import pytest

from codeshell.environment import environment, without_folders


@pytest.mark.parametrize(
    ("word", "short"),
    [
        ("/home/me/benchmarks/rotary.py", "rotary.py"),
        ("--json=/home/me/out.json", "--json=out.json"),
        ("rensa=/opt/venv/bin/python", "rensa=python"),
        ("../corpus/", "corpus"),
        ("--threads", "--threads"),
        ("2", "2"),
        ("", ""),
        ("/", "/"),
        ("--rate=0.5", "--rate=0.5"),
    ],
)
def test_paths_of_a_word_are_cut_to_their_last_name(word: str, short: str) -> None:
    assert without_folders(word) == short


def test_the_command_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["/home/me/benchmarks/dedup.py", "--corpus", "/data/secret/code", "--json=a/b.json"]
    )
    assert environment(1)["command"] == "dedup.py --corpus code --json=b.json"
