"""`codeshell explain`: what happened to a document."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "say why a document is in the corpus or not: split, or stage, rule, value and limit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell explain json/decoder.py --run runs/demo\n"
        "  codeshell explain 0cc175b9c0f1b6a8 --run runs/demo\n"
        "A path may be given by its end; an id (the MD5 of the text) by its first 8 digits or more."
    )
    parser.add_argument("document", metavar="ID-OR-PATH", help="an id or its beginning, or the end of a path")
    parser.add_argument("--run", default="runs/demo", metavar="DIR", help="the run's directory (default: runs/demo)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a document")


def main(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from codeshell.data import provenance
    from codeshell.errors import UserError

    run = Path(args.run)
    if not (run / "collect").is_dir():
        raise UserError(f"{run}: not a run's directory (no collect/ in it); give one with --run")
    kept, dropped = provenance.find(run, args.document)
    if not kept and not dropped:
        raise UserError(
            f"{args.document}: no such document in {run}; give an id of 8 digits or more, or the end of a path"
        )
    for row in kept + dropped:
        print(json.dumps(row, ensure_ascii=False) if args.json else describe(row))
    return 0


def describe(row: dict[str, Any]) -> str:
    """A few lines on one document that `provenance.find` returned."""
    size = f"{row['bytes']:,} bytes" if row["bytes"] is not None else "unknown size"
    lines = [f"{row['path']}  ({', '.join(filter(None, (row['repo'], row['language'], size)))})"]
    if row["id"]:
        lines.append(f"  id       {row['id']}")
    if "split" in row:
        lines.append(f"  kept     in the {row['split']} split" if row["split"] else "  kept     by every stage so far")
        return "\n".join(lines)
    reason = f"  dropped  in {row['stage']} by {row['rule']}"
    if row["value"] is not None:
        reason += f": {row['value']:g}"
        if row["limit"] is not None:
            reason += f" against a limit of {row['limit']:g}"
    lines.append(reason)
    if row["kept_id"]:
        lines.append(f"  in favour of  {row['kept_path']}  ({row['kept_repo']}, id {row['kept_id']})")
    return "\n".join(lines)
