"""Secrets, personal data and overlap with evaluation sets: csrc/text."""

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview

def count(data: Buffer, offsets: NDArray[np.int64], everything: bool = False) -> NDArray[np.int64]: ...
def find(data: bytes, everything: bool = False) -> list[tuple[int, int, str]]: ...
def redact(
    data: Buffer, offsets: NDArray[np.int64], which: int, everything: bool = False
) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]: ...
