"""`codeshell dedup` as a job: inputs of any kind, a search, and what stays in the inputs' own format.

OUT/job.json             what was asked; the same command resumes where a killed one stopped
OUT/plan.json            the files that were read, and how they were cut (`inputs.Plan`)
OUT/kept/...             the rows that stay, in the input's format and order
OUT/kept.parquet         their ids instead (`write="ids"`)
OUT/duplicates.parquet   what was dropped, and for which kept document (`outputs.DUPLICATES`)
OUT/left_out.parquet     what was not read of folders (`outputs.LEFT_OUT`)
OUT/stats.json           counts; the same on any machine, engine and number of workers
OUT/timings.json         seconds, of this run
OUT/work/                the search's files while it lasts

`run` is the list of steps; each is a function below it. A step reads what the steps before it wrote, so that the same
command finishes a job that was killed at any point.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from codeshell import __version__
from codeshell.dedup import outputs
from codeshell.dedup.folders import copy_folder
from codeshell.dedup.index import Index, check_directory
from codeshell.dedup.outcome import ROW_BITS, Outcome
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.search import MEMORY, Search, search
from codeshell.documents import changes, inputs
from codeshell.documents.arrays import save_array
from codeshell.documents.batches import Batch, read
from codeshell.documents.inputs import InputOptions, Plan, Shard, Source
from codeshell.documents.readers import storable
from codeshell.documents.shards import TableWriter
from codeshell.documents.walk import Found
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import flush_file_system, lock, make_directory, read_json, write_json, write_text
from codeshell.errors import UserError, say

Item = TypeVar("Item")

SHARD_BYTES = 64 << 20
"""Bytes of text in a shard: small enough that 2 GB keep several workers busy to the end, large enough that the cost of
a task (about 5 ms) does not count."""

GROUP_BYTES = 4 << 20
"""Bytes of small shards, and of small files to write, that are one task. A task has files of its own, which must reach
the disk: 1,500 shards of 4 kB took 20 times as long as one file of the same text."""

PACKED = 8
"""How many times larger than a compressed JSONL file its text is, about; it decides only which files share a task."""

TABLE_ROWS = 1 << 18
"""Rows of `duplicates.parquet` that are made at once."""


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Args:
        inputs: folders, files, globs, URLs; see `inputs.plan`.
        output: a new or empty directory, or the directory of the same job, unfinished.
        write: "rows" in the inputs' format, "ids" alone, or "nothing" (a dry run: no rows; the index stays unchanged).
        memory: bytes for the search's arrays, over all workers; each worker needs about 150 MB of its own besides.
        index: the index to compare with and to add to; None for none.
    """

    inputs: tuple[str, ...]
    output: Path
    parameters: Parameters = field(default_factory=Parameters)
    options: InputOptions = field(default_factory=InputOptions)
    write: str = "rows"
    memory: int = MEMORY
    index: Path | None = None
    shard_bytes: int = field(default=SHARD_BYTES, repr=False)


def run(job: Job, engine: Engine) -> dict[str, Any]:
    """Run the job or what is left of it; return the statistics.

    Raises:
        UserError: bad input, an output directory of something else, an index that does not fit, a full disk.
    """
    # Each step is a function below, in this order. It gets what it needs from the earlier steps as arguments.
    started = time.monotonic()
    plan = _plan(job)
    with _index_lock(job):
        index, asked, plan = _begin(job, plan, engine)
        # A second process with the same -o would write the same files.
        with lock(job.output, "job.lock"):
            task = _search_task(job, plan, index)
            found = search(task, engine)  # signs, finds candidates, decides
            # Files were found, but no text in them: the output directory is left as it was.
            if found.documents == 0:
                _clear(job.output)
                raise _nothing(job, plan.left_out | found.counts["left_out"])
            searched = time.monotonic()
            outcome = Outcome(task, found, plan, index)
            _write_duplicates(job, outcome)
            listed = _write_left_out(job, plan)
            written = _write_kept(job, outcome, engine)
            added = _add_to_index(job, index, outcome, asked, engine)
            statistics = _statistics(job, outcome) | listed | written | added
            _finish(job, statistics, search=searched - started, write=time.monotonic() - searched)
        (job.output / "job.lock").unlink(missing_ok=True)
    return statistics


# Step 1: list the inputs, and compare the output directory with what is asked.


def _plan(job: Job) -> Plan:
    """The inputs as they are now. What the job itself writes is none of them."""
    own = [path for path in (job.output, job.index) if path]
    plan = inputs.plan(job.inputs, job.options, job.shard_bytes, own)
    if not plan.shards:
        raise _nothing(job, plan.left_out)
    return plan


