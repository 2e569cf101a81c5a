"""Texts as the C++ takes them: one buffer of UTF-8 bytes and int64 offsets, taken from Arrow without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Texts: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
"""Every form in which the functions of this package take texts."""


class TextBuffers(NamedTuple):
    """Text i is `data[offsets[i]:offsets[i + 1]]`."""

    data: memoryview | bytes
    offsets: NDArray[np.int64]
    """(texts + 1,)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1


PIECE_BYTES = 8 << 20
"""Text in one call of C++ on long columns. It bounds the memory; progress and Ctrl-C have their turn between calls."""


def cut(piece: TextBuffers) -> Iterator[TextBuffers]:
    """The piece in views of about `PIECE_BYTES`."""
    if len(piece):
        # (texts,): the number of the view in which each text begins. A view begins at the first text of each number.
        starts = (piece.offsets[:-1] - piece.offsets[0]) // PIECE_BYTES
        cuts = np.unique(starts, return_index=True)[1].tolist()
        for begin, end in pairwise([*cuts, len(piece)]):
            yield TextBuffers(piece.data, piece.offsets[begin : end + 1])


def text_buffers(texts: Texts) -> Iterator[TextBuffers]:
    """Yield the buffers of the texts, one piece for each Arrow chunk (a list is one piece).

    `large_string` arrays are used where they lie; other string types are converted by Arrow.

    Raises:
        ValueError: an element is null or not a string.
    """
    if isinstance(texts, pa.ChunkedArray):
        for chunk in texts.chunks:
            yield _array_buffers(chunk)
    elif isinstance(texts, pa.Array):
        yield _array_buffers(texts)
    elif isinstance(texts, str):
        raise ValueError("texts: a single str; give a sequence of texts")
    else:
        # A list is copied once, by Arrow, which also refuses what is no text.
        try:
            array = pa.array(texts, pa.large_string())
        except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"texts: not all are valid Unicode strings ({error})") from None
        yield _array_buffers(array)


def large_strings(array: pa.Array) -> pa.LargeStringArray:
    """The array itself, or what Arrow makes of another string type or a dictionary of strings.

    Raises:
        ValueError: an element is null or not a string.
    """
    if not array.null_count and array.type != pa.large_string():
        # Only the different values of a dictionary are cast; then each row takes its own.
        coded = pa.types.is_dictionary(array.type)
        values = array.dictionary if coded else array
        if values.type not in (pa.string(), pa.large_string(), pa.string_view()):
            raise ValueError(f"texts: Arrow type {array.type} is not a string type")
        values = values.cast(pa.large_string())
        array = values.take(array.indices) if coded else values
    if array.null_count:
        raise ValueError(f"texts: {array.null_count} of {len(array)} are null; drop or fill them")
    return array


def _array_buffers(array: pa.Array) -> TextBuffers:
    array = large_strings(array)
    # An empty array may have no buffers at all.
    _, offsets, data = array.buffers()
    if offsets is None or offsets.size == 0:
        return TextBuffers(b"", np.zeros(1, np.int64))
    # A slice of an array shares the buffers of the whole: its offsets begin at `array.offset`, not at 0.
    view = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return TextBuffers(b"" if data is None else memoryview(data), view)
