"""Secrets, personal data and overlap with evaluation sets: csrc/text."""

import numpy as np
from numpy.typing import NDArray

class ContaminationIndex:
    """The n-grams of evaluation problems' parts; see csrc/text/contamination.h.

    Part i is `data[offsets[i]:offsets[i + 1]]`. ValueError unless 1 <= shortest <= n <= 64.
    """

    def __init__(self, data: bytes | memoryview, offsets: NDArray[np.int64], n: int, shortest: int) -> None: ...
    @property
    def grams(self) -> int: ...
    @property
    def totals(self) -> NDArray[np.uint32]: ...
    def score(
        self, data: bytes | memoryview, offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]: ...

Buffer = bytes | bytearray | memoryview

def count(data: Buffer, offsets: NDArray[np.int64], everything: bool = False) -> NDArray[np.int64]: ...
def find(data: bytes, everything: bool = False) -> list[tuple[int, int, str]]: ...
def redact(
    data: Buffer, offsets: NDArray[np.int64], which: int, everything: bool = False
) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]: ...
