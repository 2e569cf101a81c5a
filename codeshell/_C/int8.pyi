"""Products with int8 weights on the CPU: csrc/int8/int8_cpu.h. Tensors are addresses; codeshell/ops/int8.py calls
these, and has checked the arguments."""

MOST_COLUMNS: int
PANEL: int
CHUNK: int
BLOCK: int

def packed_bytes(n: int, k: int) -> int:
    """Bytes of the int8 values of a weight (n, k), with their padding."""

def workspace_bytes(m: int, k: int) -> int:
    """Bytes that `multiply` needs for m rows of x, aligned to 8."""

def quantize(rows: int, first: int, last: int, k: int, weights: int, scales: int, threads: int) -> None:
    """Rows [first, last) of a weight from fp32 `rows`; `first` is a multiple of PANEL."""

def multiply(
    x: int,
    x_row: int,
    weights: int,
    scales: int,
    bias: int,
    y: int,
    m: int,
    n: int,
    k: int,
    workspace: int,
    threads: int,
) -> None:
    """y (m, n) = x (m, k) times the weight's transpose, plus the bias unless its address is 0."""

def gather(weights: int, scales: int, n: int, k: int, rows: int, count: int, out: int, threads: int) -> bool:
    """Rows of a weight (n, k) by their int64 numbers, as fp32 (count, k); False if one is not in [0, n)."""
