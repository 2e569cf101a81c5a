"""The scorer `secrets`, and the function that replaces what it counts: keys, passwords, e-mail and IP addresses.

It is off unless the recipe names it. A rule of `select` drops documents by its columns; `split.redact` replaces what
is found with placeholders where curated text is written, so the ids of the documents stay. `csrc/text/secrets.h` has
the rules. They are made for code: precision before recall, because a document that loses a harmless string learns
something wrong, and no rule finds a password that looks like a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents.texts import Texts, cut, large_strings, text_buffers
from codeshell.errors import UserError

KINDS = ("secrets", "emails", "addresses")
"""What is found, and the columns that count it: `secrets` are keys with a known form, private keys, and passwords and
tokens that are assigned to a name that says so."""


class Secrets:
    """Counts of secrets and personal data.

    Args:
        everything: also count what identifies nobody: addresses of private networks and of documentation, well-known
            resolvers, and e-mail addresses at example.com and the like.
    """

    version = 1
    columns = pa.schema([(name, pa.int64()) for name in KINDS])

    def __init__(self, everything: bool = False) -> None:
        if not isinstance(everything, bool):
            raise UserError(f"score.settings of secrets: everything {everything!r} is not true or false")
        self.everything = everything

    def score(self, batch: pa.Table) -> dict[str, Any]:
        """See `codeshell.scorers.Scorer`."""
        parts = [
            _C.secrets.count(view.data, view.offsets, self.everything)
            for piece in text_buffers(batch["text"])
            for view in cut(piece)
        ]
        counts = np.concatenate([np.zeros((0, len(KINDS)), np.int64), *parts])
        return {name: counts[:, place] for place, name in enumerate(KINDS)}


def redact(
    texts: Texts, kinds: Sequence[str] = KINDS, *, everything: bool = False
) -> tuple[pa.LargeStringArray, dict[str, NDArray[np.int64]]]:
    """Replace secrets and personal data with `<KEY>`, `<PASSWORD>`, `<EMAIL>` and `<IP_ADDRESS>`.

    Of a private key the first and the last line stay. Nothing is found in the result again.

    Args:
        texts: (n,) strings without nulls.
        kinds: those of `KINDS` that are replaced.
        everything: see `Secrets`.

    Returns:
        (n,) texts, the array of the caller itself where nothing is replaced in it; and for each of `KINDS` (n,) int64,
        how many pieces were replaced.

    Raises:
        ValueError: an unknown kind, or an element that is null or not a string.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"kinds: {unknown[0]!r} is not one of {', '.join(KINDS)}")
    which = sum(1 << KINDS.index(kind) for kind in set(kinds))
    arrays = _arrays(texts)
    done, counted = [], [np.zeros((0, len(KINDS)), np.int64)]
    for array in arrays:
        for piece in text_buffers(array):
            start = 0
            for view in cut(piece):
                data, offsets, counts = _C.secrets.redact(view.data, view.offsets, which, everything)
                some = array.slice(start, len(view))
                if counts.any():
                    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
                    some = pa.LargeStringArray.from_buffers(len(view), buffers[1], buffers[2])
                done.append(some)
                counted.append(counts)
                start += len(view)
    counts = np.concatenate(counted)
    changed = bool(counts.any())
    # Arrow joins by copying; what did not change is not copied.
    result = arrays[0] if len(arrays) == 1 and not changed else _joined(done)
    return result, {name: counts[:, place] for place, name in enumerate(KINDS)}


def _arrays(texts: Texts) -> list[pa.LargeStringArray]:
    if isinstance(texts, pa.ChunkedArray):
        return [large_strings(chunk) for chunk in texts.chunks]
    if isinstance(texts, pa.Array):
        return [large_strings(texts)]
    return [pa.array(list(texts), pa.large_string())]


def _joined(parts: list[pa.LargeStringArray]) -> pa.LargeStringArray:
    return pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())
