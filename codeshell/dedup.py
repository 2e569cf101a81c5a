"""Near-duplicate search over texts, by its public name: signatures, duplicates of a table, duplicates of a stream.

>>> from codeshell.dedup import deduplicate, find_duplicates
>>> find_duplicates(texts, threshold=0.8)        # pa.Table: index, kept_index, jaccard
>>> deduplicate(dataframe, column="content")     # the rows that stay, as the same type
"""

from codeshell.data.dedup import Deduper, Parameters, deduplicate, find_duplicates, jaccard, minhash, minhash_sets

__all__ = ["Deduper", "Parameters", "deduplicate", "find_duplicates", "jaccard", "minhash", "minhash_sets"]
