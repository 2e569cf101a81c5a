"""A rule of your own: no tests, and no file whose lines are mostly very short.

codeshell run recipes/demo.toml -o runs/mine --until filter \
    --set "rules.own=['examples/own_rule.py:NoTests', 'examples/own_rule.py:SHORT_LINES']"

A rule reads columns, never a text: the measures of codeshell/scorers/text.py, path and repository. One that reads the
columns of a scorer goes into select.own instead (own_scorer.py). Run alone, this file filters three small files.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from codeshell import pipeline
from codeshell.data.rules import Threshold
from codeshell.documents.provenance import find
from codeshell.recipe import from_tree


class NoTests:
    """A rule with code of its own; `codeshell.data.rules.Rule` says what a rule has."""

    name = "no_tests"
    columns = ("path",)
    limit = 1.0  # parts of the path that say "test"; the recipe's rules.overrides may give other limits by language

    def decide(self, columns: pa.Table, limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        paths = columns["path"].to_pylist()
        value = np.array([float(sum("test" in part for part in path.split("/"))) for path in paths])
        return value >= limit, value


# A comparison of one column with a limit needs no code. mean_line_length counts the characters of an average line.
SHORT_LINES = Threshold("short_lines", column="mean_line_length", drops="below", limit=15)

FILES = {
    "app.py": "def greet(name):\n    return f'Good morning, {name}; what shall we do?'\n",
    "tests/test_app.py": "from app import greet\n\ndef test_greet():\n    assert 'Ada' in greet('Ada')\n",
    "table.py": "PRIMES = [\n" + "".join(f"    {n},\n" for n in (1009, 1013, 1019, 1021)) + "]\n",
}


def main() -> None:
    here, code, run = Path(__file__).resolve(), Path("own_rule_code"), Path("own_rule_run")
    for name, text in FILES.items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(text)
    own = [f"{here}:NoTests", f"{here}:SHORT_LINES"]
    tree = {"collect": {"inputs": [str(code)]}, "rules": {"language_floor": 0, "own": own}}
    pipeline.run(from_tree(tree, here.name), run, workers=1, until="filter")
    for name in FILES:
        kept, dropped = find(run, name)  # as `codeshell explain NAME --run own_rule_run` does
        reasons = [f"dropped by {row['rule']}: {row['value']:g} against a limit of {row['limit']:g}" for row in dropped]
        print(name, *reasons or ["kept" if kept else "not there"])


if __name__ == "__main__":
    main()
