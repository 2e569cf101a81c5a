"""The table of operations: what each one is, what serves it where, and what proves it.

It is read by `codeshell info`, `codeshell bench`, `codeshell info --kernels` (kernels.py), benchmarks/gpu_check.py and
the tests. To add an operation, write its own files and one entry here; tests/test_operations.py then says which of
them is missing. Standard library only, so that none of the readers needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from codeshell.architectures import OLDEST


@dataclass(frozen=True)
class Kernel:
    """A kernel of an operation for GPUs, in CUDA or in Triton.

    Attributes:
        source: its file: below csrc in CUDA, below codeshell in Triton.
        serves: the cases that it takes.
        torch: the cases that go to PyTorch's own operations in its place.
        tests: files below tests/ that prove it on a GPU.
    """

    source: str
    serves: str
    torch: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Operation:
    """An operation, and all that belongs to it.

    Attributes:
        name: what `codeshell info` calls it; its binding is csrc/bindings/NAME.cpp where it has kernels.
        functions: its public functions, `package.module:NAME`; none where only the package itself calls it.
        cpu: what serves it on a CPU, and in brackets what serves the other cases.
        elsewhere: what serves it on a GPU that does not run its kernels, and the cases that they do not take.
        newer: what of torch comes before that on GPUs of compute capability 8.0 and newer; empty where nothing does.
        reference: the same computation in PyTorch, `package.module:NAME`; empty where PyTorch has none.
        cpu_sources: its CPU kernels, below csrc.
        kernels: its CUDA kernels.
        triton: its kernels in Triton, `ops/NAME_triton.py`. An operation has either these or CUDA kernels.
        switch: the environment variable that must be 1 for them to be used; empty where they are used without it.
        host_tests: files below tests/ that run the CUDA kernels on the host.
        benchmark: its file benchmarks/NAME.py; empty where it has none.
        measures: what the benchmark compares, for `codeshell bench`.
        sanitized: names of cases (pytest's -k) of its first GPU test file that compute-sanitizer has time for.
    """

    name: str
    functions: tuple[str, ...]
    cpu: str
    elsewhere: str
    newer: str = ""
    reference: str = ""
    cpu_sources: tuple[str, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    triton: tuple[Kernel, ...] = ()
    switch: str = ""
    host_tests: tuple[str, ...] = ()
    benchmark: str = ""
    measures: str = ""
    sanitized: str = ""

    @property
    def cuda(self) -> str:
        """What serves it on a GPU, in a few words."""
        if self.triton:
            return f"{self.triton[0].source} (Triton) from sm_80 on, else {self.elsewhere}; see --kernels"
        if not self.kernels:
            return self.elsewhere
        asked = " if asked for" if self.switch else ""
        newer = f"{self.newer} from sm_80 on, else " if self.newer else ""
        return f"{self.kernels[0].source}{asked}, else {newer}{self.elsewhere}; see --kernels"

    def without_kernels(self, capability: tuple[int, int]) -> str:
        """What serves it on a GPU that does not run its kernels."""
        if self.newer and capability >= OLDEST:
            return f"{self.newer}; what that does not take, {self.elsewhere}"
        return self.elsewhere


_HOPPER_SWITCH = "CODESHELL_HOPPER_ATTENTION"

OPERATIONS = (
    Operation(
        name="attention",
        functions=("codeshell.ops:attention", "codeshell.ops:packed_attention"),
        cpu="C++ (fp16, fp64, dropout, heads of not 16, 32, … 256: torch SDPA)",
        elsewhere="torch's SDPA",
        newer="torch's FlashAttention",
        switch=_HOPPER_SWITCH,
        reference="codeshell.ops.sdpa:attend",
        cpu_sources=("attention/attention_cpu.cpp",),
        kernels=(
            Kernel(
                source="attention/forward_sm90.cu",
                serves="attention on GPUs of compute capability 9.0, if CODESHELL_HOPPER_ATTENTION=1 asks for it: "
                "bf16, fp16; head dimension 64 and 128; any group of query heads; causal, window or full; dense or "
                "packed sequences; log-sum-exp",
                torch="dropout, fp32, fp64, other head dimensions, a scale not above 0, other GPUs; of the flash_attn "
                "functions: windows that are not causal, keys in sequences of other lengths than the queries (on these "
                "torch's FlashAttention serves bf16 and fp16 from compute capability 8.0 on, packed sequences in one "
                "call; what it does not take is torch's SDPA, one call for each length)",
                tests=("gpu/test_attention_cuda.py",),
            ),
            Kernel(
                source="attention/backward_sm90.cu",
                serves="the gradients of all that attention/forward_sm90.cu serves, on the same terms; deterministic "
                "if asked for",
                torch="what the forward pass leaves to torch; gradients of gradients are an error",
                tests=("gpu/test_attention_backward_cuda.py",),
            ),
        ),
        host_tests=(
            "gpu/test_attention_host.py",
            "gpu/test_attention_backward_host.py",
            "gpu/test_attention_defects_host.py",
            "gpu/test_budgets_host.py",
            "gpu/test_launch_failures_host.py",
            "gpu/test_models_host.py",
        ),
        benchmark="attention",
        measures="attention, forward and backward, against torch's SDPA",
        sanitized="one_tile or packed_window",
    ),
    Operation(
        name="decode",
        functions=("codeshell.ops:decode_attention",),
        cpu="torch SDPA",
        elsewhere="PyTorch over the whole capacity",
        newer="torch's FlashAttention over the cache in place",
        switch=_HOPPER_SWITCH,
        reference="codeshell.ops.decode:_attend_masked",
        kernels=(
            Kernel(
                source="attention/decode_sm90.cu",
                serves="decode_attention on GPUs of compute capability 9.0, if CODESHELL_HOPPER_ATTENTION=1 asks for "
                "it: bf16, fp16; head dimension 64 and 128; 1 to 16 new tokens; any group of query heads; contiguous "
                "caches, or pages of a multiple of 16 tokens; causal, window or full; appended tokens, rotated; "
                "log-sum-exp",
                torch="more new tokens, fp32, fp64, other head dimensions, other page sizes, a scale not above 0, "
                "caches that are not aligned to 16 bytes, rotary tables that are not of a multiple of 8 columns, "
                "other GPUs (on these, torch's FlashAttention serves bf16 and fp16 from compute capability 8.0 on: "
                "contiguous caches and pages of nearly any size, in place)",
                tests=("gpu/test_decode_cuda.py",),
            ),
        ),
        host_tests=("gpu/test_decode_host.py",),
        benchmark="decode",
        measures="attention of new tokens over a cache, against torch's SDPA, flash-attention",
        sanitized="ragged or paged_16",
    ),
    Operation(
        name="rotary",
        functions=("codeshell.ops:rotary", "codeshell.ops:rotary_qkv"),
        cpu="C++ (fp64: PyTorch)",
        elsewhere="PyTorch",
        reference="codeshell.ops.rotary:_reference",
        cpu_sources=("rotary/rotary_cpu.cpp",),
        kernels=(
            Kernel(
                source="rotary/rotary.cu",
                serves="rotary embedding of queries and keys, and a fused projection's bias, split and rotation, "
                "forward and backward: fp32, bf16, fp16; half-split or interleaved; partial; positions, offsets, "
                "packed sequences",
                torch="fp64, heads of more than 1,024 dimensions, other GPUs",
                tests=("gpu/test_rotary_cuda.py",),
            ),
        ),
        host_tests=("gpu/test_rotary_host.py",),
        benchmark="rotary",
        measures="rotary embedding against eager PyTorch, torch.compile, Liger",
    ),
    Operation(
        name="adamw",
        functions=("codeshell.optim:AdamW",),
        cpu="C++ (fp64, amsgrad: torch)",
        elsewhere="torch.optim.AdamW, and PyTorch for what that does not know",
        reference="torch.optim:AdamW",
        cpu_sources=("adamw/adamw_cpu.cpp",),
        kernels=(
            Kernel(
                source="adamw/adamw.cu",
                serves="AdamW steps of all parameters of a group in one launch, and the norm of their gradients: "
                "fp32, bf16, fp16; fp32 masters; stochastic rounding; bf16 moments",
                torch="amsgrad, differentiable, foreach=True, fused=False, fp64, betas that are tensors of a GPU; "
                "other GPUs (there in PyTorch: masters, stochastic rounding, moments of another dtype)",
                tests=("gpu/test_adamw_cuda.py",),
            ),
        ),
        host_tests=("gpu/test_adamw_host.py",),
        benchmark="adamw",
        measures="AdamW steps against torch's, apex's, TransformerEngine's",
    ),
    Operation(
        name="gelu",
        functions=("codeshell.ops:bias_gelu", "codeshell.ops:gelu"),
        cpu="C++ (fp16, fp64: PyTorch)",
        elsewhere="PyTorch",
        reference="codeshell.ops.gelu:formula",
        cpu_sources=("activation/gelu_cpu.cpp",),
        triton=(
            Kernel(
                source="ops/gelu_triton.py",
                serves="bias and GELU in one pass, forward and backward, the gradient of the bias included: fp32, "
                "bf16, fp16",
                torch="fp64, GPUs older than sm_80, machines without triton or without a C compiler",
                tests=("gpu/test_gelu_cuda.py",),
            ),
        ),
    ),
    Operation(
        name="norm",
        functions=("codeshell.ops:residual_layer_norm",),
        cpu="C++ (fp16, fp64: PyTorch)",
        elsewhere="PyTorch",
        reference="codeshell.ops.norm:reference",
        cpu_sources=("norm/norm_cpu.cpp",),
        triton=(
            Kernel(
                source="ops/norm_triton.py",
                serves="the sum of stream and branch and its LayerNorm in one pass, forward and backward, the "
                "gradients of weight and bias included: fp32, bf16, fp16; rows of up to 8,192 elements",
                torch="fp64, wider rows, a branch of a wider dtype than the stream, GPUs older than sm_80, machines "
                "without triton or without a C compiler",
                tests=("gpu/test_norm_cuda.py",),
            ),
        ),
        benchmark="norm",
        measures="residual and LayerNorm, bias and GELU, against eager PyTorch, torch.compile, Liger",
    ),
    Operation(
        name="loss",
        functions=("codeshell.ops:linear_cross_entropy",),
        cpu="C++ after each block of logits (fp16, fp64: PyTorch)",
        elsewhere="PyTorch",
        reference="codeshell.ops.loss:cross_entropy_reference",
        cpu_sources=("loss/cross_entropy_cpu.cpp",),
        kernels=(
            Kernel(
                source="loss/softmax_gradient.cu",
                serves="the step between the products of linear_cross_entropy: logits become their gradient in place, "
                "and each row's loss; fp32, bf16, fp16; any vocabulary up to 2^30",
                torch="fp64, other GPUs; the products are always torch's",
                tests=("gpu/test_loss_cuda.py",),
            ),
        ),
        host_tests=("gpu/test_loss_host.py",),
        benchmark="loss",
        measures="cross-entropy of a linear head, and its gradient in place, against torch's, Liger's",
    ),
    Operation(
        name="int8",
        functions=("codeshell.ops.int8:int8_linear", "codeshell.ops.int8:int8_rows"),
        cpu="C++ (calls in a transform or a trace: PyTorch)",
        elsewhere="nothing: int8 weights are for CPUs",
        reference="codeshell.ops.int8:reference",
        cpu_sources=("int8/int8_cpu.cpp",),
        benchmark="generation",
        measures="tokens per second of fp32, bf16 and int8 weights, and of other programs",
    ),
    Operation(
        name="copy",
        functions=(),
        cpu="none",
        elsewhere="torch's copies",
        reference="torch:clone",
        kernels=(
            Kernel(
                source="copy/copy.cu",
                serves="copies of device memory: the floor of the benchmarks",
                torch="other GPUs",
                tests=("gpu/test_copy_cuda.py",),
            ),
        ),
    ),
    Operation(
        name="minhash",
        functions=("codeshell.dedup:minhash",),
        cpu="C++ (avx512, avx2, neon, scalar)",
        elsewhere="",
        cpu_sources=("dedup/minhash.cpp",),
        benchmark="dedup",
        measures="near-duplicate search against other deduplicators",
    ),
    Operation(
        name="measures",
        functions=(),
        cpu="C++",
        elsewhere="",
        cpu_sources=("text/measures.cpp",),
    ),
)
"""Those with kernels that are known least come first: where a GPU's time runs out, the last are left out."""

KERNELS = {kernel.source: kernel for operation in OPERATIONS for kernel in operation.kernels}
"""The CUDA kernels by their path below csrc."""

TRITON_KERNELS = {kernel.source: kernel for operation in OPERATIONS for kernel in operation.triton}
"""The kernels in Triton by their path below the package."""
