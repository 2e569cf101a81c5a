"""Collect: from folders, checkouts, Parquet and JSONL to document shards with their scores.

    plan   one walk lists every file, in order (input by input, bytewise by path), and cuts the list into shards of
           about `shard_bytes` of text. The lists are written down, so a resumed run sees the same files.
    shard  read -> language -> measure -> documents-, scores- and dropped-NNNNN.parquet, a row group at a time.

Everything that is listed ends as a document or as a row of `dropped`: asserted for every shard. Memory is a directory
listing in the plan and a row group in a worker, whatever the size of the input.
"""

from __future__ import annotations

import json
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from codeshell.documents import languages, readers, walk
from codeshell.documents.provenance import DROPPED
from codeshell.documents.shards import DOCUMENTS, ROW_GROUP, TableWriter, document_id, shard_path
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import TEMPORARY, make_directory, read_json, remove_quietly, write_json, write_text
from codeshell.engine.memory import give_back_large_blocks
from codeshell.errors import UserError
from codeshell.recipe import Collect, Recipe, to_tree
from codeshell.scorers import text as scores

GROUP_BYTES = 8 << 20
"""Text in a row group at most (unless one document is longer); with `ROW_GROUP` what a worker holds at once."""

SHARD_ENTRIES = 20_000
"""Files in a shard at most, so that a folder of a million pictures is not one shard."""

PACKAGES = frozenset({"site-packages", "dist-packages"})


