"""Near duplicates in data that is in memory: lists, Arrow, pandas, polars, Hugging Face datasets.

None of these libraries but Arrow is imported. Whatever exports Arrow data (`__arrow_c_stream__`: polars, pandas from
2.2 on, Arrow) is read where it lies if its strings are `large_string`, and otherwise after Arrow's cast. Arrow converts
the columns of an older pandas itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.dedup.in_memory import search_texts
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.search import column_keys
from codeshell.documents.columns import order_type
from codeshell.documents.texts import large_strings
from codeshell.environment import thread_count

Data = TypeVar("Data")


def find_duplicates(
    data: Any,
    *,
    column: str = "text",
    threads: int = 0,
    progress: Callable[[int], object] | None = None,
    **parameters: Any,
) -> pa.Table:
    """Find the near duplicates among texts.

    >>> find_duplicates(texts, threshold=0.8)
    >>> find_duplicates(dataset, column="content", keep_order="column:stars:desc")

    Args:
        data: a sequence of strings; an Arrow array, chunked array, record batch or table; a pandas or polars series or
            frame; or a Hugging Face dataset (in memory or mapped, not streamed).
        column: the column of texts in a table, frame or dataset.
        threads: for signatures and verification; 0 means all cores. The result does not depend on it.
        progress: called about every 8 MB of text with the number of texts signed so far.
        parameters: those of `codeshell.dedup.Parameters`: `threshold`, `bands`, `rows`, `shingles`, `ngram`, `seed`,
            `method`, `verify`, `keep_order`, `cluster`.

    Returns:
        One row per text to drop, ascending: `index` (int64, its position), `kept_index` (int64, the text that stays
        and that it resembles most) and `jaccard` (float64, their exact Jaccard; null with `verify="none"`). A text
        without tokens is a duplicate only of an equal one (jaccard 1).

    Raises:
        ValueError: an impossible parameter, an unknown column, a null text, or something that is not text.
    """
    asked = Parameters(**parameters)
    asked.check()
    texts, table = _texts(data, column, asked.order_column)
    workers = thread_count(threads)
    dropped, kept, jaccard = search_texts(
        texts, asked, rank=_rank(texts, table, asked), threads=workers, progress=progress
    )
    return pa.table(
        {
            "index": dropped.astype(np.int64),
            "kept_index": kept.astype(np.int64),
            "jaccard": pa.array(jaccard, mask=np.isnan(jaccard)),
        }
    )


def deduplicate(data: Data, **settings: Any) -> Data:
    """Return the data without its near duplicates, as the same type and in the same order.

    Args:
        data, settings: see `find_duplicates`. A Hugging Face dataset gives one that selects rows, without a copy.
    """
    # An iterator can be read only once, but it is needed twice: to search and to select.
    source: Any = list(data) if isinstance(data, Iterator) else data
    found = find_duplicates(source, **settings)
    # One flag per row.
    stays = np.ones(len(source), np.bool_)
    stays[found["index"].to_numpy()] = False
    # By type: Arrow, Hugging Face datasets, pandas, polars, and any other sequence as a list.
    if isinstance(source, pa.Table | pa.RecordBatch | pa.Array | pa.ChunkedArray):
        result: Any = _filtered(source, pa.array(stays))
    elif hasattr(source, "select") and hasattr(source, "with_format"):
        result = source.select(np.flatnonzero(stays))
    elif hasattr(source, "iloc"):
        result = source.iloc[np.flatnonzero(stays)]
    elif hasattr(source, "filter") and hasattr(source, "__arrow_c_stream__"):
        result = source.filter(stays)
    else:
        result = [text for text, kept in zip(source, stays.tolist(), strict=True) if kept]
    return result  # type: ignore[no-any-return]


def _filtered(data: Any, mask: pa.BooleanArray) -> Any:
    """An Arrow table or array with the rows of the mask. Arrow cannot filter string views, which polars gives, so these
    become large strings meanwhile."""
    if isinstance(data, pa.Table | pa.RecordBatch):
        fields = [field.with_type(_without_views(field.type)) for field in data.schema]
        return data.cast(pa.schema(fields)).filter(mask).cast(data.schema)
    return data.cast(_without_views(data.type)).filter(mask).cast(data.type)


def _without_views(kind: pa.DataType) -> pa.DataType:
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


def _texts(data: Any, column: str, order: str | None) -> tuple[pa.ChunkedArray, pa.Table | None]:
    """The column of texts; for a table, frame or dataset also a table of this column and of the column `order`."""
    # Refuse what looks like data but is not a sequence of texts in memory.
    if isinstance(data, str):
        raise ValueError("data: a single str; give a sequence of texts")
    if isinstance(data, Mapping | Set):
        raise ValueError(f"data: a {type(data).__name__}; give a sequence of texts, a table or a frame")
    if not hasattr(data, "__len__") and (hasattr(data, "collect") or hasattr(data, "with_format")):
        raise ValueError(f"data: a {type(data).__name__} is not in memory; collect it, or feed its texts to Deduper")
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    # Find the names of the columns; data without any is itself the texts.
    dataset = hasattr(data, "with_format") and hasattr(data, "column_names")
    if dataset or isinstance(data, pa.Table):
        names = list(data.column_names)
    elif hasattr(data, "columns") and (hasattr(data, "__arrow_c_stream__") or hasattr(data, "iloc")):
        names = list(data.columns)
    else:
        return _chunked(data), None
    # Both columns must exist, and only once: a frame may have two columns of one name.
    for argument, kind, name in (("column", "", column), ("keep_order", "column ", order)):
        if name is not None and names.count(name) != 1:
            have = f"more than one {name!r}" if name in names else f"no {kind}{name!r}"
            raise ValueError(f"{argument}: {have} in the data; it has {', '.join(map(str, names))}")
    # Take only the columns that are needed: Arrow may not be able to hold the others.
    wanted = list(dict.fromkeys(name for name in (column, order) if name is not None))
    # By kind again: a dataset is read from its Arrow files, a frame through its Arrow stream.
    if dataset:
        table = data.select_columns(wanted).with_format("arrow")[:]
    elif isinstance(data, pa.Table):
        table = data.select(wanted)
    else:
        try:
            # Column by column from pandas: before 2.2 a frame exports no Arrow data, and its index is none of ours.
            pandas = hasattr(data, "iloc")
            table = pa.table({str(name): pa.array(data[name]) for name in wanted} if pandas else data[wanted])
        except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"data: its columns {', '.join(wanted)} cannot be taken by Arrow ({error})") from None
    return _chunked(table[str(column)]), table


def _chunked(values: Any) -> pa.ChunkedArray:
    """Texts of any kind as large strings; a `ValueError` for anything that is not text."""
    try:
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            # Older Arrow takes NumPy's strings only as Python's.
            values = values.tolist() if isinstance(values, np.ndarray) else values
            stream = hasattr(values, "__arrow_c_stream__")
            values = pa.chunked_array(values) if stream else pa.array(values, pa.large_string())
    except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"texts: not all are valid Unicode strings ({error})") from None
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    # No text has no type: a frame without rows has a column of objects or numbers.
    return pa.chunked_array([large_strings(chunk) for chunk in chunks if len(chunk)], pa.large_string())


def _rank(texts: pa.ChunkedArray, table: pa.Table | None, parameters: Parameters) -> NDArray[np.uint32] | None:
    """The place of each text in the keep order, (texts,); None: as they come."""
    if parameters.keep_order == "first":
        return None
    if parameters.keep_order == "longest":
        keys = [-pc.binary_length(texts).to_numpy().astype(np.int64)]
    else:
        name = parameters.order_column
        if table is None:
            raise ValueError(f"keep_order: no column {name!r} in the data")
        values = table[name]
        if not order_type(values.type):
            raise ValueError(f"keep_order: column {name!r} holds {values.type}, which has no order")
        if pa.types.is_string_view(values.type):  # Arrow cannot rank these
            values = values.cast(pa.large_string())
        keys = column_keys(values, descending=parameters.order_descending)
    # The last key of np.lexsort decides first, and it is stable: ties go by position. `rank` is the inverse of `order`.
    order = np.lexsort(keys[::-1])
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return rank
