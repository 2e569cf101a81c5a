"""pyarrow for processes of our own, that is commands and workers: it starts without pandas."""

from __future__ import annotations

import sys


class _NotFound:
    """A finder that hides pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def leave_out_pandas() -> None:
    """Keep pyarrow from importing pandas with its first array.

    It does so where pandas is installed, to tell its objects from others: a third of a second of every process, more
    than all the rest of a small job. It looks once, so it looks here, and does not find it. `to_pandas` looks again.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NotFound)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(_NotFound)
