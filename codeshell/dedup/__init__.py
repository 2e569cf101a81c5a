"""Near-duplicate search over texts: signatures, duplicates of a table, duplicates of a stream.

>>> from codeshell.dedup import deduplicate, find_duplicates
>>> find_duplicates(texts, threshold=0.8)        # pa.Table: index, kept_index, jaccard
>>> deduplicate(dataframe, column="content")     # the rows that stay, as the same type

`codeshell.dedup.job` searches files that are larger than the memory; it is what `codeshell dedup` runs.
"""

from codeshell.dedup.datasketch import minhash_sets
from codeshell.dedup.minhash import jaccard, minhash
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.stream import Deduper
from codeshell.dedup.tables import deduplicate, find_duplicates

__all__ = ["Deduper", "Parameters", "deduplicate", "find_duplicates", "jaccard", "minhash", "minhash_sets"]
