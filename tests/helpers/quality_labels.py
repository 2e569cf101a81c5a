"""Labels whose scores depend on what a scorer can see, in repositories that have styles of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from codeshell.randomness import draw, uniform


def label(number: int) -> dict[str, Any]:
    """A small Python file; its score is the number of its good habits."""
    repo = f"repo{number % 12}"
    habits = [draw(number, habit) % 2 == 0 for habit in ("docs", "types", "names", "prints", "spaces")]
    docs, types, names, quiet, spaced = habits
    name = "total_price" if names else "q"
    kind = ": float" if types else ""
    equals = " = " if spaced else "="
    lines = [f"# {repo} {number}", f"def {'add_tax' if names else 'f'}({name}{kind}):"]
    if docs:
        lines.append('    """Returns the price with the tax of the country added to it."""')
    for step in range(3 + draw(number, "steps") % 6):
        lines.append(f"    {name}{equals}{name} * 1.{step}")
    if not quiet:
        lines += [f"    print({name})", f'    print("{number}")']
    lines.append(f"    return {name}")
    return {
        "id": f"d{number}",
        "repo": repo,
        "path": f"{repo}/file{number}.py",
        "language": "python",
        "text": "\n".join(lines) + "\n",
        "score": float(sum(habits)),
        "readability": float(min(5, 2 * (docs + names))),
    }


def labels(count: int = 240) -> list[dict[str, Any]]:
    return [label(number) for number in range(count)]


def shuffled(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same texts with scores that belong to other texts."""
    order = np.argsort(uniform(7, 0, len(records)))
    return [{**record, "score": records[place]["score"]} for record, place in zip(records, order.tolist(), strict=True)]