class Source(NamedTuple):
    """One thing to read that an input stands for."""

    input: int
    """Index in `collect.inputs`."""
    kind: str
    """`directory`, `file`, `parquet` or `jsonl`."""
    path: str
    leave_out: frozenset[str] = frozenset()


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Collect the inputs of the recipe below `directory`/collect.

    Returns:
        `documents`, `bytes`, `by_language {name: {documents, bytes}}`, `dropped {reason: files}`.

    Raises:
        UserError: no inputs, an input that does not exist or holds no document, a damaged Parquet or JSONL file.
    """
    settings = recipe.collect
    stage = make_directory(directory / "collect")
    for leftover in stage.glob(f"*{TEMPORARY}"):
        remove_quietly(leftover)
    plan = make_plan(settings, stage)
    shards: list[int] = list(range(plan["shards"]))
    parts = map_shards(engine, stage, "collect", partial(collect_shard, str(stage), settings), shards)
    by_language: dict[str, Counter[str]] = {}
    by_input: dict[int, Counter[str]] = {index: Counter() for index in range(len(settings.inputs))}
    for part in parts:
        for name, numbers in part["by_language"].items():
            by_language.setdefault(name, Counter()).update(numbers)
        for index, reasons in part["by_input"].items():
            by_input[int(index)].update(reasons)
    for index, reasons in by_input.items():
        if not reasons["document"]:
            raise UserError(f"{settings.inputs[index]}: no document in it ({_summary(reasons)})")
    dropped = sum(by_input.values(), Counter())
    del dropped["document"]
    return {
        "documents": sum(part["documents"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "by_language": {name: dict(by_language[name]) for name in sorted(by_language)},
        "dropped": {name: dropped[name] for name in sorted(dropped)},
    }


def make_plan(settings: Collect, stage: Path) -> dict[str, Any]:
    """List the input into `plan-NNNNN.json`, one a shard, and `plan.json`, written last; or read what is there."""
    path = stage / "plan.json"
    wanted = json.loads(json.dumps(to_tree(settings)))  # as it is read back: tuples are lists in JSON
    if path.exists():
        plan: dict[str, Any] = read_json(path)
        if plan["settings"] != wanted:
            raise UserError(f"{path}: made with other [collect] settings; choose another output directory")
        return plan
    sources = [source for index in range(len(settings.inputs)) for source in _expand(index, settings)]
    if not sources:
        raise UserError("collect.inputs: empty; name folders, .parquet or .jsonl files in the recipe or with --input")
    count = 0
    for count, (roots, entries) in enumerate(_shards(sources, settings), start=1):
        # ASCII JSON, because a path may hold bytes that are not UTF-8 (as surrogates).
        text = json.dumps({"roots": roots, "entries": entries}, separators=(",", ":"))
        write_text(stage / f"plan-{count - 1:05d}.json", text + "\n")
    plan = {"settings": wanted, "shards": count}
    write_json(path, plan)
    return plan


Entry = list[Any]
"""Of a plan: [input, kind, ...]: `file`: path, size, repo; `left_out`: path, size, repo, reason; `parquet`: path,
first row group, end; `jsonl`: path, first byte, end (or null)."""


def _shards(sources: list[Source], settings: Collect) -> Iterator[tuple[dict[str, str], list[Entry]]]:
    """Cut the entries of all sources into shards, with the root directories that each needs."""
    roots: dict[str, str] = {}
    entries: list[Entry] = []
    total = 0
    for number, source in enumerate(sources):
        for size, entry in _entries(number, source, settings):
            if entries and (total + size > settings.shard_bytes or len(entries) >= SHARD_ENTRIES):
                yield roots, entries
                roots, entries, total = {}, [], 0
            if source.kind in ("directory", "file"):
                roots[str(number)] = source.path if source.kind == "directory" else str(Path(source.path).parent)
            entries.append(entry)
            total += size
    if entries:
        yield roots, entries


def _entries(number: int, source: Source, settings: Collect) -> Iterator[tuple[int, Entry]]:
    """Yield (bytes of text, entry) of one source."""
    if source.kind == "parquet":
        first, total = 0, 0
        sizes = readers.parquet_groups(source.path, settings)
        for group, size in enumerate(sizes):
            if group > first and total + size > settings.shard_bytes:
                yield total, [source.input, "parquet", source.path, first, group]
                first, total = group, 0
            total += size
        yield total, [source.input, "parquet", source.path, first, len(sizes)]
    elif source.kind == "jsonl":
        readers.jsonl_check(source.path, settings)
        if readers.is_packed(source.path) or readers.is_url(source.path):
            yield settings.shard_bytes, [source.input, "jsonl", source.path, 0, None]
            return
        size = Path(source.path).stat().st_size
        for start in range(0, max(size, 1), settings.shard_bytes):
            end = min(start + settings.shard_bytes, size)
            yield end - start, [source.input, "jsonl", source.path, start, end]
    elif source.kind == "file":
        file = Path(source.path)
        size = file.stat().st_size
        reason = walk.why_not_read(file.name, size, settings.max_file_bytes)
        yield _entry(number, source.input, walk.Found(file.name, size, file.parent.name, reason))
    else:
        for found in walk.walk(
            source.path,
            max_file_bytes=settings.max_file_bytes,
            vendored=settings.vendored,
            leave_out=source.leave_out,
        ):
            yield _entry(number, source.input, found)


def _entry(number: int, index: int, found: walk.Found) -> tuple[int, Entry]:
    if found.reason:
        return 0, [index, "left_out", number, found.path, found.size, found.repo, found.reason]
    return found.size, [index, "file", number, found.path, found.size, found.repo]


def _expand(index: int, settings: Collect) -> Iterator[Source]:
    """The sources of one input: `{stdlib}` and `{site-packages}`, globs, and what kind of thing each path is."""
    text = settings.inputs[index]
    paths = sysconfig.get_paths()
    leave_out = PACKAGES if "{stdlib}" in text else frozenset()
    path = text.replace("{stdlib}", paths["stdlib"]).replace("{site-packages}", paths["purelib"])
    if readers.is_url(path):
        names = _expand_url(path)
    else:
        path = str(Path(path).expanduser())
        names = [path]
        if has_magic(path) and not os.path.lexists(path):
            names = sorted(glob(path, recursive=True), key=os.fsencode)  # noqa: PTH207 (Path.glob wants a root)
    if not names or not text:
        raise UserError(f"collect.inputs: {text!r} matches no file; mend the path")
    for name in names:
        kind = readers.kind_of(name)
        if readers.is_url(name):
            if not kind:
                raise UserError(f"{name}: a URL must end in .parquet or .jsonl (.gz, .zst); copy folders here first")
            yield Source(index, kind, name)
            continue
        place = Path(name).absolute()
        if place.is_dir():
            yield Source(index, "directory", str(place), leave_out)
        elif place.is_file():
            yield Source(index, kind or "file", str(place))
        elif os.path.lexists(place):
            raise UserError(f"{name}: neither a file nor a folder; leave it out")
        else:
            raise UserError(f"{name}: no such file or folder; mend the path")


def _expand_url(url: str) -> list[str]:
    if not has_magic(url):
        return [url]
    import fsspec

    with readers.damage(url), readers.driver(url):
        system, path = fsspec.core.url_to_fs(url)
        return sorted(system.unstrip_protocol(name) for name in system.glob(path))


def collect_shard(directory: str, settings: Collect, index: int) -> dict[str, Any]:
    """Read what `plan-INDEX.json` lists; write the shard's three files; return its statistics."""
    give_back_large_blocks()
    stage = Path(directory)
    plan = read_json(stage / f"plan-{index:05d}.json")
    with ExitStack() as stack:
        out = _Output(stage, index, stack)
        for entry in plan["entries"]:
            source, kind, *rest = entry
            if kind == "file":
                number, path, size, repo = rest
                _add_file(out, source, f"{plan['roots'][str(number)]}/{path}", path, size, repo, settings)
            elif kind == "left_out":
                _, path, size, repo, reason = rest
                out.drop(source, repo, path, None, size, reason)
            else:
                path, first, end = rest
                if kind == "parquet":
                    rows = readers.parquet_rows(path, range(first, end), settings)
                else:
                    rows = readers.jsonl_rows(path, first, end, settings)
                name = path.rsplit("/", 1)[-1]
                for row in rows:
                    _add_row(out, source, name, row)
        out.flush()
    assert out.listed == out.documents + out.dropped, "every file is a document or a drop"
    return out.statistics()


