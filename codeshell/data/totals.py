"""Documents and bytes of a table of documents, in all and by language: what every stage's statistics are made of."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def totals(table: pa.Table) -> dict[str, int]:
    """`{"documents": rows, "bytes": sum of the column bytes}`."""
    return {"documents": table.num_rows, "bytes": pc.sum(table["bytes"]).as_py() or 0}


def by_language(table: pa.Table) -> dict[str, dict[str, int]]:
    """The totals of every language that occurs."""
    groups: list[dict[str, Any]] = (
        table.select(["language", "bytes"]).group_by("language").aggregate([("bytes", "count"), ("bytes", "sum")])
    ).to_pylist()
    return {
        group["language"]: {"documents": group["bytes_count"], "bytes": group["bytes_sum"]}
        for group in sorted(groups, key=lambda group: str(group["language"]))
    }
