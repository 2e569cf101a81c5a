"""Bits per UTF-8 byte of held-out files, for every system on the same bytes.

Bits per byte does not depend on the tokenizer: the sum of nats over ln 2 times the sum of bytes, special tokens being
no bytes. The peers are
- `xz`: `xz -9e` on all files put together, the way that favours it (a model sees one file at a time);
- `xz_per_file`: `xz -9e` on each file alone, its container included;
- `byte_model`: `codeshell.evaluate.byte_model`, counted on the training split;
- `base`: for a fine-tuned model, the one that tuning began with.

Its statistics:

    {"files", "bytes", "tokens", "window", "stride", "start", "not_roundtrip",   # sample and definition (scoring.py)
     "systems": {"model" | "base" | "byte_model" | "xz" | "xz_per_file":
       {"bits_per_byte", "interval": [low, high] | null}},
     "differences": {system: {"difference", "interval", "significant"}},         # model minus system, bits per byte
     "by_language": {name: {"files", "bytes", "systems", "differences"}}, "languages_without_a_row",
     "end_of_text_bits_per_byte",                                                # not in the model's figure
     "byte_model_trained_on_bytes"}
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codeshell.evaluate import claims
from codeshell.evaluate.corpus import Document
from codeshell.evaluate.intervals import DIGITS, FEWEST, bootstrap_ratios, percentile_interval
from codeshell.evaluate.section import Bar, Cell, Interval, Row, Section, Table, difference_cell, left_over
from codeshell.evaluate.task import Measured, NotRunError, Task

if TYPE_CHECKING:
    from codeshell.evaluate.subject import Subject

SYSTEMS = {
    "model": ("the model", "the model"),
    "base": ("the base, before tuning", "the base before tuning"),
    "byte_model": ("order-3 byte model", "the order-3 byte model"),
    "xz": ("xz -9e, all files as one", "xz -9e on all files together"),
    "xz_per_file": ("xz -9e, file by file", "xz -9e file by file"),
}
"""The systems' names in a table and in a sentence."""

LANGUAGE_ROWS = 12
"""Languages with a row of their own, the largest first."""


