"""Folds by repository: files of one repository share their style, and must not be on both sides of a split.

A random split by file flatters: it says 0.77 where repositories apart say 0.65 (docs/quality.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codeshell.errors import UserError
from codeshell.randomness import draw


def folds_by_group(groups: Sequence[str], count: int, seed: int = 0) -> NDArray[np.int64]:
    """(documents,) the fold of each document, 0 to `count` - 1; a group lies in one fold.

    The largest groups are dealt first, each to the fold with the fewest documents so far, so that folds are of about
    equal size. Sizes are blurred by a hash of the seed: another seed gives other folds.

    Raises:
        UserError: fewer groups than folds.
    """
    sizes = Counter(groups)
    if count < 2:
        raise UserError(f"--folds {count}: give 2 or more")
    if len(sizes) < count:
        raise UserError(
            f"--folds {count}: the labels come from {len(sizes):,} repositories; give fewer folds, or more repositories"
        )
    # Up to a third of a group's size more or less.
    blurred = {name: size * (1 + draw(seed, name, "fold") / 2**64 * 2 / 3 - 1 / 3) for name, size in sizes.items()}
    load = [0] * count
    chosen: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-blurred[name], name)):
        # Among equally loaded folds the first.
        fold = load.index(min(load))
        chosen[name] = fold
        load[fold] += sizes[name]
    return np.array([chosen[name] for name in groups], np.int64)