@contextlib.contextmanager
def _index_lock(job: Job) -> Iterator[None]:
    """Hold the index for this run. A dry run without an index has nothing to hold, and makes no directory."""
    if job.index is None or (job.write == "nothing" and not job.index.exists()):
        yield
        return
    # Two runs may not add to one index at the same time: the second would not see the first one's documents.
    check_directory(job.index)  # before a lock is left in it
    with lock(make_directory(job.index), "index.lock"):
        yield


def _begin(job: Job, plan: Plan, engine: Engine) -> tuple[Index | None, dict[str, Any], Plan]:
    """Open the index and the output directory. Returns the index as it was before this job, the content of `job.json`,
    and the plan to follow: the recorded one when the job is resumed."""
    index = Index.open(job.index, job.parameters, engine) if job.index else None
    asked = _asked(job, plan)
    resumed = _open_output(job.output, asked)
    if index and resumed:
        # A run that was killed at its very end may have added its segment. Comparing with it would drop everything.
        index = index.before(asked)
    listed = job.output / "plan.json"
    if resumed and listed.exists():
        # The finished steps are about these files, whatever the folders hold by now.
        begun = inputs.read_plan(listed)
        found = changes.compare(lambda: changes.listed(begun.shards), changes.listed(plan.shards))
        if found.changed:
            raise UserError(f"{job.output}: not empty, it holds an unfinished job; {found}; choose another -o")
        if found:
            say(f"dedup: {found}; this job follows the files that it listed when it began")
        plan = begun
    else:
        inputs.write_plan(listed, plan)
    return index, asked, plan


def _asked(job: Job, plan: Plan) -> dict[str, Any]:
    """The content of `job.json`: everything that must be equal for a run to be resumed."""
    asked = {
        "command": "dedup",
        "version": __version__,
        "inputs": list(job.inputs),
        "files": [{"path": s.path, "kind": s.kind, "name": s.name, "stamp": list(s.stamp)} for s in plan.sources],
        "parameters": asdict(job.parameters),
        "options": asdict(job.options),
        "write": job.write,
        "shard_bytes": job.shard_bytes,
        "group_bytes": GROUP_BYTES,
        "index": str(job.index) if job.index else None,
    }
    result: dict[str, Any] = json.loads(json.dumps(asked))  # tuples become lists, as they are read back
    return result


def _open_output(output: Path, asked: dict[str, Any]) -> bool:
    """Compare the output directory with the job: new or empty (False), or the same job, unfinished (True)."""
    # `job.json` makes a directory this job's; without it, the directory must be empty.
    path = make_directory(output) / "job.json"
    if not path.exists():
        if any(output.iterdir()):
            raise UserError(f"{output}: not empty; choose another -o")
        # ASCII JSON, because a path may hold bytes that are not UTF-8 (as surrogates).
        write_text(path, json.dumps(asked, indent=2, sort_keys=True) + "\n")
        return False
    # `stats.json` is written last, so it tells a finished job from an unfinished one.
    if (output / "stats.json").exists():
        raise UserError(f"{output}: not empty, it holds a finished job; choose another -o")
    # A resumed job uses the files of the old one, so everything that decides their content must be equal.
    old = read_json(path)
    if old != asked:
        names = ", ".join(name for name in asked if not isinstance(old, dict) or old.get(name) != asked[name])
        raise UserError(f"{output}: not empty, it holds an unfinished job with other {names}; choose another -o")
    return True


def _clear(output: Path) -> None:
    """Leave an output directory that is this job's as it was before."""
    for path in ("job.json", "plan.json", "job.lock"):
        (output / path).unlink(missing_ok=True)
    shutil.rmtree(output / "work", ignore_errors=True)


def _nothing(job: Job, left_out: dict[str, int]) -> UserError:
    """The error for inputs without any document, with the reasons."""
    why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "they are empty"
    return UserError(f"{job.inputs[0]}: no document in the inputs ({why}); name files with text")


# Step 2: the search, which reads shards through `documents.batches`.


def _search_task(job: Job, plan: Plan, index: Index | None) -> Search:
    return Search(
        shards=_grouped(plan.shards, _shard_size),
        reader=partial(_read, options=job.options),
        directory=make_directory(job.output / "work"),
        parameters=job.parameters,
        memory=job.memory,
        prior=index.prior() if index else (),
        ids=True,
        all_sets=index is not None,  # the index keeps them, so that old documents need not be read again
    )


def _read(shards: Sequence[Shard], wanted: frozenset[str], options: InputOptions) -> Iterator[Batch]:
    """A `sign.Reader` of groups of shards of a plan; rows are numbered as `outcome` reads them."""
    for number, shard in enumerate(shards):
        for batch in read(shard, options, wanted):
            yield replace(batch, rows=batch.rows + (number << ROW_BITS))


