"""Every operation with every kind of tensor, context and transform: the script that `test_gate.py` runs by itself.

A wrong address ends the interpreter, so this runs in a process of its own. It prints one line of JSON for each pair:
operation, kind, and what came of it: "right", "shape" (a tensor without data, of the right shape), "error: …" (a Python
exception), or "WRONG: …".
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from codeshell import ops
from codeshell.ops.library import transformed
from codeshell.optim import AdamW

# The operations: a function of tensors, and its tensors. Each function is pure, so that every kind can call it.

torch.manual_seed(0)  # the tensors below are the same in every run
_COS, _SIN = torch.rand(16, 16), torch.rand(16, 16)
_OFFSETS = torch.tensor([0, 3, 6], dtype=torch.int32)
_TARGETS = torch.tensor([1, 2, -100, 0, 4, 3])
_LENGTHS = torch.tensor([2, 3], dtype=torch.int32)


def _copy(x: Tensor) -> Tensor:
    """A copy, except of a tensor without memory: torch's own clone would end the interpreter."""
    if type(x) is Tensor and x.is_cpu and x.layout == torch.strided and not x.is_nested and not transformed():
        try:
            if x.numel() and x.data_ptr() == 0:
                return x
        except RuntimeError:
            pass
    return x.clone()


def _adamw(p: Tensor, grad: Tensor) -> Tensor:
    parameter = nn.Parameter(_copy(p.detach()))
    optimizer = AdamW([parameter], lr=0.1)
    for _ in range(2):
        parameter.grad = grad.detach()
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
    return parameter.detach()


def _decode(q: Tensor, k: Tensor, v: Tensor, new: Tensor) -> Tensor:
    # The caches are written, but every call writes the same.
    return ops.decode_attention(q, k, v, cache_seqlens=_LENGTHS, k_new=new, v_new=new)


Function = Callable[..., Any]
OPERATIONS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "attention": (ops.attention, (torch.randn(2, 5, 4, 32), torch.randn(2, 5, 2, 32), torch.randn(2, 5, 2, 32))),
    "attention with a window": (
        lambda q, k, v: ops.attention(q, k, v, window=2, return_lse=True),
        (torch.randn(2, 5, 4, 32), torch.randn(2, 5, 2, 32), torch.randn(2, 5, 2, 32)),
    ),
    "packed sequences": (
        lambda q, k, v: ops.attention(q, k, v, cu_seqlens=_OFFSETS, max_seqlen=3),
        (torch.randn(6, 4, 32), torch.randn(6, 2, 32), torch.randn(6, 2, 32)),
    ),
    "packed_attention": (
        lambda qkv, cos, sin: ops.packed_attention(qkv, cos, sin, heads=4, kv_heads=2),
        (torch.randn(2, 5, 256), _COS, _SIN),
    ),
    "decode_attention": (
        _decode,
        (torch.randn(2, 1, 4, 32), torch.randn(2, 8, 2, 32), torch.randn(2, 8, 2, 32), torch.randn(2, 1, 2, 32)),
    ),
    "rotary": (
        lambda q, k, cos, sin: ops.rotary(q, k, cos, sin),
        (torch.randn(2, 5, 4, 32), torch.randn(2, 5, 2, 32), _COS, _SIN),
    ),
    "rotary in place": (
        lambda q, k: ops.rotary(_copy(q), _copy(k), _COS, _SIN, inplace=True),
        (torch.randn(2, 5, 4, 32), torch.randn(2, 5, 2, 32)),
    ),
    "rotary_qkv": (
        lambda qkv, bias, cos, sin: ops.rotary_qkv(qkv, bias, cos, sin, heads=4, kv_heads=2),
        (torch.randn(2, 5, 256), torch.randn(256), _COS, _SIN),
    ),
    "gelu": (ops.gelu, (torch.randn(6, 32),)),
    "residual_layer_norm": (
        ops.residual_layer_norm,
        (torch.randn(6, 32), torch.randn(6, 32), torch.randn(32), torch.randn(32)),
    ),
    "bias_gelu": (ops.bias_gelu, (torch.randn(6, 32), torch.randn(32))),
    "linear of many rows": (ops.linear, (torch.randn(70, 16), torch.randn(32, 16), torch.randn(32))),
    "linear": (ops.linear, (torch.randn(6, 16), torch.randn(32, 16), torch.randn(32))),
    "linear under autocast": (
        lambda x, weight: _under_autocast(ops.linear, x, weight),
        (torch.randn(6, 16), torch.randn(32, 16)),
    ),
    "linear_cross_entropy": (
        lambda hidden, weight: ops.linear_cross_entropy(hidden, weight, _TARGETS),
        (torch.randn(6, 16), torch.randn(8, 16)),
    ),
    "AdamW": (_adamw, (torch.randn(6, 16), torch.randn(6, 16))),
}


