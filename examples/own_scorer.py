"""A scorer of your own: the share of lines with a TODO, for every document, and a rule that drops by it.

codeshell run recipes/demo.toml -o runs/mine --until select \
    --set "score.scorers=['examples/own_scorer.py:TodoShare']" --set "select.own=['examples/own_scorer.py:NO_TODO']"

A scorer measures; a rule decides. Another limit (select.overrides.python.todo_share=0.5) scores nothing again. Run
alone, this file scores and filters its own folder.
"""

import re
import sys
from pathlib import Path

import pyarrow as pa

from codeshell import pipeline
from codeshell.data.rules import Threshold
from codeshell.documents.provenance import find
from codeshell.recipe import from_tree


class TodoShare:
    """Columns for documents; `codeshell.scorers.Scorer` says what a scorer has."""

    version = 1
    columns = pa.schema([("todo_share", pa.float64())])

    def __init__(self, words: str = "TODO|FIXME|XXX") -> None:
        # Settings of the recipe come as arguments: [score.settings."examples/own_scorer.py:TodoShare"] words = "HACK"
        self.pattern = re.compile(words)

    def score(self, batch: pa.Table) -> dict[str, list[float]]:
        texts = [text.splitlines() or [""] for text in batch["text"].to_pylist()]
        return {"todo_share": [sum(map(bool, map(self.pattern.search, lines))) / len(lines) for lines in texts]}


NO_TODO = Threshold("todo_share", column="todo_share", drops="above", limit=0.02)


def main() -> None:
    here = Path(__file__).resolve()
    tree = {
        "collect": {"inputs": [str(here.parent)]},
        "score": {"scorers": [f"{here}:TodoShare"]},
        "select": {"own": [f"{here}:NO_TODO"]},
        "rules": {"language_floor": 0},
    }
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "own_scorer_run")
    pipeline.run(from_tree(tree, here.name), run, workers=1, until="select")
    kept, dropped = find(run, here.name)  # as `codeshell explain own_scorer.py --run RUN` does
    for row in dropped:
        print(f"{row['path']} dropped by {row['rule']}: {row['value']:.3f} against a limit of {row['limit']:g}")
    print(f"{len(dropped)} dropped, {len(kept)} kept of the files called {here.name}")


if __name__ == "__main__":
    main()