class Compression(Task):
    """The task `bits_per_byte`: it asks nothing, it scores the files as they are."""

    name = "bits_per_byte"
    heading = "Bits per byte"
    keeps_samples = False

    def measure(self, subject: Subject) -> Measured:
        # Encode all files at once: the tokenizer is fast in batches.
        chosen = subject.held_out.choose(subject.seed, "bits per byte", max_bytes=subject.settings.max_bytes)
        ids = subject.tokenizer.encode_batch([document.text for document in chosen])
        # Tokens that do not give the file back have not coded it: such a file is left out for every system.
        kept = [
            (document, tokens)
            for document, tokens in zip(chosen, ids, strict=True)
            if subject.tokenizer.decode_bytes(tokens) == document.data
        ]
        if not kept:
            raise NotRunError("no held-out file that fits max_bytes and survives the tokenizer")
        documents, ids = [document for document, _ in kept], [tokens for _, tokens in kept]
        # A quarter of the window overlaps with the one before it, so every token sees that much of its file at least.
        stride = max(1, subject.context * 3 // 4)
        nats = subject.score(ids, stride=stride, title="evaluate: bits per byte")
        # The last entry of a file is its end of text, which is no byte and is counted apart.
        systems = {"model": [float(values[:-1].sum()) / math.log(2) for values in nats]}
        base = subject.tuned_from
        if base is not None:
            before = subject.score(ids, stride=stride, title="evaluate: bits per byte, the base", model=base)
            systems["base"] = [float(values[:-1].sum()) / math.log(2) for values in before]
            del base
        if subject.byte_model is not None:
            systems["byte_model"] = [subject.byte_model.bits(document.data) for document in documents]
        result = compare(documents, systems, seed=subject.seed)
        ends = sum(float(values[-1]) for values in nats) / math.log(2)
        return Measured(
            result
            | {
                "tokens": sum(map(len, ids)),
                "window": subject.context,
                "stride": stride,
                "start": subject.start,
                "not_roundtrip": len(chosen) - len(documents),
                "end_of_text_bits_per_byte": round(ends / result["bytes"], DIGITS),
                "byte_model_trained_on_bytes": subject.byte_model.trained_on_bytes if subject.byte_model else None,
            }
        )

    def claims(self, result: dict[str, Any]) -> list[str]:
        model = result["systems"]["model"]
        sentences = [
            f"The model codes {result['bytes']:,} bytes of {result['files']} held-out files in "
            f"{model['bits_per_byte']:.3f} bits per byte{claims.interval(model['interval'])}."
        ]
        # One sentence per other system: how far apart they are, or that the sample does not say.
        for name, difference in result["differences"].items():
            other = result["systems"][name]
            peer = f"{SYSTEMS[name][1]} ({other['bits_per_byte']:.3f}{claims.interval(other['interval'])})"
            if difference["significant"]:
                less = "fewer" if difference["difference"] < 0 else "more"
                sentences.append(
                    f"It needs {abs(difference['difference']):.3f} bits per byte {less} than {peer}; 95 % interval of "
                    f"the difference {claims.numbers(difference['interval'])}."
                )
            else:
                sentences.append(f"A difference from {peer} cannot be claimed from {result['files']} files.")
        return sentences

    def section(self, result: dict[str, Any]) -> Section:
        tables = [_systems_table(result["systems"], result["differences"])]
        if result.get("by_language"):
            tables.append(
                _language_table(result["by_language"], [name for name in SYSTEMS if name in result["systems"]])
            )
        return Section(
            self.heading,
            (
                f"How many bits per byte each system needs to write down {result['bytes']:,} bytes of "
                f"{result['files']:,} held-out files; less is better.",
                "Every system sees the same bytes. Intervals are 95 %, from a bootstrap over files.",
            ),
            tuple(tables),
            others=left_over(result, "systems", "differences", "by_language", "files", "bytes"),
        )


def _systems_table(systems: dict[str, Any], differences: dict[str, Any]) -> Table:
    """The systems in the order of their bits, the best first."""
    # A full bar is the largest value that is shown, the upper ends of the intervals included.
    top = max(high for entry in systems.values() for high in (entry["bits_per_byte"], *(entry["interval"] or ())))
    rows = []
    for name, entry in sorted(systems.items(), key=lambda item: (item[1]["bits_per_byte"], item[0])):
        # xz on all files together has a value and no interval.
        ends = None if entry["interval"] is None else (entry["interval"][0], entry["interval"][1])
        cells: tuple[Cell, ...] = (
            entry["bits_per_byte"],
            None if ends is None else Interval(*ends),
            difference_cell(differences.get(name)),
        )
        rows.append(Row(SYSTEMS[name][0], cells, Bar(entry["bits_per_byte"], top, ends), strong=name == "model"))
    return Table(("System", "Bits per byte", "95 % interval", "Model minus system", ""), tuple(rows))


def _language_table(by_language: dict[str, Any], names: list[str]) -> Table:
    rows = [
        Row(language, (entry["files"], *(entry["systems"][name]["bits_per_byte"] for name in names)))
        for language, entry in by_language.items()
    ]
    head = ("Language", "Files", *(SYSTEMS[name][0] for name in names))
    return Table(head, tuple(rows), "Bits per byte by language")


def xz_bytes(data: bytes) -> int:
    """Size of `xz -9e` of the data.

    The dictionary is no larger than the data: preset 9 takes 700 MB of memory for its dictionary of 64 MB, and a
    dictionary larger than the data saves nothing.
    """
    # The next power of two that holds the data, 4 KiB at least (the smallest that xz knows).
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
    """Bits per byte of every system, over all files and for each language, each with its interval.

    Args:
        documents: the files, none empty.
        systems: bits of every file under each system, for example `{"model": …, "byte_model": …}`.
        seed: decides the resamples.
        ours: the system whose differences from the others are tested.

    Returns:
        `{files, bytes, systems {name: {bits_per_byte, interval}}, differences {name: {…}}, by_language {name: {…}}}`.
        xz over all files is one number for these bytes: it has no interval. A difference is `ours` minus the other;
        its interval comes from the same resamples of the files (for xz over all files, of ours against that fixed
        number). It is significant if the interval leaves out 0 and there are at least `intervals.FEWEST` files.
    """
    # The files as bytes, and the indices of those of each language.
    sizes = [document.data for document in documents]
    result = _row(sizes, systems, seed=seed, purpose="all", ours=ours)
    languages: dict[str, list[int]] = {}
    for index, document in enumerate(documents):
        languages.setdefault(document.language or "unknown", []).append(index)
    # The languages with the most bytes get rows; their number is bounded, because each row bootstraps again.
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
    # bits is (systems, files), sizes (files,), replicates (systems, REPLICATES): one resample serves every system.
    names = [*systems, "xz_per_file"]
    bits = np.array([*systems.values(), [8.0 * xz_bytes(data) for data in files]], dtype=np.float64)
    sizes = np.array([len(data) for data in files], dtype=np.float64)
    replicates = bootstrap_ratios(bits, sizes, seed=seed, purpose=f"bits per byte {purpose}")
    total = sizes.sum()
    table: dict[str, Any] = {
        name: _value(float(bits[i].sum() / total), replicates[i], len(files)) for i, name in enumerate(names)
    }
    # All files as one is a single number for these bytes; resampling files says nothing about it.
    together = 8.0 * xz_bytes(b"".join(files)) / total
    table["xz"] = {"bits_per_byte": round(float(together), DIGITS), "interval": None}
    # A difference has the interval of the differences of the resamples, in which the files' sizes cancel.
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
    # Significant: the interval leaves out 0, and the files are enough for a bootstrap to be trusted.
    away = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return {"difference": round(value, DIGITS), "interval": interval, "significant": away and files >= FEWEST}
