"""Measures of code that need its tokens: csrc/text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

columns: tuple[str, ...]

class Lexis:
    def __init__(
        self,
        markers: Sequence[tuple[str, str, str, bool, bool, bool]],
        words: Sequence[tuple[str, str]],
        letters: str = "",
        prefixes: bool = False,
        docstrings: bool = False,
        annotations: str = "none",
        catches: str = "none",
        imports: str = "none",
        line_limit: int = 100,
    ) -> None: ...

def measure(
    data: Buffer, offsets: NDArray[np.int64], lexes: Sequence[Lexis], which: NDArray[np.int32]
) -> NDArray[np.float64]: ...
def imports(
    data: Buffer, offsets: NDArray[np.int64], lexes: Sequence[Lexis], which: NDArray[np.int32]
) -> tuple[bytes, NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]: ...
def measure_with_imports(
    data: Buffer, offsets: NDArray[np.int64], lexes: Sequence[Lexis], which: NDArray[np.int32]
) -> tuple[NDArray[np.float64], tuple[bytes, NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]]: ...
