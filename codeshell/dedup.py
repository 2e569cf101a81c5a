"""Near-duplicate search over texts, by its public name: signatures, duplicates of a table, duplicates of a stream.

>>> from codeshell.dedup import find_duplicates
>>> find_duplicates(texts, threshold=0.8)        # pa.Table: index, kept_index, jaccard
"""

from codeshell.data.dedup import Deduper, find_duplicates, jaccard, minhash

__all__ = ["Deduper", "find_duplicates", "jaccard", "minhash"]
