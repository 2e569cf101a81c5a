"""The walk: what git and the user leave out, repositories by their remotes, bare ones, and outputs of codeshell."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import program, recipe, rows, run_collect, write_tree

from codeshell.documents import git
from codeshell.documents.walk import Choice, Found, walk
from codeshell.errors import UserError


def command(directory: Path, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *words], cwd=directory, check=True, capture_output=True)


def found(root: Path, **settings: Any) -> dict[str, Found]:
    settings = {"max_file_bytes": 10**6, "vendored": False} | settings
    return {one.path: one for one in walk(str(root), **settings) if not one.path.split("/")[-1].startswith(".git")}


def reasons(root: Path, **settings: Any) -> dict[str, str]:
    return {path: one.reason for path, one in found(root, **settings).items()}


def test_gitignore_counts_in_checkouts_only(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {"a.py": "a", "build/b.py": "b", ".gitignore": "build/\n"})
    assert reasons(root) == {"a.py": "", "build/b.py": ""}
    command(root, "init", "-q")
    assert reasons(root) == {"a.py": "", "build": "ignored"}
    assert reasons(root, gitignore=False) == {"a.py": "", "build/b.py": ""}
    # Below the checkout, the patterns above count, but not against what the user named.
    write_tree(
        root, {"src/x.gen.py": "x", "src/build/y.py": "y", "src/.gitignore": "", ".gitignore": "*.gen.py\nbuild\n"}
    )
    assert reasons(root / "src") == {"build": "ignored", "x.gen.py": "ignored"}
    assert reasons(root / "build") == {"b.py": ""}


def test_a_checkout_inside_a_checkout_has_its_own_patterns(tmp_path: Path) -> None:
    files = {
        ".gitignore": "*.py\n!inner/\n",
        "inner/a.py": "a",
        "inner/b.c": "b",
        "c.py": "c",
        "inner/.gitignore": "*.c",
    }
    root = write_tree(tmp_path / "code", dict(files))
    command(root, "init", "-q")
    command(root / "inner", "init", "-q")
    assert reasons(root) == {"c.py": "ignored", "inner/a.py": "", "inner/b.c": "ignored"}


def test_patterns_of_the_user(tmp_path: Path) -> None:
    names = ("a.py", "b.c", "src/c.py", "src/gen/d.py", "docs/e.md", "docs/f.py")
    root = write_tree(tmp_path / "code", {name: program(1) for name in names})
    assert reasons(root, choice=Choice(exclude=["gen/", "/docs"])) == {
        "a.py": "", "b.c": "", "src/c.py": "", "src/gen": "excluded", "docs": "excluded",
    }  # fmt: skip
    chosen = Choice(["*.py"], ["/docs", "*.nothing"])
    assert {path for path, why in reasons(root, choice=chosen).items() if not why} == {
        "a.py", "src/c.py", "src/gen/d.py",
    }  # fmt: skip
    assert chosen.unused() == ["*.nothing"]
    only = reasons(root, choice=Choice(["/src/"], ["src/gen"]))
    assert only == {"a.py": "excluded", "b.c": "excluded", "docs/e.md": "excluded", "docs/f.py": "excluded"} | {
        "src/c.py": "",
        "src/gen": "excluded",
    }
    assert reasons(root, choice=Choice(["*", "!*.py"]))["a.py"] == "excluded"


def test_a_pattern_that_matches_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(1), "b.py": program(2)})
    run_collect(recipe(root, exclude=("b.py", "nothing/")), tmp_path / "run")
    assert "'nothing/': this pattern to include or exclude files matches nothing" in capsys.readouterr().err
    assert [row["path"] for row in rows(tmp_path / "run/collect", "documents")] == ["a.py"]


def test_patterns_choose_among_the_files_of_a_data_set(tmp_path: Path) -> None:
    line = '{"text": "x = %d\\n", "path": "%d.py"}\n'
    root = write_tree(tmp_path / "data", {f"{name}.jsonl": line % (i, i) for i, name in enumerate(("a", "b", "c/d"))})
    run_collect(recipe(root, exclude=("c/", "a.jsonl")), tmp_path / "run")
    assert [row["path"] for row in rows(tmp_path / "run/collect", "documents")] == ["1.py"]
    assert [row["rule"] for row in rows(tmp_path / "run/collect", "dropped")] == ["excluded", "excluded"]


def test_linguists_attributes(tmp_path: Path) -> None:
    attributes = "other/** linguist-vendored\ngen*.py linguist-generated\nvendor/mine/** -linguist-vendored\n"
    attributes += (
        "*.weird linguist-language=Python\n*.py5 linguist-language=Klingon\nsub/gen-not.py -linguist-generated\n"
    )
    names = ("a.py", "other/b.py", "sub/gen1.py", "sub/gen-not.py", "vendor/mine/c.go", "vendor/d/e.go", "vendor/f.go")
    root = write_tree(tmp_path / "code", {name: program(1) for name in (*names, "g.weird", "h.py5")})
    write_tree(root, {".gitattributes": attributes, "sub/.gitattributes": "gen1.py linguist-vendored\n"})
    assert reasons(root) == {
        "a.py": "",
        "g.weird": "",
        "h.py5": "unknown_language",
        "other/b.py": "vendored",
        "sub/gen-not.py": "",
        "sub/gen1.py": "generated",
        "vendor/d": "vendored",
        "vendor/f.go": "vendored",
        "vendor/mine/c.go": "",
    }
    assert set(reasons(root, vendored=True).values()) == {"", "unknown_language"}
    run_collect(recipe(root), tmp_path / "run")
    languages = {row["path"]: row["language"] for row in rows(tmp_path / "run/collect", "documents")}
    assert languages["g.weird"] == "python"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://github.com/owner/name.git", "owner/name"),
        ("https://user:ghp_token@github.com/owner/name", "owner/name"),
        ("https://github.com/owner/name.git?private_token=secret#x", "owner/name"),
        ("https://gitlab.com:8443/group/sub/name.git/", "group/sub/name"),
        ("ssh://git@host:22/owner/name.git", "owner/name"),
        ("git@github.com:owner/name.git", "owner/name"),
        ("host:owner/name", "owner/name"),
        ("git@host:/owner/name.git", "owner/name"),
        ("git+ssh://git@host/owner/name", "owner/name"),
        ("https://host/user:token@owner/name", ""),
        ("user:token@host:owner/name", ""),
        ("/srv/git/name.git", ""),
        ("../name.git", ""),
        ("file:///srv/git/name.git", ""),
        ("C:\\code\\name", ""),
        ("ext::sh -c touch% /tmp/x", ""),
        ("https://host/../../etc", ""),
        ("https://host/own\x1ber/name", ""),
        ("https://[bad/owner/name", ""),
        ("", ""),
    ],
)
def test_the_name_of_a_remote(address: str, name: str) -> None:
    assert git.name_of(address) == name


def test_repositories_by_their_remotes(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "all", {"one/a.py": "a", "two/b.py": "b", "none/c.py": "c", "local/d.py": "d"})
    addresses = {"one": "https://token@host/owner/one.git", "two": '"git@host:g/s/two"', "local": "../one"}
    for name, address in addresses.items():
        command(root / name, "init", "-q")
        with open(root / name / ".git/config", "a") as config:
            config.write('[remote "fork"]\n\turl = https://host/fork/x\n')
            config.write(f'[REMOTE "origin"]\n\tfetch = +x\n\turl = {address} ; c\n')
    command(root / "one", "add", "a.py")
    command(root / "one", "commit", "-qm", "x")
    command(root / "one", "worktree", "add", "-q", "../tree")
    repos = {path: one.repo for path, one in found(root).items()}
    assert repos == {
        "one/a.py": "owner/one",
        "two/b.py": "g/s/two",
        "none/c.py": "all/none",
        "local/d.py": "local",
        "tree/a.py": "owner/one",
    }


def test_bare_repositories(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "work", {"a.py": program(1), "sub/-b.py": program(2), "vendor/c.py": program(3)})
    write_tree(root, {"t\n.py": program(4), "g.py": program(5), ".gitattributes": "g.py linguist-generated\n"})
    (root / "link.py").symlink_to("a.py")
    command(root, "init", "-q")
    command(root, "add", "-A")
    command(root, "commit", "-qm", "x")
    bare = tmp_path / "all/name.git"
    command(tmp_path, "clone", "-q", "--bare", str(root), str(bare))
    # A configuration that would run commands, if anything asked for them.
    with open(bare / "config", "a") as config:
        config.write(
            f"[core]\n\tfsmonitor = touch {tmp_path}/ran\n\tpager = touch {tmp_path}/ran\n[alias]\n\tcat-file = !x\n"
        )
    write_tree(
        tmp_path / "all", {"other/HEAD": "no ref", "other/objects/x.py": program(6), "other/refs/y.py": program(7)}
    )
    run_collect(recipe(tmp_path / "all", bare), tmp_path / "run")
    documents = {(row["repo"], row["path"]): row["text"] for row in rows(tmp_path / "run/collect", "documents")}
    assert documents == {
        ("name", "name.git/a.py"): program(1),
        ("name", "name.git/sub/-b.py"): program(2),
        ("name", "name.git/t\n.py"): program(4),
        ("all/other", "other/objects/x.py"): program(6),
        ("all/other", "other/refs/y.py"): program(7),
    }
    run_collect(recipe(bare), tmp_path / "alone")
    assert [row["path"] for row in rows(tmp_path / "alone/collect", "documents")] == ["a.py", "sub/-b.py", "t\n.py"]
    assert reasons(bare)["link.py"] == "link" and reasons(bare)["vendor/c.py"] == "vendored"
    assert reasons(bare)["g.py"] == "generated"
    assert not (tmp_path / "ran").exists()


def test_a_bare_repository_that_is_empty_or_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path, "init", "-q", "--bare", "empty.git")
    with pytest.raises(UserError, match=r"empty\.git: no document in it \(left out: empty 1\)"):
        run_collect(recipe(tmp_path / "empty.git"), tmp_path / "run")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"empty\.git: a bare repository, which only git reads; install git"):
        run_collect(recipe(tmp_path / "empty.git"), tmp_path / "again")
    assert reasons(tmp_path)["empty.git"] == "unreadable"


RUN = {"run.json": "{}", "recipe.toml": "", "curated/x.py": program(1)}
DEDUP = {"job.json": '{\n"command": "dedup"\n}', "plan.json": "{}", "kept/x.py": program(1)}
INDEX = {"index.json": "{}", "segment-00001/x.py": program(1)}
TRAINED = {"run.lock": "1", "tokens/x.py": program(1)}


@pytest.mark.parametrize("files", [RUN, DEDUP, INDEX, TRAINED])
def test_outputs_of_codeshell_are_not_read(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0)} | {f"out/{name}": data for name, data in files.items()})
    assert reasons(root) == {"a.py": "", "out": "codeshell_output"}
    with pytest.raises(UserError, match=r"out: .*not an input; name "):
        run_collect(recipe(root / "out"), tmp_path / "run")
    # A part of it that the user names is data like any other.
    part = next(name for name in files if name.endswith("x.py")).split("/")[0]
    assert run_collect(recipe(root / "out" / part), tmp_path / "part")["documents"] == 1


def test_a_folder_of_data_does_not_count_an_output_below_it(tmp_path: Path) -> None:
    line = '{"text": "x = 1\\n", "path": "a.py"}\n'
    root = write_tree(tmp_path / "data", {"a.jsonl": line, "out/kept/data/a.jsonl": line} | {
        f"out/{name}": data for name, data in DEDUP.items()
    })  # fmt: skip
    assert run_collect(recipe(root), tmp_path / "one")["documents"] == 1
    assert run_collect(recipe(root / "**/*.jsonl"), tmp_path / "two")["documents"] == 1
    assert run_collect(recipe(root / "out/*/data/*.jsonl"), tmp_path / "three")["documents"] == 1


def test_an_own_directory_is_one_entry(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0)})
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    statistics = run_collect(recipe(root), root / "runs/mine")
    assert statistics["dropped"] == {"codeshell_output": 1, "link": 1}
    # Another run finds the whole of it, as the pipeline leaves it, and does not follow the link to itself.
    write_tree(root / "runs/mine", {"run.json": "{}", "recipe.toml": ""})
    assert run_collect(recipe(root), root / "link")["documents"] == 1
