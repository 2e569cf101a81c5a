"""Near duplicates: MinHash candidates, exact Jaccard verification. The public name is `codeshell.dedup`."""

from codeshell.data.dedup.datasketch import minhash_sets
from codeshell.data.dedup.duplicates import Deduper
from codeshell.data.dedup.minhash import band_keys, check_parameters, jaccard, minhash
from codeshell.data.dedup.parameters import Parameters
from codeshell.data.dedup.tables import deduplicate, find_duplicates
from codeshell.data.dedup.texts import TextBuffers, text_buffers

__all__ = [
    "Deduper",
    "Parameters",
    "TextBuffers",
    "band_keys",
    "check_parameters",
    "deduplicate",
    "find_duplicates",
    "jaccard",
    "minhash",
    "minhash_sets",
    "text_buffers",
]
