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


ATTRIBUTES = ("linguist-vendored", "-linguist-vendored", "linguist-vendored=false", "linguist-generated=true")
ATTRIBUTES += ("linguist-language=C++", "!linguist-generated", "text eol=lf linguist-generated", "binary")


@pytest.mark.parametrize("seed", range(10))
def test_random_attributes_are_those_that_git_gives(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    git(tmp_path, "init", "-q")
    parts = [part for part in PARTS if " " not in part and not part.startswith("#")]
    lines = []
    for _ in range(12):
        text = "/".join(choose.choice(parts) for _ in range(choose.choice((1, 1, 2, 3))))
        lines.append(f"{choose.choice(('', '', '/'))}{text} {choose.choice(ATTRIBUTES)}")
    (tmp_path / ".gitattributes").write_text("\n".join(lines) + "\n")
    paths = ["/".join(choose.choice(NAMES) for _ in range(choose.randrange(1, 4))) for _ in range(40)]
    names = list(patterns.LINGUIST)
    answer = git(tmp_path, "check-attr", "-z", "--stdin", *names, data=os.fsencode("\0".join(paths)))
    fields = [os.fsdecode(field) for field in answer.split(b"\0")]
    expected = {(path, name): value for path, name, value in zip(fields[::3], fields[1::3], fields[2::3], strict=False)}
    mine = Attributes(lines)
    for path in paths:
        found: dict[str, str | None] = {}
        mine.update(os.fsencode(path), os.fsencode(path.rpartition("/")[2]), found)
        for name in names:
            value = {"set": "true", "unset": "false", "unspecified": None}.get(*[expected[path, name]] * 2)
            assert found.get(name) == value, (path, name, lines)


@pytest.mark.parametrize(
    ("lines", "path", "decided"),
    [
        (["*.log", "!keep.log"], "a/keep.log", False),
        (["!keep.log", "*.log"], "a/keep.log", True),
        (["/a.py"], "b/a.py", None),
        (["a/**/b"], "a/b", True),
        (["**/b"], "x/y/b", True),
        (["?.py"], "é.py", None),  # a byte, not a character
        (["caf\udce9"], "caf\udce9", True),
        (["a\\ "], "a ", True),
        (["a "], "a", True),
        (["a\r"], "a", True),
        ([r"\#a", r"\!b"], "!b", True),
        (["[[:upper:]]*"], "README", True),
        (["[a"], "[a", None),
    ],
)
def test_patterns(lines: list[str], path: str, decided: bool | None) -> None:
    name = os.fsencode(path.rpartition("/")[2])
    assert Rules(lines).decide(os.fsencode(path), name, directory=False) is decided


def test_hostile_patterns_take_no_time() -> None:
    rules = Rules(["*a" * 60 + "b", "**/a/" * 40 + "b", "a" * 200 + "*" * 200 + "b"])
    start = time.monotonic()
    assert rules.decide(b"a/" * 150 + b"a" * 200, b"a" * 200, directory=False) is None
    assert time.monotonic() - start < 5


def test_a_pattern_file_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfa\n")
    (tmp_path / "large").write_bytes(b"a\n" * (patterns.MAX_FILE_BYTES // 2 + 1))
    assert patterns.read_lines(str(tmp_path / "pipe")) == [""]
    for name in ("link", "large", "missing"):
        assert patterns.read_lines(str(tmp_path / name)) is None
    assert patterns.read_lines(str(tmp_path / "bom")) == ["a", ""]
