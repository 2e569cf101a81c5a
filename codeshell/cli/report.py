"""`codeshell report`: write the HTML page of a run, or of what `codeshell dedup` wrote, or a figure of a run."""

from __future__ import annotations

import argparse

HELP = "write the HTML report of a run, or of what codeshell dedup wrote"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell report runs/demo\n"
        "  codeshell report runs/demo -o /tmp/report.html\n"
        "  codeshell report duplicates\n"
        "  codeshell report runs/demo --figure 2 -o figure2.svg\n"
        "The page is one file and needs no network. A run that has not finished can be reported too: the sections of\n"
        "stages that have not run say so."
    )
    parser.add_argument("run", metavar="RUN", help="the directory of a run, or of the output of codeshell dedup")
    parser.add_argument("-o", "--output", metavar="FILE", help="the file to write (default: RUN/report.html)")
    parser.add_argument(
        "--figure",
        type=int,
        choices=(2,),
        help="write a figure as SVG (default: RUN/figure2.svg) instead of the page; 2 is the loss over tokens with the "
        "phases, the learning rate, and the loss by position",
    )


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell.errors import UserError
    from codeshell.report import dedup, figure, run_page

    # Both kinds of directory are told apart by what is in them.
    run = Path(args.run)
    if not run.is_dir():
        raise UserError(f"{run}: no such directory; give the directory of a codeshell run or dedup")
    output = Path(args.output) if args.output else run / (f"figure{args.figure}.svg" if args.figure else "report.html")
    if output.is_dir():
        raise UserError(f"{output}: is a directory; give a file name")
    if args.figure:
        if dedup.is_output(run):
            raise UserError(f"--figure {args.figure}: {run} is of codeshell dedup; give the directory of a run")
        figure.write(run, output)
        print(output)
        return 0
    (dedup if dedup.is_output(run) else run_page).write(run, output)
    print(output)
    return 0
