"""`codeshell dedup` as a job: inputs of any kind, a search, and what stays in the inputs' own format.

OUT/job.json             what was asked; the same command goes on where a killed one was
OUT/plan.json            the files that were read, and how they were cut (`inputs.Plan`)
OUT/kept/...             the rows that stay, in the input's format and order
OUT/kept.parquet         their ids instead (`write="ids"`)
OUT/duplicates.parquet   what was dropped, and for which kept document (`outputs.DUPLICATES`)
OUT/stats.json           counts; the same on any machine, engine and number of workers
OUT/timings.json         seconds, of this run
OUT/work/                the search's files while it lasts
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell import __version__
from codeshell.dedup import outputs
from codeshell.dedup.index import Index, check_directory
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.search import MEMORY, Found, Search, search
from codeshell.documents import inputs
from codeshell.documents.arrays import ArrayFile, save_array
from codeshell.documents.batches import Batch, read
from codeshell.documents.inputs import InputOptions, Plan, Source
from codeshell.documents.shards import TableWriter, read_table
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import lock, make_directory, read_json, write_json, write_text
from codeshell.errors import UserError

SHARD_BYTES = 64 << 20
"""Text in a shard: small enough that 2 GB keep several workers busy to the end, large enough that the cost of a task
(some 5 ms) does not count."""

TABLE_ROWS = 1 << 18
"""Rows of `duplicates.parquet` made at once."""


@dataclass(frozen=True)
class Job:
    """What is asked.

    Args:
        inputs: folders, files, globs, URLs; see `inputs.plan`.
        output: a new or empty directory, or that of the same job, unfinished.
        write: "rows" in the inputs' format, "ids" alone, or "nothing" (a dry run: no rows, and the index stays).
        memory: bytes for the search's arrays, over all workers; each worker needs about 150 MB for itself beside it.
        index: compare with this index too, and add to it.
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
    started = time.monotonic()
    own = [path for path in (job.output, job.index) if path]
    plan = inputs.plan(job.inputs, job.options, job.shard_bytes, own)
    if not plan.shards:
        raise _nothing(job, plan.left_out)
    with _index_lock(job):
        index = Index.open(job.index, job.parameters, engine) if job.index else None
        asked = _asked(job, plan)
        resumed = _begin(job.output, asked)
        if index and resumed:
            index = index.before(asked)  # a run that was killed at its very end may have added its segment
        listed = job.output / "plan.json"
        if resumed and listed.exists():
            plan = inputs.read_plan(listed)  # what is done is of these files, whatever the folders hold by now
        else:
            inputs.write_plan(listed, plan)
        with lock(job.output, "job.lock"):
            work = make_directory(job.output / "work")
            task = Search(
                shards=plan.shards,
                reader=partial(_read, options=job.options),
                directory=work,
                parameters=job.parameters,
                memory=job.memory,
                prior=index.prior() if index else (),
                ids=True,
                all_sets=index is not None,
            )
            found = search(task, engine)
            if found.documents == 0:
                _clear(job.output)
                raise _nothing(job, plan.left_out | found.counts["left_out"])
            statistics = _statistics(job, plan, task, found)
            searched = time.monotonic()
            _write_duplicates(job, plan, task, found, index)
            if job.write == "rows":
                _write_rows(job, plan, task, found, engine)
            elif job.write == "ids":
                _write_ids(job, plan, task, found)
            if index and job.write != "nothing":
                statistics["index"] = {"before": index.documents, "added": index.add(task, found, asked, engine)}
            seconds = {"search": searched - started, "write": time.monotonic() - searched}
            write_json(job.output / "timings.json", {name: round(value, 3) for name, value in seconds.items()})
            write_json(job.output / "stats.json", statistics)
            shutil.rmtree(work)
        (job.output / "job.lock").unlink(missing_ok=True)
    return statistics


def _read(shard: inputs.Shard, wanted: frozenset[str], options: InputOptions) -> Iterator[Batch]:
    return read(shard, options, wanted)


@contextlib.contextmanager
def _index_lock(job: Job) -> Iterator[None]:
    if job.index is None or (job.write == "nothing" and not job.index.exists()):
        yield
        return
    check_directory(job.index)  # before a lock is left in it
    with lock(make_directory(job.index), "index.lock"):
        yield


