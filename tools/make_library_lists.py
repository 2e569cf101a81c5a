"""Write codeshell/scorers/library_lists.toml: names of packages and of standard modules from public lists.

    pip download --no-deps pipreqs==0.5.0 stdlibs==2026.9.3
    npm pack npm-high-impact@1.13.0 builtin-modules@5.5.0
    git clone https://github.com/rust-lang/rust-playground; git clone https://github.com/avelino/awesome-go
    python tools/make_library_lists.py
        --pipreqs pipreqs-0.5.0-py3-none-any.whl --stdlibs stdlibs-2026.9.3-py3-none-any.whl
        --npm npm-high-impact-1.13.0.tgz --node builtin-modules-5.5.0.tgz
        --crates rust-playground/compiler/base/Cargo.toml --go awesome-go/README.md --date 2026-11-29
        > codeshell/scorers/library_lists.toml

Only names are taken, which are facts. The lists' licences: pipreqs Apache-2.0, stdlibs MIT, npm-high-impact MIT,
builtin-modules MIT, rust-playground MIT or Apache-2.0, awesome-go MIT.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import tarfile
import textwrap
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

NPM_NAMES = 3000
"""The npm packages that most others depend on; the list has 4,687."""


def pipreqs(wheel: Path) -> list[str]:
    """`import=package` for Python, from pipreqs's table."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read("pipreqs/mapping").decode().split()
    pairs = dict(line.split(":", 1) for line in lines if ":" in line)
    # An import's first part decides, so the parts after a dot are left out.
    return [f"{name}={package}" for name, package in pairs.items() if re.fullmatch(r"\w+", name)]


def stdlibs(wheel: Path) -> set[str]:
    """Modules of the standard library of any Python from 2.7 to the newest."""
    names: set[str] = set()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            if re.fullmatch(r"stdlibs/py(27|3\d+)\.py", entry):
                for node in ast.walk(ast.parse(archive.read(entry))):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                        names.add(node.value)
    return names


def packed(archive: Path, name: str) -> str:
    """The text of a file of an npm package."""
    with tarfile.open(archive) as package:
        member = package.extractfile(f"package/{name}")
        assert member is not None, name
        return member.read().decode()


def npm(archive: Path) -> list[str]:
    """Packages by the number of packages that depend on them; type declarations are no libraries."""
    names = re.findall(r"^  '([^']+)',?$", packed(archive, "lib/top-dependent.js"), re.MULTILINE)
    return [name for name in names if not name.startswith("@types/")][:NPM_NAMES]


def crates(manifest: Path) -> list[str]:
    """`import=package` of the crates that the Rust Playground offers: the most downloaded ones, and what they need."""
    names = [entry["package"] for entry in tomllib.loads(manifest.read_text())["dependencies"].values()]
    return [name if "-" not in name else f"{name.replace('-', '_')}={name}" for name in names]


def go(readme: Path) -> set[str]:
    """Repositories that the list of Go libraries names."""
    found = re.findall(r"\]\(https://(github\.com/[\w.-]+/[\w.-]+?)/?\)", readme.read_text())
    return {name.removesuffix(".git") for name in found}


def section(language: str, source: str, date: str, standard: Iterable[str], known: Iterable[str]) -> str:
    def lines(names: Iterable[str]) -> str:
        return "\n".join(
            textwrap.wrap(" ".join(sorted(set(names))), 120, break_long_words=False, break_on_hyphens=False)
        )

    return (
        f'[{language}]\nsource = "{source}"\ndate = {date}\n'
        f'standard = """\n{lines(standard)}\n"""\nknown = """\n{lines(known)}\n"""\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("pipreqs", "stdlibs", "npm", "node", "crates", "go"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--date", required=True, help="the day on which the lists were fetched, as 2026-11-29")
    args = parser.parse_args()
    print(
        "# Names of packages and standard modules from public lists. "
        "Made by tools/make_library_lists.py; do not edit.\n"
    )
    python = f"standard: {args.stdlibs.stem}; known: the table of {args.pipreqs.stem}"
    print(section("python", python, args.date, stdlibs(args.stdlibs), pipreqs(args.pipreqs)))
    node = json.loads(packed(args.node, "builtin-modules.json"))
    javascript = f"standard: {args.node.stem}; known: {args.npm.stem}, the first {NPM_NAMES} by dependents"
    print(section("javascript", javascript, args.date, node, npm(args.npm)))
    print(section("rust", "crates of the Rust Playground", args.date, [], crates(args.crates)))
    print(section("go", "repositories of github.com/avelino/awesome-go", args.date, [], go(args.go)))


if __name__ == "__main__":
    main()