def _add_file(out: _Output, source: int, full: str, path: str, size: int, repo: str, settings: Collect) -> None:
    data, reason = readers.read_file(full, settings.max_file_bytes)
    language = None
    if not reason:
        name = path.rsplit("/", 1)[-1]
        language, look_inside = languages.by_name(name)
        if look_inside:
            language = languages.by_content(name, language, data)
        if language is None:
            reason = "unknown_language"
    if language is None:
        out.drop(source, repo, path, None, len(data) or size, reason)
    else:
        out.add(source, repo, path, language, data)


def _add_row(out: _Output, source: int, file: str, row: readers.Row) -> None:
    repo = row.repo or file.split(".", 1)[0]
    path = row.path or file + row.place
    reason = row.reason
    language = None
    if not reason:
        language = languages.by_label(row.language) if row.language else None
        if language is None:
            name = (row.path or "").rsplit("/", 1)[-1]
            language, look_inside = languages.by_name(name)
            if look_inside:
                language = languages.by_content(name, language, row.text)
        if language is None:
            reason = "unknown_language"
    if language is None:
        out.drop(source, repo, path, row.language, len(row.text), reason)
    else:
        out.add(source, repo, path, language, row.text)


class _Output:
    """The three files of a shard, a row group in memory."""

    def __init__(self, stage: Path, index: int, stack: ExitStack) -> None:
        self._documents = stack.enter_context(TableWriter(shard_path(stage, "documents", index), DOCUMENTS))
        self._scores = stack.enter_context(TableWriter(shard_path(stage, "scores", index), scores.SCORES))
        self._dropped = stack.enter_context(TableWriter(shard_path(stage, "dropped", index), DROPPED))
        self._texts: list[bytes] = []
        self._about: list[tuple[int, str, str, str]] = []
        self._size = 0
        self._drops: list[dict[str, Any]] = []
        self._by_language: dict[str, list[int]] = {}
        self._by_input: dict[int, Counter[str]] = {}
        self.listed = self.documents = self.dropped = self.bytes = 0

    def add(self, source: int, repo: str, path: str, language: str, text: bytes) -> None:
        """A document, unless its text turns out not to be UTF-8."""
        self.listed += 1
        if self._texts and self._size + len(text) > GROUP_BYTES:
            self._flush_documents()
        self._texts.append(text)
        self._about.append((source, repo, path, language))
        self._size += len(text)
        if len(self._texts) == ROW_GROUP:
            self._flush_documents()

    def drop(self, source: int, repo: str, path: str, language: str | None, size: int, reason: str) -> None:
        self.listed += 1
        self._drop(source, repo, path, language, size, reason)

    def flush(self) -> None:
        self._flush_documents()
        self._flush_drops()

    def statistics(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "by_language": {
                name: {"documents": count, "bytes": size} for name, (count, size) in sorted(self._by_language.items())
            },
            "by_input": {
                str(index): dict(sorted(reasons.items())) for index, reasons in sorted(self._by_input.items())
            },
        }

    def _drop(self, source: int, repo: str, path: str, language: str | None, size: int, reason: str) -> None:
        self.dropped += 1
        self._count(source, reason)
        self._drops.append(
            {
                "repo": _shown(repo),
                "path": _shown(path),
                "language": language,
                "bytes": size,
                "stage": "collect",
                "rule": reason,
            }
        )
        if len(self._drops) == ROW_GROUP:
            self._flush_drops()

    def _count(self, source: int, reason: str, count: int = 1) -> None:
        self._by_input.setdefault(source, Counter())[reason] += count

    def _flush_drops(self) -> None:
        if self._drops:
            self._dropped.write(pa.Table.from_pylist(self._drops, schema=DROPPED))
            self._drops = []

    def _flush_documents(self) -> None:
        texts, about = self._texts, self._about
        if not texts:
            return
        self._texts, self._about, self._size = [], [], 0
        data, offsets, measures = scores.measure(texts)
        if not measures["valid"].all():
            valid = measures["valid"].tolist()
            for good, text, (source, repo, path, language) in zip(valid, texts, about, strict=True):
                if not good:
                    self._drop(source, repo, path, language, len(text), "bad_utf8")
            texts = [text for text, good in zip(texts, valid, strict=True) if good]
            about = [entry for entry, good in zip(about, valid, strict=True) if good]
            if not texts:
                return
            data, offsets, measures = scores.measure(texts)
        ids = [document_id(text) for text in texts]
        names = [language for _, _, _, language in about]
        sizes = [len(text) for text in texts]
        table = pa.table(
            [
                ids,
                [_shown(repo) for _, repo, _, _ in about],
                [_shown(path) for _, _, path, _ in about],
                names,
                # The joined bytes are the column: no copy.
                pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(data)),
                pa.array(sizes, pa.int64()),
            ],
            schema=DOCUMENTS,
        )
        self._documents.write(table)
        self._scores.write(scores.score(texts, ids, names, measures))
        self.documents += len(texts)
        self.bytes += len(data)
        for (source, _, _, language), size in zip(about, sizes, strict=True):
            self._count(source, "document")
            total = self._by_language.setdefault(language, [0, 0])
            total[0] += 1
            total[1] += size


def _shown(path: str) -> str:
    """A path as text: bytes that are not UTF-8 become `\\xNN`."""
    if path.isascii():
        return path
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _summary(reasons: Counter[str]) -> str:
    found = ", ".join(f"{name} {count}" for name, count in sorted(reasons.items()) if count)
    return f"left out: {found}" if found else "it is empty"
