"""Patterns of `.gitignore` and `.gitattributes`, against git itself."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from codeshell.documents import patterns, walk
from codeshell.documents.patterns import Attributes, Rules

NAMES = ("a", "b", "ab", "a.py", "b.py", "ab.pyc", "build", "[x]", "é.py", "A.py", "a b", "#c", "!d", "x-1", "x]y")
PARTS = (
    *("*", "?", "**", "a", "b", "ab", "a*", "*b", "*.py", "?.py", "??.py", "[a-b]", "[!a]*", "[^b].py", "[[:upper:]]*"),
    *(
        "build",
        r"\[x\]",
        "[x]",
        "é.py",
        "*.py[co]",
        "a**b",
        "***",
        r"\a",
        "[a",
        "x[]]y",
        "x[-]1",
        "[]-a]*",
        "a\\",
        "*x*",
    ),
    *("[z-a]", "[[:digit:]]", "[[:what:]]", r"[\]]", "a b", "*.*", "[a-", "[!]]*", "[[:alpha:]", "*a*b*"),
)


def git(directory: Path, *words: str, data: bytes = b"") -> bytes:
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, cwd=directory, input=data, env=environment, capture_output=True, check=True).stdout


def random_line(choose: random.Random) -> str:
    text = "/".join(choose.choice(PARTS) for _ in range(choose.choice((1, 1, 1, 2, 2, 3, 4))))
    before = choose.choice(("", "", "", "/", "!", "!", "!/", "\\", "#", " ", "\\#", "\\!"))
    return before + text + choose.choice(("", "", "", "/", "/", " ", "\\ ", "\r", "/**", "//"))


def random_tree(root: Path, choose: random.Random) -> None:
    for _ in range(40):
        folder = root.joinpath(*(choose.choice(NAMES) for _ in range(choose.randrange(4))))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / choose.choice(NAMES)
            if not file.exists():
                file.write_text("x\n")
        except (FileExistsError, NotADirectoryError):
            continue
    places = [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]
    for place in choose.sample(places, min(3, len(places))):
        lines = [random_line(choose) for _ in range(choose.randrange(1, 6))]
        (place / ".gitignore").write_text("\n".join(lines) + choose.choice(("", "\n")))


@pytest.mark.parametrize("seed", range(40))
def test_a_random_tree_is_ignored_as_git_ignores_it(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    root = tmp_path / "tree"
    root.mkdir()
    random_tree(root, choose)
    git(root, "init", "-q")
    (root / ".git/info/exclude").write_text(random_line(choose) + "\n")
    # The files that git would add; it lists none in ignored folders.
    listed = git(root, "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore", "--exclude-standard")
    expected = {os.fsdecode(name) for name in listed.split(b"\0") if name}
    found = list(walk.walk(str(root), max_file_bytes=10**6, vendored=True))
    ignored = {one.path for one in found if one.reason == "ignored"}
    files = {one.path for one in found if one.reason != "ignored" and not one.path.startswith(".git/")} - {".git"}
    assert files == expected
    for path in ignored:
        assert not any(name == path or name.startswith(path + "/") for name in expected)
