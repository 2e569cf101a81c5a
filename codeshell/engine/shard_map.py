"""A stage over shards: done shards are skipped, results come in order, progress is shown.

A shard's marker is `DIRECTORY/LABEL-NNNNN.json`, written last and by rename. It holds what the shard's function
returned, so a run that was killed resumes after the last marker, and the merged statistics are the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from codeshell.engine.files import read_json, write_json
from codeshell.engine.local import Engine
from codeshell.engine.progress import Progress
from codeshell.errors import UserError

Item = TypeVar("Item")
Statistics = dict[str, Any]

SEEN_SECONDS = 60.0
"""Time for a marker to be seen from here after its task has ended."""


def marker_path(directory: Path, label: str, index: int) -> Path:
    """Where shard `index` of a stage says that it is done."""
    return directory / f"{label}-{index:05d}.json"


def map_shards(
    engine: Engine,
    directory: Path,
    label: str,
    function: Callable[[Item], Statistics],
    items: Sequence[Item],
    *,
    unit: str = "shards",
) -> list[Statistics]:
    """Run `function` on every item whose marker is missing; return the statistics of all, in order.

    Args:
        engine: where the work runs.
        directory: of the markers; it exists.
        label: names the markers and the progress line.
        function: module-level; writes its output files whole (see `atomic_path`) and returns JSON-ready statistics
            that depend on the item alone, not on the time or the worker.
        items: one per shard; the index in this sequence is the shard's number.
    """
    # Shards that an earlier run finished are not done again.
    todo = [index for index in range(len(items)) if not marker_path(directory, label, index).exists()]
    work = partial(_run_one, str(directory), label, function)
    # The results themselves are in the markers: what comes back from the workers only says that they are written.
    with Progress(label, total=len(items), unit=unit) as progress:
        progress.advance(len(items) - len(todo))
        for _ in engine.map(work, [(index, items[index]) for index in todo]):
            progress.advance(1)
    return [_statistics(marker_path(directory, label, index)) for index in range(len(items))]


def _statistics(marker: Path) -> Statistics:
    """Read a marker that was written, perhaps on another machine.

    We looked for it before it was there, and NFS may repeat that answer for half a minute; listing the directory makes
    it ask the server again.
    """
    # On a local disk the marker is there, and nothing is waited for.
    end = time.monotonic() + SEEN_SECONDS
    while not marker.exists():
        if time.monotonic() > end:
            raise UserError(
                f"{marker}: written, but not seen here; every node must have this directory on one file system"
            )
        os.listdir(marker.parent)  # noqa: PTH208
        time.sleep(0.05)
    statistics: Statistics = read_json(marker)
    return statistics


def _run_one(directory: str, label: str, function: Callable[[Item], Statistics], task: tuple[int, Item]) -> None:
    # The marker comes last: it says that all other files of the shard are whole.
    index, item = task
    write_json(marker_path(Path(directory), label, index), function(item))