def _grouped(items: Iterable[Item], size: Callable[[Item], int]) -> list[tuple[Item, ...]]:
    """Items in groups of at most `GROUP_BYTES` (or one larger item), in their order."""
    groups: list[tuple[Item, ...]] = []
    group: list[Item] = []
    total = 0
    for item in items:
        amount = size(item)
        if group and total + amount > GROUP_BYTES:
            groups.append(tuple(group))
            group, total = [], 0
        group.append(item)
        total += amount
    return [*groups, tuple(group)] if group else groups


def _shard_size(shard: Shard) -> int:
    """Bytes of text, about. A packed file counts as a whole shard in the plan, however small it is."""
    packed = shard.end is None and shard.source.stamp[0]
    return min(shard.size, PACKED * packed) if packed else shard.size


# Step 3: the table of what was dropped.


def _write_duplicates(job: Job, outcome: Outcome) -> None:
    decisions = outcome.found.decisions
    # A cluster is a kept document and all that were dropped for it.
    keepers, sizes = np.unique(decisions.kept, return_counts=True)
    with TableWriter(job.output / "duplicates.parquet", outputs.DUPLICATES) as writer:
        # At least one (empty) table, so that the file exists without duplicates too.
        for start in range(0, max(1, len(decisions.dropped)), TABLE_ROWS):
            dropped, kept, jaccard = (column[start : start + TABLE_ROWS] for column in decisions)
            # Every document of these rows is looked up once, in ascending order, so that each shard's files are read
            # once; `back` says which of the `positions` stands in each row.
            positions, back = np.unique(np.concatenate([dropped, kept]), return_inverse=True)
            columns = outcome.locate(positions)
            ids, shards, rows = (column.take(pa.array(back[: len(dropped)])) for column in columns)
            kept_ids, kept_shards, kept_rows = (column.take(pa.array(back[len(dropped) :])) for column in columns)
            # `keepers` ascends, so each kept document is found by bisection; the cluster counts the kept document too.
            cluster = np.searchsorted(keepers, kept)
            writer.write(
                pa.table(
                    {
                        "id": ids,
                        "kept_id": kept_ids,
                        "jaccard": pa.array(jaccard, mask=np.isnan(jaccard)),
                        "cluster_id": kept.astype(np.int64),
                        "cluster_size": sizes[cluster] + 1,
                        "shard": shards,
                        "row": rows,
                        "kept_shard": kept_shards,
                        "kept_row": kept_rows,
                    }
                ).cast(outputs.DUPLICATES)
            )


def _write_left_out(job: Job, plan: Plan) -> dict[str, Any]:
    """The list of what was not read of folders; returns what the statistics say of it."""
    if not plan.others:
        return {}
    with TableWriter(job.output / "left_out.parquet", outputs.LEFT_OUT) as writer:
        for number, found in plan.others.items():
            # A name that is not UTF-8 is no Arrow string: its bytes are shown as `\\xe9`.
            names = [storable(one.path) for one in found]
            columns = {"shard": [number] * len(names), "path": names, "reason": [one.reason for one in found]}
            writer.write(pa.table(columns, schema=outputs.LEFT_OUT))
    return {"listed": sum(map(len, plan.others.values()))}


# Step 4: what stays, as rows in the inputs' format or as ids.


@dataclass(frozen=True)
class WriteTask:
    """Sources to write without the rows that `drop` (.npy) lists: those of source i are `drop[bounds[i]:bounds[i+1]]`,
    and its shards `shards[i]`."""

    sources: tuple[Source, ...]
    shards: list[list[Shard]]
    drop: Path
    bounds: list[int]
    destination: Path
    others: list[Found] = field(default_factory=list)
    """What was not read of a folder."""
    options: InputOptions = field(default_factory=InputOptions)


def _write_kept(job: Job, outcome: Outcome, engine: Engine) -> dict[str, Any]:
    """Returns what the statistics say of it: for folders, the files that were copied without being compared."""
    if job.write == "rows":
        return {"copied": _write_rows(job, outcome, engine)}
    if job.write == "ids":
        _write_ids(job, outcome)
    return {}


