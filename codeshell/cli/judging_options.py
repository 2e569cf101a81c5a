"""The options of the commands that run what a model wrote: isolation, workers, limits, toolchains, journal."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser, journal: str = "FILE") -> None:
    """Give a parser the options; `journal` says whether that of verdicts is a FILE, or a DIR with one for each task."""
    group = parser.add_argument_group("running the programs")
    group.add_argument(
        "--level",
        type=int,
        metavar="N",
        help="isolation that is asked for: 4 namespaces and cgroup, 3 namespaces, 2 Landlock, 1 limits alone; less is "
        "an error (default: the best of this machine, 2 or more)",
    )
    group.add_argument("--unsafe", action="store_true", help="accept level 1, at which programs can read your files")
    group.add_argument("--workers", type=int, metavar="N", help="programs at a time (default: one per core)")
    group.add_argument(
        "--toolchain",
        action="append",
        default=[],
        dest="toolchain",
        metavar="LANG=DIR",
        help="a folder that is used as the root of the sandbox for a language, for example swift=DIR",
    )
    group.add_argument("--journal", metavar=journal, help="keep the verdicts here, so that a killed evaluation resumes")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Give a parser the limits of one program."""
    group = parser.add_argument_group("limits of one program")
    group.add_argument("--cpu-seconds", type=float, metavar="S", help="of all its processes (default: 10)")
    group.add_argument("--wall-seconds", type=float, metavar="S", help="a net for programs that wait (default: 60)")
    group.add_argument("--memory", metavar="SIZE", help="512MiB, for example (default: 4GiB)")


def limits(args: argparse.Namespace) -> dict[str, Any]:
    """The limits that were given, as fields of `Limits`.

    Raises:
        UserError: one is out of range.
    """
    from codeshell.cli.sizes import parse_size
    from codeshell.errors import UserError

    given: dict[str, Any] = {}
    for name in ("cpu_seconds", "wall_seconds"):
        value = getattr(args, name)
        if value is not None:
            # Not `<= 0`: a NaN is out of range, too.
            if not 0 < value < 1e6:
                raise UserError(f"--{name.replace('_', '-')} {value}: give more than 0 seconds")
            given[name] = value
    if args.memory is not None:
        given["memory"] = parse_size(args.memory, "--memory")
    return given


def toolchains(args: argparse.Namespace) -> dict[str, str]:
    """Language to folder.

    Raises:
        UserError: no `LANG=DIR`, no such folder, or a language twice.
    """
    from pathlib import Path

    from codeshell.engine.files import user_path
    from codeshell.errors import UserError

    folders: dict[str, str] = {}
    for text in args.toolchain:
        language, equals, folder = text.partition("=")
        if not (language and equals and folder):
            raise UserError(f"--toolchain {text}: write LANG=DIR, for example swift=/opt/swift-root")
        if language in folders:
            raise UserError(f"--toolchain {text}: {language} is there twice; give one folder")
        if not user_path(folder).is_dir():
            raise UserError(f"--toolchain {text}: no such folder; give one that holds the toolchain and its libraries")
        folders[language] = str(Path(user_path(folder)).resolve())
    return folders