def _nothing(job: Job, left_out: dict[str, int]) -> UserError:
    """There is nothing to compare: say why."""
    why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "they are empty"
    return UserError(f"{job.inputs[0]}: no document in the inputs ({why}); name files with text")


def _clear(output: Path) -> None:
    """Leave an output directory that is this job's as it was before."""
    for path in ("job.json", "plan.json", "job.lock"):
        (output / path).unlink(missing_ok=True)
    shutil.rmtree(output / "work", ignore_errors=True)


def _asked(job: Job, plan: Plan) -> dict[str, Any]:
    """The content of `job.json`."""
    asked = {
        "command": "dedup",
        "version": __version__,
        "inputs": list(job.inputs),
        "files": [{"path": s.path, "kind": s.kind, "name": s.name, "stamp": list(s.stamp)} for s in plan.sources],
        "parameters": asdict(job.parameters),
        "options": asdict(job.options),
        "write": job.write,
        "shard_bytes": job.shard_bytes,
        "index": str(job.index) if job.index else None,
    }
    result: dict[str, Any] = json.loads(json.dumps(asked))  # tuples become lists, as they are read back
    return result


def _begin(output: Path, asked: dict[str, Any]) -> bool:
    """Compare the output directory with the job: new or empty, or (True) the same job unfinished."""
    path = make_directory(output) / "job.json"
    if not path.exists():
        if any(output.iterdir()):
            raise UserError(f"{output}: not empty; choose another -o")
        # ASCII JSON, because a path may hold bytes that are not UTF-8 (as surrogates).
        write_text(path, json.dumps(asked, indent=2, sort_keys=True) + "\n")
        return False
    if (output / "stats.json").exists():
        raise UserError(f"{output}: not empty, it holds a finished job; choose another -o")
    old = read_json(path)
    if old != asked:
        names = ", ".join(name for name in asked if not isinstance(old, dict) or old.get(name) != asked[name])
        raise UserError(f"{output}: not empty, it holds an unfinished job with other {names}; choose another -o")
    return True


def _statistics(job: Job, plan: Plan, task: Search, found: Found) -> dict[str, Any]:
    decisions = found.decisions
    _, sizes = np.unique(decisions.kept, return_counts=True)
    left_out = dict(plan.left_out)
    for reason, count in found.counts["left_out"].items():
        left_out[reason] = left_out.get(reason, 0) + count
    sized = [ArrayFile(task.signed_path(i)).read("bytes") for i in range(len(plan.shards))]
    dropped_bytes = int(np.concatenate(sized)[decisions.dropped.astype(np.int64) - found.prior].sum())
    statistics = found.counts | {
        "kept": found.documents - len(decisions.dropped),
        "kept_bytes": found.counts["bytes"] - dropped_bytes,
        "duplicates": len(decisions.dropped),
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max()) + 1 if len(sizes) else 0,
        "left_out": dict(sorted(left_out.items())),
        "repeated_files": plan.repeated,
        "threshold": job.parameters.threshold,
    }
    if job.options.id_column:
        statistics["repeated_ids"] = _repeated_ids(task)
    return statistics


def _repeated_ids(task: Search) -> int:
    """Documents whose id an earlier one has. Rows are told apart by their place, so nothing is lost by that."""
    columns = [read_table(path, ["id"])["id"] for path in _document_files(task) if path.exists()]
    ids = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    return len(ids) - int(pc.count_distinct(ids, mode="all").as_py())


def _document_files(task: Search) -> list[Path]:
    return [task.documents_path(number) for number in range(len(task.shards))]