def _write_rows(job: Job, outcome: Outcome, engine: Engine) -> dict[str, int]:
    tasks = []
    work = outcome.task.directory
    shards_of: dict[int, list[Shard]] = {}
    for shard in outcome.plan.shards:
        shards_of.setdefault(shard.source.number, []).append(shard)
    # Small tables share a task. A folder, or a table whose size is not known (a URL), has one to itself.
    for sources in _grouped(outcome.plan.sources, lambda one: one.stamp[0] or GROUP_BYTES):
        # The rows to leave out, ascending: shards of a source ascend by row, and so do documents within a shard.
        rows = [np.empty(0, np.int64)]
        bounds = [0]
        for source in sources:
            bounds.append(bounds[-1])
            for shard in shards_of.get(source.number, ()):
                dropped = outcome.dropped(shard)
                if len(dropped):
                    rows.append(outcome.rows(shard)[dropped])
                    bounds[-1] += len(dropped)
        # A file, not an argument: a worker that reruns the task finds it again, and a task stays small.
        path = work / f"drop-{sources[0].number:05d}.npy"
        save_array(path, np.concatenate(rows))
        shards = [shards_of.get(source.number, []) for source in sources]
        others = outcome.plan.others.get(sources[0].number, [])
        tasks.append(WriteTask(sources, shards, path, bounds, job.output / "kept", others, job.options))
    # The largest first, so that no worker is left alone with it at the end.
    tasks.sort(key=lambda one: -sum(source.stamp[0] for source in one.sources))
    make_directory(job.output / "kept")
    counts: Counter[str] = Counter()
    for written in map_shards(engine, work, "write", write_sources, tasks, unit="tasks"):
        counts.update(written)
    outputs.copy_descriptions(outcome.plan.sources, job.output / "kept")
    return {name: count for name, count in sorted(counts.items()) if name not in ("rows", "dropped") and count}


def write_sources(task: WriteTask) -> dict[str, Any]:
    """Write what stays of some sources; return the sum of their counts (`outputs.write_kept`)."""
    drop = np.load(task.drop)
    counts: Counter[str] = Counter()
    # One source is flushed as it is written; many are flushed together at the end, before the task counts as done.
    together = len(task.sources) > 1
    for source, shards, begin, end in zip(task.sources, task.shards, task.bounds, task.bounds[1:], strict=False):
        if source.kind == "files":
            counts.update(copy_folder(source, shards, drop[begin:end], task.others, task.destination))
        else:
            kept = partial(outputs.write_kept, shards=shards, options=task.options, flush=not together)
            counts.update(kept(source, drop[begin:end], task.destination))
    if together:
        flush_file_system(task.destination)
    return dict(counts)


def _write_ids(job: Job, outcome: Outcome) -> None:
    schema = pa.schema([("id", pa.string()), ("shard", pa.int32()), ("row", pa.int64())])
    with TableWriter(job.output / "kept.parquet", schema) as writer:
        for shard in outcome.plan.shards:
            ids = outcome.ids(shard)
            if ids is None:
                continue
            # Documents that do not take part (no text, say) have no id and are not listed.
            stays = np.ones(len(ids), np.bool_)
            stays[outcome.dropped(shard)] = False
            rows = outcome.rows(shard)[stays]
            source = pa.repeat(pa.scalar(shard.source.number, pa.int32()), len(rows))
            writer.write(pa.table({"id": ids.filter(pa.array(stays)), "shard": source, "row": rows}, schema=schema))


# Step 5: the index gets what this run kept. It comes after the outputs: a run that dies before has changed nothing.


def _add_to_index(
    job: Job, index: Index | None, outcome: Outcome, asked: dict[str, Any], engine: Engine
) -> dict[str, Any]:
    """Returns what the statistics say of it."""
    if index is None or job.write == "nothing":
        return {}
    return {"index": {"before": index.documents, "added": index.add(outcome.task, outcome.found, asked, engine)}}


# Step 6: the statistics, whose file marks the job as finished.


def _statistics(job: Job, outcome: Outcome) -> dict[str, Any]:
    found, plan = outcome.found, outcome.plan
    decisions = found.decisions
    _, sizes = np.unique(decisions.kept, return_counts=True)
    # The walk left out files, the readers left out documents; both count.
    left_out = Counter(plan.left_out)
    left_out.update(found.counts["left_out"])
    statistics = found.counts | {
        "kept": found.documents - len(decisions.dropped),
        "kept_bytes": found.counts["bytes"] - outcome.dropped_bytes(),
        "duplicates": len(decisions.dropped),
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max()) + 1 if len(sizes) else 0,
        "left_out": dict(sorted(left_out.items())),
        "repeated_files": plan.repeated,
        "threshold": job.parameters.threshold,
    }
    if job.options.id_column:
        statistics["repeated_ids"] = outcome.repeated_ids()
    return statistics


def _finish(job: Job, statistics: dict[str, Any], **seconds: float) -> None:
    write_json(job.output / "timings.json", {name: round(value, 3) for name, value in seconds.items()})
    # From here on the job counts as finished; a run that is killed now leaves only its scratch files.
    write_json(job.output / "stats.json", statistics)
    shutil.rmtree(job.output / "work")
