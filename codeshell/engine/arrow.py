"""A quicker start of pyarrow, without pandas, in processes of our own: commands and workers."""

from __future__ import annotations

import sys


class _NotFound:
    """A finder of modules that hides pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def leave_out_pandas() -> None:
    """Keep pyarrow from importing pandas with its first array.

    Where pandas is installed, pyarrow imports it to recognise its objects. That takes a third of a second in every
    process, more than all the rest of a small job. pyarrow looks for pandas only once, so it is made to look here,
    where it does not find it. `to_pandas` looks again.
    """
    import pyarrow as pa

    # Imported already: there is no time left to save, and the caller may hold its objects.
    if "pandas" in sys.modules:
        return
    # The first array makes pyarrow look; ours is the first finder that it asks.
    sys.meta_path.insert(0, _NotFound)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(_NotFound)