class _Places:
    """The id, source and row of documents by position, prior ones too."""

    def __init__(self, task: Search, found: Found, plan: Plan, index: Index | None) -> None:
        self._task, self._firsts, self._plan = task, found.firsts, plan
        self._prior = list(index.ids()) if index else []

    def __call__(self, positions: NDArray[np.uint32]) -> tuple[pa.Array, pa.Array, pa.Array]:
        """`positions` ascending. A document of an index has an id, but neither source nor row (null)."""
        cuts = np.searchsorted(positions, self._firsts)
        ids: list[pa.Array] = [pa.array([], pa.string())]
        sources: list[pa.Array] = [pa.array([], pa.int32())]
        rows: list[pa.Array] = [pa.array([], pa.int64())]
        for part, first in enumerate(self._firsts[:-1].tolist()):
            inside = positions[cuts[part] : cuts[part + 1]].astype(np.int64) - first
            if not len(inside):
                continue
            number = part - len(self._prior)
            if number < 0:
                ids.append(self._prior[part].take(pa.array(inside)).combine_chunks())
                sources.append(pa.nulls(len(inside), pa.int32()))
                rows.append(pa.nulls(len(inside), pa.int64()))
                continue
            table = read_table(self._task.documents_path(number), ["id"])
            ids.append(table["id"].take(pa.array(inside)).combine_chunks())
            sources.append(pa.repeat(pa.scalar(self._plan.shards[number].source.number, pa.int32()), len(inside)))
            rows.append(pa.array(ArrayFile(self._task.signed_path(number)).read("rows")[inside]))
        return pa.concat_arrays(ids), pa.concat_arrays(sources), pa.concat_arrays(rows)


def _write_duplicates(job: Job, plan: Plan, task: Search, found: Found, index: Index | None) -> None:
    places = _Places(task, found, plan, index)
    decisions = found.decisions
    keepers, sizes = np.unique(decisions.kept, return_counts=True)
    with TableWriter(job.output / "duplicates.parquet", outputs.DUPLICATES) as writer:
        for start in range(0, max(1, len(decisions.dropped)), TABLE_ROWS):
            dropped, kept, jaccard = (column[start : start + TABLE_ROWS] for column in decisions)
            positions, back = np.unique(np.concatenate([dropped, kept]), return_inverse=True)
            both = places(positions)
            ids, shards, rows = (column.take(pa.array(back[: len(dropped)])) for column in both)
            kept_ids, kept_shards, kept_rows = (column.take(pa.array(back[len(dropped) :])) for column in both)
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


@dataclass(frozen=True)
class WriteTask:
    """One source to write without the rows that `drop` (.npy) lists."""

    source: Source
    shards: list[inputs.Shard]
    drop: Path
    destination: Path


def _write_rows(job: Job, plan: Plan, task: Search, found: Found, engine: Engine) -> None:
    tasks = []
    dropped = found.decisions.dropped
    for source in plan.sources:
        rows = [np.empty(0, np.int64)]
        for shard in plan.shards_of(source.number):
            part = len(task.prior) + shard.number
            first, last = found.firsts[part : part + 2].tolist()
            begin, end = np.searchsorted(dropped, [first, last])
            if begin < end:
                inside = dropped[begin:end].astype(np.int64) - first
                rows.append(ArrayFile(task.signed_path(shard.number)).read("rows")[inside])
        path = task.directory / f"drop-{source.number:05d}.npy"
        save_array(path, np.concatenate(rows))
        tasks.append(WriteTask(source, plan.shards_of(source.number), path, job.output / "kept"))
    # The largest first, so that no worker is left alone with it at the end.
    tasks.sort(key=lambda one: -one.source.stamp[0])
    make_directory(job.output / "kept")
    map_shards(engine, task.directory, "write", write_source, tasks, unit="files")


def write_source(task: WriteTask) -> dict[str, Any]:
    """Write what stays of one source."""
    return outputs.write_kept(task.source, task.shards, np.load(task.drop), task.destination)


def _write_ids(job: Job, plan: Plan, task: Search, found: Found) -> None:
    dropped = found.decisions.dropped
    schema = pa.schema([("id", pa.string()), ("shard", pa.int32()), ("row", pa.int64())])
    with TableWriter(job.output / "kept.parquet", schema) as writer:
        for shard in plan.shards:
            path = task.documents_path(shard.number)
            if not path.exists():
                continue
            part = len(task.prior) + shard.number
            first, last = found.firsts[part : part + 2].tolist()
            begin, end = np.searchsorted(dropped, [first, last])
            stays = np.ones(last - first, np.bool_)
            stays[dropped[begin:end].astype(np.int64) - first] = False
            ids = read_table(path, ["id"])["id"].filter(pa.array(stays))
            rows = ArrayFile(task.signed_path(shard.number)).read("rows")[stays]
            source = pa.repeat(pa.scalar(shard.source.number, pa.int32()), len(rows))
            writer.write(pa.table({"id": ids, "shard": source, "row": rows}, schema=schema))
