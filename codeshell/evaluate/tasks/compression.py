"""Bits per UTF-8 byte of held-out files, for every system on the same bytes.

Bits per byte does not depend on the tokenizer: Σ nats / (ln 2 · Σ bytes), special tokens being no bytes. The peers are
- `xz`: `xz -9e` on all files behind one another, the way that favours it (a model sees one file at a time);
- `xz_per_file`: the same on each file alone, container overhead included;
- `byte_model`: `codeshell.evaluate.byte_model`, counted on the training split.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codeshell.evaluate.corpus import Document
from codeshell.evaluate.intervals import DIGITS, FEWEST, bootstrap_ratios, percentile_interval

LANGUAGE_ROWS = 12
"""Languages with a row of their own, the largest first."""


def xz_bytes(data: bytes) -> int:
    """Size of `xz -9e` of the data.

    The dictionary is no larger than the data needs: preset 9 would take 700 MB of memory for its 64 MB dictionary,
    and what lies beyond the data is never referred to.
    """
    window = 1 << max(12, (len(data) - 1).bit_length())
    preset = 9 | lzma.PRESET_EXTREME
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": min(window, 64 << 20)}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=filters))


def compare(
    documents: Sequence[Document],
    systems: Mapping[str, Sequence[float]],
    *,
    seed: int,
    ours: str = "model",
) -> dict[str, Any]:
    """Bits per byte of every system, over all files and by language, each with its interval.

    Args:
        documents: the files, none empty.
        systems: bits of every file under each system, e.g. `{"model": …, "byte_model": …}`.
        seed: of the bootstrap.
        ours: the system whose difference to the others is tested.

    Returns:
        `{files, bytes, systems {name: {bits_per_byte, interval}}, differences {name: {…}}, by_language {name: {…}}}`.
        xz over all files is one number for these bytes: it has no interval. A difference is `ours` minus the other;
        its interval is that of the same resamples of the files (for xz over all files, of ours against that fixed
        number), and it is significant if that leaves out 0 and there are at least `intervals.FEWEST` files.
    """
    sizes = [document.data for document in documents]
    result = _row(sizes, systems, seed=seed, purpose="all", ours=ours)
    languages: dict[str, list[int]] = {}
    for index, document in enumerate(documents):
        languages.setdefault(document.language or "unknown", []).append(index)
    largest = sorted(languages, key=lambda name: (-sum(len(sizes[i]) for i in languages[name]), name))
    result["by_language"] = {
        name: _row(
            [sizes[i] for i in languages[name]],
            {system: [bits[i] for i in languages[name]] for system, bits in systems.items()},
            seed=seed,
            purpose=name,
            ours=ours,
        )
        for name in largest[:LANGUAGE_ROWS]
    }
    result["languages_without_a_row"] = max(0, len(largest) - LANGUAGE_ROWS)
    return result


def _row(
    files: Sequence[bytes], systems: Mapping[str, Sequence[float]], *, seed: int, purpose: str, ours: str
) -> dict[str, Any]:
    names = [*systems, "xz_per_file"]
    bits = np.array([*systems.values(), [8.0 * xz_bytes(data) for data in files]], dtype=np.float64)
    sizes = np.array([len(data) for data in files], dtype=np.float64)
    replicates = bootstrap_ratios(bits, sizes, seed=seed, purpose=f"bits per byte {purpose}")
    total = sizes.sum()
    table: dict[str, Any] = {
        name: _value(float(bits[i].sum() / total), replicates[i], len(files)) for i, name in enumerate(names)
    }
    together = 8.0 * xz_bytes(b"".join(files)) / total
    table["xz"] = {"bits_per_byte": round(float(together), DIGITS), "interval": None}
    at = names.index(ours)
    differences: dict[str, Any] = {}
    for i, name in enumerate(names):
        if i != at:
            value = float((bits[at] - bits[i]).sum() / total)
            differences[name] = _difference(value, replicates[at] - replicates[i], len(files))
    differences["xz"] = _difference(float(bits[at].sum() / total - together), replicates[at] - together, len(files))
    return {"files": len(files), "bytes": int(total), "systems": table, "differences": differences}


def _value(value: float, replicates: npt.NDArray[np.float64], files: int) -> dict[str, Any]:
    interval = percentile_interval(replicates) if files > 1 else None
    return {"bits_per_byte": round(value, DIGITS), "interval": interval}


def _difference(value: float, replicates: npt.NDArray[np.float64], files: int) -> dict[str, Any]:
    interval = percentile_interval(replicates) if files > 1 else None
    away = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return {"difference": round(value, DIGITS), "interval": interval, "significant": away and files >= FEWEST}
