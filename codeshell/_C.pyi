"""Signatures of the C++ extension. Arrays are NumPy; work runs without the GIL."""

cuda_built: bool
cuda_architectures: str
compiler: str

def simd_level() -> str: ...
def gpu_devices() -> list[dict[str, object]]: ...