def _under_autocast(function: Function, *tensors: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function(*tensors)


# Kinds of tensors.


class Plainly(torch.Tensor):
    """A subclass that changes nothing."""


class Wrapped(torch.Tensor):
    """A wrapper as quantisation libraries have it: no memory of its own, and every operation unwraps."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapped:
        made: Wrapped = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map_only(Wrapped, lambda x: x.inner, (args, kwargs or {}))
        return pytree.tree_map_only(Tensor, Wrapped, func(*args, **kwargs))


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class WatchingFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _negative_view(x: Tensor) -> Tensor:
    """The same numbers as a view with the negative bit: memory holds them with the other sign."""
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    return view


def _released(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def _escaped(x: Tensor) -> Tensor:
    """A tensor of a transform that is over."""
    kept: list[Tensor] = []
    torch.vmap(lambda y: kept.append(y) or y)(x.unsqueeze(0))  # type: ignore[func-returns-value]
    return kept[0]


def _fake(x: Tensor) -> Tensor:
    return FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x)


def _functional(x: Tensor) -> Tensor:
    made: Tensor = torch._to_functional_tensor(x)  # type: ignore[attr-defined]
    return made


def _dtensor(x: Tensor) -> Tensor:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    return distribute_tensor(x, init_device_mesh("cpu", (1,)), [Replicate()])


def _expanded(x: Tensor) -> Tensor:
    """The first slice for all: a stride of 0."""
    return x[:1].expand(x.shape)


TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "Parameter": nn.Parameter,
    "subclass": lambda x: x.as_subclass(Plainly),
    "wrapper subclass": Wrapped,
    "FakeTensor": _fake,
    "meta": lambda x: x.to("meta"),
    "functional tensor": _functional,
    "negative view": _negative_view,
    "expanded": _expanded,
    "strided": lambda x: torch.stack((x, x), -1)[..., 0],
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "released storage": _released,
    "zeros without memory": lambda x: torch._efficientzerotensor(x.shape),  # type: ignore[attr-defined]
    "of a transform that is over": _escaped,
    "sparse": lambda x: x.to_sparse(),
    "compressed sparse": lambda x: x.reshape(x.shape[0], -1).to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor(list(x.unbind(0))),
    "jagged": lambda x: torch.nested.nested_tensor(list(x.unbind(0)), layout=torch.jagged),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "masked": lambda x: torch.masked.masked_tensor(x, torch.ones_like(x, dtype=torch.bool)),
    "empty": lambda x: x[:0],
    "complex": lambda x: x.to(torch.complex64),
    "integer": lambda x: x.to(torch.int32),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "DTensor": _dtensor,
}
CHANGED = {"zeros without memory", "empty", "expanded", "integer", "float8"}
"""Kinds whose numbers are others: the right result is that of a plain copy."""


def _inference(function: Function, tensors: tuple[Tensor, ...]) -> Any:
    with torch.inference_mode():
        return function(*(x.clone() for x in tensors))


def _called(function: Function, tensors: tuple[Tensor, ...], context: Any) -> Any:
    with context:
        return function(*tensors)


def _with_default(name: str, value: Any, back: Any) -> Callable[[Function, tuple[Tensor, ...]], Any]:
    def call(function: Function, tensors: tuple[Tensor, ...]) -> Any:
        getattr(torch, name)(value)
        try:
            return function(*tensors)
        finally:
            getattr(torch, name)(back)

    return call


def _traced(**settings: Any) -> Callable[[Function, tuple[Tensor, ...]], Any]:
    """The graph is made from other numbers, so that one which only remembers its results is found."""

    def call(function: Function, tensors: tuple[Tensor, ...]) -> Any:
        graph = make_fx(lambda *given: function(*given), **settings)(*(x * 0.5 + 0.1 for x in tensors))
        return graph(*tensors)

    return call


def _jit(function: Function, tensors: tuple[Tensor, ...]) -> Any:
    return torch.jit.trace(function, tuple(x * 0.5 + 0.1 for x in tensors), check_trace=False)(*tensors)  # type: ignore[no-untyped-call]


class _Module(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def _exported(function: Function, tensors: tuple[Tensor, ...]) -> Any:
    program = torch.export.export(_Module(function), tuple(x * 0.5 + 0.1 for x in tensors), strict=False)
    return program.module()(*tensors)


def _batched(function: Function, tensors: tuple[Tensor, ...]) -> Any:
    """vmap over two copies; the first of the results."""
    twice = tuple(torch.stack((x, x * 0.5)) for x in tensors)
    return pytree.tree_map(lambda x: x[0], torch.vmap(function)(*twice))


CONTEXTS: dict[str, Callable[[Function, tuple[Tensor, ...]], Any]] = {
    "FakeTensorMode": lambda f, t: _called(f, t, FakeTensorMode(allow_non_fake_inputs=True)),
    "FlopCounterMode": lambda f, t: _called(f, t, FlopCounterMode(display=False)),
    "dispatch mode": lambda f, t: _called(f, t, Watching()),
    "function mode": lambda f, t: _called(f, t, WatchingFunctions()),
    "device context meta": lambda f, t: _called(f, t, torch.device("meta")),
    "no_grad": lambda f, t: _called(f, t, torch.no_grad()),
    "inference_mode": _inference,
    "default dtype float64": _with_default("set_default_dtype", torch.float64, torch.float32),
    "default dtype bfloat16": _with_default("set_default_dtype", torch.bfloat16, torch.float32),
    "default device meta": _with_default("set_default_device", "meta", None),
    "deterministic": _with_default("use_deterministic_algorithms", True, False),
    "make_fx": _traced(),
    "make_fx fake": _traced(tracing_mode="fake"),
    "make_fx symbolic": _traced(tracing_mode="symbolic"),
    "make_fx pre_dispatch": _traced(pre_dispatch=True),
    "torch.jit.trace": _jit,
    "torch.export": _exported,
    "torch.compile": lambda f, t: torch.compile(f, backend="eager")(*t),
    "vmap": _batched,
    "functionalize": lambda f, t: torch.func.functionalize(f)(*t),
    "vjp": lambda f, t: torch.func.vjp(f, *t)[0],
    "jvp": lambda f, t: torch.func.jvp(f, t, t)[0],
}
"""What may surround a call with plain tensors. The result must be that of the plain call."""


def outcome(run: Callable[[], Any], wanted: Any, limit: float = 1e-4) -> str:
    """What came of a call: right, a shape without data, a Python error, or wrong."""
    try:
        got = run()
        pairs = list(zip(pytree.tree_leaves(got), pytree.tree_leaves(wanted), strict=True))
        for mine, theirs in pairs:
            if not mine.is_nested and mine.shape != theirs.shape:
                return f"WRONG: shape {tuple(mine.shape)}, not {tuple(theirs.shape)}"
        if any(isinstance(mine, FakeTensor) or mine.is_meta for mine, _ in pairs):
            return "shape"
        for mine, theirs in pairs:
            mine = mine.inner if isinstance(mine, Wrapped) else mine
            mine = mine.full_tensor() if hasattr(mine, "full_tensor") else mine
            if torch._is_functional_tensor(mine):  # type: ignore[attr-defined]
                torch._sync(mine)  # type: ignore[attr-defined]
                mine = torch._from_functional_tensor(mine)  # type: ignore[attr-defined]
            mine = torch.stack(mine.unbind()) if mine.is_nested else mine
            right = theirs.detach().double()
            error = (mine.detach().double() - right).abs()
            # torch adds up sparse products in bf16, and dense ones in fp32 on processors with AMX.
            if error.numel() and torch.bfloat16 in (mine.dtype, theirs.dtype):
                limit = max(limit, 2e-2 + 2**-6 * float(right.abs().max()))
            if not bool((error <= limit).all()):
                return f"WRONG: off by {float(error.max()) if error.numel() else 0.0}"
    except Exception as error:  # any Python exception is an answer, and only its absence is not
        return f"error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:150]
    return "right"


def cases(name: str) -> list[tuple[str, Callable[[], Any], Any]]:
    """(kind, call, wanted) of an operation."""
    function, tensors = OPERATIONS[name]
    plain = function(*tensors)
    result: list[tuple[str, Callable[[], Any], Any]] = []
    for kind, make in TENSORS.items():

        def whole(make: Callable[[Tensor], Tensor] = make) -> Any:
            return function(*(make(x) for x in tensors))

        def first(make: Callable[[Tensor], Tensor] = make) -> Any:
            return function(make(tensors[0]), *tensors[1:])

        def last(make: Callable[[Tensor], Tensor] = make) -> Any:
            return function(*tensors[:-1], make(tensors[-1]))

        wanted = plain
        if kind in CHANGED:
            # What the same numbers give in memory of their own; where that is an error, so may this be.
            try:
                wanted = function(*(make(x).clone(memory_format=torch.contiguous_format).float() for x in tensors))
            except Exception:
                wanted = plain
        result.append((kind, whole, wanted))
        if kind not in CHANGED:
            result += [(f"{kind} first", first, plain), (f"{kind} last", last, plain)]
    for kind, call in CONTEXTS.items():
        # A parameter that is made inside a trace is a constant of it, whoever updates it.
        if name == "AdamW" and kind.startswith(("make_fx", "torch.")):
            continue
        result.append((kind, lambda call=call: call(function, tensors), plain))
    return result


def main(names: list[str]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in names:
        for kind, run, wanted in cases(name):
            # Written before the call, so that a crash names itself.
            print(json.dumps([name, kind]), flush=True)
            # What is left in freed memory must not look like a right result.
            del_me = [torch.full((size,), torch.nan) for size in (320, 640, 1280, 2560)]
            del del_me
            print(json.dumps([name, kind, outcome(run, wanted, 0.5 if "float8" in kind else 1e-4)]), flush=True)
            torch.compiler.reset()


if __name__ == "__main__":
    with nullcontext():
        main(sys.argv[1:] or list(OPERATIONS))
    # A process group or a mode that is left over must not change the exit code.
    sys.stdout.flush()
    os._exit(0)
