"""`codeshell report`: render the report of a run again."""

from __future__ import annotations

import argparse

HELP = "render the HTML report of a run again; sections of stages that have not run say so"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell report runs/demo\n"
        "  codeshell report runs/demo -o /tmp/report.html\n"
        "The page needs no network and no other file. A run that is still going can be reported too."
    )
    parser.add_argument("run", metavar="RUN", help="the directory of a run")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the page (default: RUN/report.html)")


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell.errors import UserError
    from codeshell.report.stage import write

    run = Path(args.run)
    if not run.is_dir():
        raise UserError(f"{run}: no such directory; give the directory of a codeshell run")
    output = Path(args.output) if args.output else run / "report.html"
    if output.is_dir():
        raise UserError(f"{output}: is a directory; give a file name")
    write(run, output)
    print(output)
    return 0
