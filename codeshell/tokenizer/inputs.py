"""The texts that `codeshell tokenizer` is pointed at: folders, files, Parquet, JSONL, or a run's own corpus.

Unlike the collect stage, nothing here needs a known language: a plain file that is named is read whatever it is, and
a row without a language counts under the one its path suggests, or as `unknown`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codeshell.documents import languages, readers, walk
from codeshell.documents.shards import list_shards
from codeshell.errors import UserError
from codeshell.recipe import Collect

SETTINGS = Collect()
"""Column names and size limits, as in a recipe that does not set them."""

BATCH_BYTES = 2_000_000
BATCH_DOCUMENTS = 256


class Document(NamedTuple):
    language: str | None
    text: str


def documents(inputs: list[str], split: str, left_out: Counter[str]) -> Iterator[Document]:
    """Yield every text of the inputs, in a fixed order; what cannot be read is counted in `left_out` by reason.

    Args:
        inputs: paths. Of a run's directory (or its `curated/`), the split named is read.
        split: `train`, `valid` or `test`.
        left_out: reasons, added to.

    Raises:
        UserError: an input that is not there, or a damaged Parquet or JSONL file.
    """
    for item in inputs:
        path = Path(item).expanduser()
        if path.is_dir():
            shards = list_shards(path, split) or list_shards(path / "curated", split)
            if shards:
                for shard in shards:
                    yield from _rows(str(shard), left_out)
            else:
                yield from _folder(path, left_out)
        elif not path.exists():
            raise UserError(f"{item}: no such file or folder; mend the path")
        elif readers.kind_of(str(path)):
            yield from _rows(str(path), left_out)
        else:
            yield from _file(path, str(path), left_out)


def batches(items: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents so that one group is about `BATCH_BYTES` of text."""
    batch: list[Document] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.text)
        if size >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def sample(read: Callable[[], Iterator[Document]], *, seed: int, max_bytes: int) -> tuple[int, Iterator[Document]]:
    """Each different text once, chosen in the order of hash(seed, text) for as long as `max_bytes` holds them.

    `read` is called twice: to hash and measure now, and to give the texts. A number or two a document stay in memory.

    Returns:
        How many texts are chosen, and the texts.
    """
    keys, sizes = [], []
    for item in read():
        data = item.text.encode()
        keys.append(_key(seed, data))
        sizes.append(len(data))
    unique, first = np.unique(np.array(keys, dtype=np.uint64), return_index=True)
    fits = np.cumsum(np.array(sizes, dtype=np.int64)[first]) <= max_bytes
    wanted = set(unique[fits].tolist())

    def chosen() -> Iterator[Document]:
        for item in read():
            key = _key(seed, item.text.encode())
            if key in wanted:
                wanted.remove(key)
                yield item

    return len(wanted), chosen()


def _key(seed: int, data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, salt=seed.to_bytes(16, "little")).digest(), "little")


def _folder(root: Path, left_out: Counter[str]) -> Iterator[Document]:
    for found in walk.walk(str(root), max_file_bytes=SETTINGS.max_file_bytes, vendored=False):
        if found.reason:
            left_out[found.reason] += 1
        else:
            yield from _file(root / found.path, found.path, left_out)


def _file(path: Path, name: str, left_out: Counter[str]) -> Iterator[Document]:
    data, reason = readers.read_file(str(path), 1 << 30)
    yield from _document(data, reason, None, name, left_out)


def _rows(path: str, left_out: Counter[str]) -> Iterator[Document]:
    if readers.kind_of(path) == "parquet":
        groups = range(len(readers.parquet_groups(path, SETTINGS)))
        rows = readers.parquet_rows(path, groups, SETTINGS)
    else:
        readers.jsonl_check(path, SETTINGS)
        rows = readers.jsonl_rows(path, 0, None, SETTINGS)
    for row in rows:
        yield from _document(row.text, row.reason, row.language, row.path or "", left_out)


def _document(data: bytes, reason: str, language: str | None, path: str, left_out: Counter[str]) -> Iterator[Document]:
    if not reason:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            reason = "bad_utf8"
        else:
            yield Document(language or _language(path, data), text)
            return
    left_out[reason] += 1


def _language(path: str, data: bytes) -> str | None:
    name = path.rsplit("/", 1)[-1]
    language, look_inside = languages.by_name(name)
    return languages.by_content(name, language, data) if look_inside else language
