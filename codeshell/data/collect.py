"""Collect: from folders, checkouts, Parquet and JSONL to document shards with their scores.

    plan   `documents.inputs` lists every file, in order (input by input, bytewise by path), and cuts the list into
           shards of about `shard_bytes` of text. The lists are written down, so a resumed run sees the same files.
    shard  read -> language -> measure -> documents-, scores- and dropped-NNNNN.parquet, a row group at a time.

Everything that is listed ends as a document or as a row of `dropped`: asserted for every shard. Memory is a directory
listing in the plan and a row group in a worker, whatever the size of the input.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codeshell.documents import changes, languages
from codeshell.documents.batches import Row, rows
from codeshell.documents.columns import DAMAGED, TABLES
from codeshell.documents.formats import named
from codeshell.documents.inputs import InputOptions, Listing, Plan, cut, read_plan, write_plan
from codeshell.documents.provenance import DROPPED
from codeshell.documents.readers import encoding_reason, is_url, storable
from codeshell.documents.shards import DOCUMENTS, ROW_GROUP, TableWriter, document_id, shard_path
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import TEMPORARY, make_directory, read_json, remove_quietly, write_text
from codeshell.engine.memory import give_back_large_blocks
from codeshell.errors import UserError, say
from codeshell.errors import reasons as in_words
from codeshell.recipe import Collect, Recipe, to_tree
from codeshell.scorers import text as scores

GROUP_BYTES = 8 << 20
"""Text in a row group at most (unless one document is longer); with `ROW_GROUP` what a worker holds at once."""


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Collect the inputs of the recipe below `directory`/collect.

    Returns:
        `documents`, `bytes`, `by_language {name: {documents, bytes}}`, `dropped {reason: files}`, and `by_input`: for
        each input `{reason: files}`, where `document` counts those that became documents.

    Raises:
        UserError: no inputs, an input that does not exist or holds no document, a damaged Parquet or JSONL file.
    """
    settings = recipe.collect
    stage = make_directory(directory / "collect")
    # A killed run leaves files that were being written.
    for leftover in stage.glob(f"*{TEMPORARY}"):
        remove_quietly(leftover)
    begun = (stage / "plan.json").exists()
    plan = make_plan(settings, stage, own=[directory], engine=engine)
    shards: list[int] = list(range(plan["shards"]))
    parts = map_shards(engine, stage, "collect", partial(collect_shard, str(stage), settings), shards)
    # Add up the statistics of the shards: totals by language, and reasons by input.
    by_language: dict[str, Counter[str]] = {}
    by_input: dict[int, Counter[str]] = {index: Counter() for index in range(len(settings.inputs))}
    for part in parts:
        for name, numbers in part["by_language"].items():
            by_language.setdefault(name, Counter()).update(numbers)
        for index, reasons in part["by_input"].items():
            by_input[int(index)].update(reasons)
    for index, reasons in by_input.items():
        # An input whose files were all given before has none of its own, and that is no mistake.
        # One whose files are all damaged is left out where that was asked for, if there is another one.
        skipped = reasons[DAMAGED] and any(one["document"] for one in by_input.values())
        if not reasons["document"] and not skipped and str(index) not in plan.get("repeated", ()):
            remedy = ""
            if reasons["unknown_language"] and named(settings.inputs[index]):
                remedy = (
                    "; set collect.language_column or collect.path_column to columns that tell the language, or "
                    "collect.language to the language of all rows"
                )
            raise UserError(f"{settings.inputs[index]}: no document in it ({_summary(reasons)}){remedy}")
    # A run that was killed has read what its lists named, each file as it is now. What is new is not in the lists.
    moved = since(recipe, directory) if begun else ""
    if moved:
        say(f"collect: {moved}")
    reasons_by_input = [dict(sorted(by_input[index].items())) for index in sorted(by_input)]
    # The rest of the reasons are drops.
    dropped = sum(by_input.values(), Counter())
    del dropped["document"]
    return {
        "documents": sum(part["documents"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "by_language": {name: dict(by_language[name]) for name in sorted(by_language)},
        "dropped": {name: dropped[name] for name in sorted(dropped)},
        "by_input": reasons_by_input,
    }


LOST = {
    "bad_json": "no JSON object in the line; fix the lines, or name a file of another format",
    "bad_csv": "more fields than the header has; fix the rows, or write the file as Parquet",
    "no_text": "no text in the column of the text; set collect.text_column to the column that holds it",
    "bad_utf8": "not UTF-8, and no other encoding is plain; convert the files",
    "damaged": "truncated or broken; fetch the files again, then run with --refresh",
    "bad_notebook": "no notebook of Jupyter's formats 3 and 4; open and save it there, or leave it out",
    "commit_shallow": "the clone ends there; git fetch --unshallow gets the rest of its history",
    "issue_no_text": "comments without their issue; add the dump of the issues, or earlier events",
    "unreadable": "not readable, or gone; check the permissions, then run with --refresh",
}
"""Reasons that are loss as soon as there is one, each with its meaning and remedy."""

MOST = {
    "unknown_language": "no language of the table; set collect.language_column or collect.path_column to columns that "
    "tell it, or collect.language for rows that hold texts alone",
    "over_large": "over collect.max_file_bytes; raise it if these are code",
    "binary": "not text; name the folders of code as inputs if this is a surprise",
    "ignored": "git ignores them; --no-gitignore reads them",
    "excluded": "collect.include or collect.exclude leaves them out; fix the patterns if this is a surprise",
    "vendored": "other people's code, by the name of a folder or .gitattributes; set collect.vendored to read it",
    "generated": ".gitattributes says that they are generated; set collect.vendored to read them",
    "codeshell_output": "outputs of codeshell; name their curated/ or kept/ to read those",
}
"""Reasons that are right by themselves, and a mistake where more than half of an input falls to one."""


def notes(recipe: Recipe, statistics: dict[str, Any], directory: Path) -> list[str]:
    """What was left out and why, in whole lines for the terminal: the counts, then a warning for each loss."""
    listed = in_words(statistics["dropped"])
    if not listed:
        return []
    where = f"each is in {directory / 'collect'}/dropped-*.parquet"
    first = f"collect: left out {listed}; {where}, and `codeshell explain PATH --run {directory}` says why"
    by_input = statistics.get("by_input", [])
    return [first, *losses(dict(zip(recipe.collect.inputs, by_input, strict=False)))]


def losses(by_input: dict[str, dict[str, int]]) -> list[str]:
    """A line for each reason that costs an input documents which its user most likely meant, with the remedy.

    Args:
        by_input: for each input, the number of files and rows by reason; those that became documents are `document`.
    """
    lines = []
    for name, reasons in by_input.items():
        total = sum(reasons.values())
        for reason, count in sorted(reasons.items(), key=lambda entry: -entry[1]):
            meaning = LOST.get(reason, "") or (MOST.get(reason, "") if 2 * count > total else "")
            if reason.startswith("encoding_"):
                encoding = reason.removeprefix("encoding_").replace("_", "-")
                meaning = f'in {encoding}, not in UTF-8; collect.encoding = "auto" reads them'
            if meaning:
                lines.append(f"collect: warning: {name}: {count:,} of {total:,} left out as {reason}: {meaning}")
    return lines


def make_plan(settings: Collect, stage: Path, own: Sequence[Path] = (), engine: Engine | None = None) -> dict[str, Any]:
    """List the input into `plan-NNNNN.json`, one per shard, and `plan.json`, written last; or read what is there.

    What is below the directories `own` is none of the input. The engine starts its workers once there is work for two
    of them, while the listing continues.
    """
    path = stage / "plan.json"
    asked = json.loads(json.dumps(to_tree(settings)))  # as it is read back: tuples are lists in JSON
    if path.exists():
        plan: dict[str, Any] = read_json(path)
        if plan.get("times"):
            # A key that an earlier version did not know has its default.
            if json.loads(json.dumps(to_tree(Collect()))) | plan["settings"] != asked:
                raise UserError(f"{path}: made with other [collect] settings; choose another output directory")
            return plan
        # An earlier version was killed in this stage, and its lists have another format: the stage begins again.
        # `plan.json` goes last. If a kill came before that, it brings the next run here again.
        for old in [*stage.glob("*-[0-9]*"), path]:
            old.unlink(missing_ok=True)
    if not settings.inputs:
        raise UserError("collect.inputs: empty; name folders, .parquet or .jsonl files in the recipe or with --input")
    if settings.language and languages.by_label(settings.language) is None:
        raise UserError(
            f"collect.language: {settings.language!r} is not a language; {languages.closest(settings.language)}"
        )
    # The listing is a stream: only one shard's files are in memory while they are written down.
    listing = Listing(settings.inputs, options_of(settings), own, by_input=True)
    count = 0
    for count, shards in enumerate(cut(listing, settings.shard_bytes), start=1):
        if count == 2 and engine is not None:
            engine.prepare(__name__)
        sources = {shard.source.number: shard.source for shard in shards}
        write_plan(stage / f"plan-{count - 1:05d}.json", Plan(list(sources.values()), shards))
    repeated = {str(index): number for index, number in sorted(listing.repeated.items())}
    # `times`: the lists say when each file was modified.
    plan = {"settings": asked, "shards": count, "repeated": repeated, "times": True}
    # ASCII JSON, because a path may hold bytes that are not UTF-8 (as surrogates).
    write_text(path, json.dumps(plan, indent=2, sort_keys=True) + "\n")
    return plan


def since(recipe: Recipe, directory: Path, *, strict: bool = False) -> str:
    """What has changed below the inputs since a run listed them, in words for one line; empty if nothing has.

    No file is opened, and nothing is asked of URLs.

    Args:
        strict: raise the `UserError` if an input is not there any more; otherwise it is in the words.
    """
    settings, stage = recipe.collect, directory / "collect"
    path = stage / "plan.json"
    if not path.exists():
        return ""
    plan = read_json(path)
    if not plan.get("times"):
        return "by a version that kept no times of files, so changes since are not seen; `--refresh` reads all again"
    inputs = [text for text in settings.inputs if not is_url(text.removeprefix("file://"))]
    urls = "URLs were not looked at" if len(inputs) < len(settings.inputs) else ""
    if not inputs:
        return urls

    def then() -> Iterator[changes.Stamp]:
        lists = (read_plan(stage / f"plan-{index:05d}.json") for index in range(plan["shards"]))
        return changes.listed(shard for one in lists for shard in one.shards if not is_url(shard.source.path))

    try:
        listing = Listing(inputs, options_of(settings), [directory], by_input=True, check=False)
        found = changes.compare(then, changes.stamps(listing))
    except UserError as error:
        if strict:
            raise
        # A finished stage needs its inputs no more: they may be on a disk that is not there today.
        return f"the inputs cannot be compared with what was read ({error})"
    return "; ".join(filter(None, (f"{found}; `--refresh` reads them again" if found else "", urls)))


def options_of(settings: Collect) -> InputOptions:
    """How the recipe's inputs are read."""
    return InputOptions(
        text_column=settings.text_column or None,
        repo_column=settings.repo_column or None,
        path_column=settings.path_column or None,
        language_column=settings.language_column or None,
        layout=settings.layout,
        damaged=settings.damaged,
        max_file_bytes=settings.max_file_bytes,
        max_row_bytes=settings.max_file_bytes,
        vendored=settings.vendored,
        gitignore=settings.gitignore,
        include=settings.include,
        exclude=settings.exclude,
        encoding=settings.encoding,
    )


def collect_shard(directory: str, settings: Collect, index: int) -> dict[str, Any]:
    """Read what `plan-INDEX.json` lists; write the shard's three files; return its statistics."""
    give_back_large_blocks()
    stage = Path(directory)
    options = options_of(settings)
    with ExitStack() as stack:
        out = _Output(stage, index, stack)
        for shard in read_plan(stage / f"plan-{index:05d}.json").shards:
            file = shard.source.path.rsplit("/", 1)[-1]
            # Files have names that tell their language; only rows may lack any sign of it.
            language = settings.language if shard.source.kind in TABLES else ""
            for row in rows(shard, options):
                out.add(shard.source.input, _placed(file, row, language))
        return out.finish()


def _placed(file: str, row: Row, otherwise: str = "") -> Row:
    """A row or file with its repository, path and language, or with the reason `unknown_language`.

    Args:
        otherwise: the language of a row whose label and path name none.
    """
    # A row that does not say where it comes from is named by its place in the file that holds it.
    repo = file.split(".", 1)[0] if row.repo is None else row.repo
    path = file + row.place if row.path is None else row.path
    language, reason = row.language, row.reason
    if not reason:
        # The data set's own label counts first, if it is a language of ours.
        found = (languages.by_label(language) if language else None) or languages.by_path(row.path or "", row.text)
        # A label that is no language of ours says that it is another one.
        if not found and otherwise and not language:
            found = languages.by_label(otherwise)
        language, reason = (found, "") if found else (language, "unknown_language")
    return row._replace(repo=repo, path=path, language=language, reason=reason)


class _Output:
    """The three files of a shard, a row group in memory."""

    def __init__(self, stage: Path, index: int, stack: ExitStack) -> None:
        self._documents = stack.enter_context(TableWriter(shard_path(stage, "documents", index), DOCUMENTS))
        self._scores = stack.enter_context(TableWriter(shard_path(stage, "scores", index), scores.SCORES))
        self._dropped = stack.enter_context(TableWriter(shard_path(stage, "dropped", index), DROPPED))
        self._held: list[tuple[int, Row]] = []
        self._held_bytes = 0
        self._drops: list[dict[str, Any]] = []
        self._by_language: dict[str, Counter[str]] = {}
        self._by_input: dict[int, Counter[str]] = {}
        self._listed = 0

    def add(self, source: int, row: Row) -> None:
        """A document of input number `source`, or a drop if the row has a reason."""
        # Counted apart from documents and drops, for the assertion at the end.
        self._listed += 1
        if row.reason:
            self._drop(source, row)
            return
        # A row group ends before the text that would make it too large, or when it has enough rows.
        if self._held and self._held_bytes + row.size > GROUP_BYTES:
            self._flush_documents()
        self._held.append((source, row))
        self._held_bytes += row.size
        if len(self._held) == ROW_GROUP:
            self._flush_documents()

    def finish(self) -> dict[str, Any]:
        """Write what is held; return the statistics."""
        self._flush_documents()
        self._flush_drops()
        counted = sum(reasons.total() for reasons in self._by_input.values())
        assert counted == self._listed, "every file is a document or a drop"
        return {
            "documents": sum(total["documents"] for total in self._by_language.values()),
            "bytes": sum(total["bytes"] for total in self._by_language.values()),
            "by_language": self._by_language,
            "by_input": {str(index): reasons for index, reasons in self._by_input.items()},
        }

    def _count(self, source: int, reason: str) -> None:
        self._by_input.setdefault(source, Counter())[reason] += 1

    def _drop(self, source: int, row: Row) -> None:
        self._count(source, row.reason)
        names = {name: getattr(row, name) for name in ("repo", "path", "language")}
        # Names come from users' files: what no text column can hold is written as escapes.
        names = {name: value and storable(value) for name, value in names.items()}
        self._drops.append(names | {"bytes": row.size, "stage": "collect", "rule": row.reason})
        if len(self._drops) == ROW_GROUP:
            self._flush_drops()

    def _flush_drops(self) -> None:
        if self._drops:
            self._dropped.write(pa.Table.from_pylist(self._drops, schema=DROPPED))
            self._drops = []

    def _flush_documents(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        texts = [row.text for _, row in held]
        data, offsets, measures = scores.measure(texts)
        if not measures["valid"].all():
            # C++ finds bad UTF-8 while it measures. It is rare: what is good is measured once more without it.
            bad = set(np.flatnonzero(~measures["valid"]).tolist())
            for place in sorted(bad):
                source, row = held[place]
                self._drop(source, row._replace(reason=encoding_reason(row.text)))
            held = [entry for place, entry in enumerate(held) if place not in bad]
            texts = [row.text for _, row in held]
            data, offsets, measures = scores.measure(texts)
        if not held:
            return
        # From here on every held row is a document.
        ids = [document_id(text) for text in texts]
        names = [str(row.language) for _, row in held]
        table = pa.table(
            [
                ids,
                [storable(row.repo or "") for _, row in held],
                [storable(row.path or "") for _, row in held],
                names,
                # The joined bytes are the column: no copy.
                pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(data)),
                pa.array([row.size for _, row in held], pa.int64()),
            ],
            schema=DOCUMENTS,
        )
        self._documents.write(table)
        self._scores.write(scores.score(texts, ids, names, measures))
        for source, count in Counter(source for source, _ in held).items():
            self._by_input.setdefault(source, Counter())["document"] += count
        for (_, row), language in zip(held, names, strict=True):
            total = self._by_language.get(language)
            if total is None:
                total = self._by_language[language] = Counter(documents=0, bytes=0)
            total["documents"] += 1
            total["bytes"] += row.size


def _summary(reasons: Counter[str]) -> str:
    found = ", ".join(f"{name} {count}" for name, count in sorted(reasons.items()) if count)
    return f"left out: {found}" if found else "it is empty"
