"""Near duplicates: MinHash candidates, exact Jaccard verification. The public name is `codeshell.dedup`."""

from codeshell.data.dedup.duplicates import Deduper, find_duplicates
from codeshell.data.dedup.minhash import band_keys, check_parameters, jaccard, minhash
from codeshell.data.dedup.texts import TextBuffers, text_buffers

__all__ = [
    "Deduper",
    "TextBuffers",
    "band_keys",
    "check_parameters",
    "find_duplicates",
    "jaccard",
    "minhash",
    "text_buffers",
]
