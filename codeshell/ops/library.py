"""How operations reach torch: one library of names, and the gate that decides when a call may go past it.

An operation is a Python function that allocates its outputs and calls `codeshell._C`. It is registered under
`torch.ops.codeshell` with a fake for tracing; gradients come from an autograd.Function outside it. In eager mode with
ordinary tensors the function is called directly: torch's dispatcher costs more than everything else in the call.

C++ gets addresses, and an address says nothing of what torch knows about a tensor. So every operation asks here first:

    `direct`        plain tensors, and nobody watches: C++ may have the addresses
    `transformed`   a transform of torch.func, forward-mode differentiation or torch.jit.trace looks into the call: it
                    sees torch's own operations, in the formula that every operation has beside its kernel
    the rest        subclasses (FakeTensor, DTensor), modes, make_fx, torch.compile: the operation of `torch.ops`, or
                    the formula where the operation has no name there
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from codeshell import _C
from codeshell.versions import require

require("torch", torch.__version__)
library = torch.library.Library("codeshell", "DEF")  # type: ignore[no-untyped-call]
"""The namespace `torch.ops.codeshell`."""

_Function = TypeVar("_Function", bound=Callable[..., Any])

_log = logging.getLogger("codeshell")
_said: set[str] = set()

# Looked up once: a call takes a few microseconds, and looking up attributes of modules would be a fifth of that.
_Tensor, _Parameter = torch.Tensor, torch.nn.Parameter
# torch.compile folds this to True. (torch.export without torch.compile traces by a mode.)
_compiling = torch.compiler.is_dynamo_compiling
_transforms, _jit_tracing = torch._C._are_functorch_transforms_active, torch._C._is_tracing


def say(operation: str, reason: str) -> None:
    """One line in the log of `codeshell` for each operation and reason, at its first call: nothing silently takes
    another way than a kernel of ours."""
    line = f"{operation}: PyTorch takes what no kernel of codeshell serves: {reason}"
    if line not in _said:
        _said.add(line)
        _log.warning("%s (said once; `codeshell info --kernels` lists what is served)", line)


def define(schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Register an operation for the CPU and for CUDA; returns the overload that a traced call uses.

    Args:
        schema: in torch's language, without the namespace.
        function: the operation; it takes tensors of either device.
        fake: gives results of the same shapes and dtypes, from tensors without data.
    """
    # One function for both devices: it asks the tensors where they are. Autograd is not registered, because each
    # operation has an autograd.Function around it.
    name = schema.split("(", 1)[0]
    library.define(schema)  # type: ignore[no-untyped-call]
    library.impl(name, function, "CPU")  # type: ignore[no-untyped-call]
    library.impl(name, function, "CUDA")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"codeshell::{name}", fake, lib=library)
    return getattr(torch.ops.codeshell, name).default


def constant_in_graphs(function: _Function) -> _Function:
    """Mark a function, the answer of which a traced graph folds into a constant.

    torch.compiler.assume_constant_result does the same, but imports torch._dynamo, and with that triton where it is
    installed: more time than everything else that `codeshell.ops` imports (2.8 s of CPU), for processes that will never
    trace.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def direct(*tensors: torch.Tensor | None) -> bool:
    """Whether C++ may have the addresses of these tensors: each is what its memory says, and nothing traces,
    intercepts or transforms the call. The device of the first one is taken for that of all."""
    # Only the two plain types go past the dispatcher (a subclass may intercept any call), and no view with the negative
    # bit. torch.compile folds the first question, so it never meets C++.
    return not _compiling() and _C.direct(*tensors)


def unwatched() -> bool:
    """Whether nothing traces, intercepts or transforms the calls that are made now."""
    return not _compiling() and _C.unwatched()


def direct_backward(grad: torch.Tensor, *saved: torch.Tensor | None) -> bool:
    """`direct` in a backward pass.

    Raises:
        RuntimeError: batched gradients (`is_grads_batched`, `vectorize=True`). They come by torch's older vmap, which
            announces itself nowhere, lacks most operations, and has tensors without memory.
    """
    if not direct(grad, *saved):
        return False
    try:
        grad.data_ptr()
    except RuntimeError:
        raise RuntimeError(
            "codeshell: gradients in batches (is_grads_batched or vectorize=True) are not served in a backward pass; "
            "use torch.func.jacrev, jacfwd or vmap around the whole function"
        ) from None
    return True


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass whose gradients cannot be differentiated, and say so when that is tried.

    torch's `once_differentiable` is not enough: its error is no part of the graph that leads to the inputs, so
    `torch.autograd.grad` never meets it and leaves the term out without a word. Here the gradients hang on all that
    the backward pass reads and that has a graph: incoming gradients and saved tensors.
    """
    once: Callable[..., Any] = once_differentiable(backward)

    @functools.wraps(backward)
    def differentiate(ctx: Any, *grads: torch.Tensor) -> Any:
        # Gradients are recorded in a backward pass only if somebody asked for `create_graph`.
        if not torch.is_grad_enabled() or _compiling():
            return once(ctx, *grads)
        with torch.no_grad():
            outputs = backward(ctx, *grads)
        sources = [x for x in (*grads, *ctx.saved_tensors) if x is not None and x.requires_grad]
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        refused: Any = _Refusal.apply
        return tuple(x if x is None or not sources else refused(x, *sources) for x in outputs)

    return differentiate


class _Refusal(torch.autograd.Function):
    """A gradient as it is, whose own gradient is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(
            "codeshell: trying to differentiate twice: the kernels have no gradients of gradients; use torch.func "
            "(grad, hessian, jvp of grad), where torch's own operations serve"
        )


def plain(*tensors: torch.Tensor) -> bool:
    """Whether each is an ordinary tensor or parameter, and none of a subclass, which may intercept any call."""
    return all(type(x) is _Tensor or type(x) is _Parameter for x in tensors)


def _before_autograd() -> bool:
    """Whether a mode traces before autograd (make_fx with `pre_dispatch`, torch.export)."""
    included: bool = torch._C._dispatch_tls_is_dispatch_key_included(torch._C.DispatchKey.PreDispatch)
    return included


# Modes are FakeTensorMode, make_fx, profilers of operations and the like. Those that trace before autograd are on a
# stack of their own, which is slow to ask; each of them is a mode of functions too.
_C.set_gate(
    _Tensor,
    _Parameter,
    (torch._C._len_torch_dispatch_stack, _transforms, _jit_tracing),
    torch._C._len_torch_function_stack,
    _before_autograd,
    forward_ad,
)


def transformed() -> bool:
    """Whether this call must consist of torch's own operations: in a transform of torch.func (vmap, grad, jvp …), under
    forward-mode differentiation, or in torch.jit.trace. An operation of `torch.ops.codeshell` and an autograd.Function
    would lose a tangent without a word there, or stop the transform."""
    if _compiling():
        return False
    return _transforms() or forward_ad._current_level >= 0 or _jit_tracing()


def gradients_by_torch(
    function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], grad: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The gradients of `inputs` from `grad`, that of `function(*inputs)`, by torch's autograd: for a backward pass
    whose tensors are not `direct` (vmap over gradients, a mode)."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = function(*leaves)
    return torch.autograd.grad(out, leaves, grad)


def address(x: torch.Tensor) -> int:
    """The address of a tensor's memory, which must be there if the tensor has elements.

    Raises:
        RuntimeError: the storage was released (as FSDP does between uses) or never allocated.
    """
    found = x.data_ptr()
    if not found and x.numel():
        raise RuntimeError(
            f"a tensor {tuple(x.shape)} {x.dtype} has no memory: its storage was released, or never allocated; restore "
            "it before the call"
        )
    return found


def apply_directly(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` for `direct` calls: without looking for functorch's transforms, which is a third of its cost."""
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply


def check_one_device(first: str, /, **tensors: torch.Tensor | None) -> None:
    """The one check, and the one wording, of "must be on one device".

    Rotary calls it only when it traces, and after a call has failed: `csrc/bindings/rotary.cpp` checks first, in the
    same words, because the whole call takes as long as this function.

    Raises:
        ValueError: a tensor is on another device than the one named `first`.
    """
    like = tensors[first]
    for name, x in tensors.items():
        if x is not None and like is not None and x.device != like.device:
            raise ValueError(
                f"{name} {tuple(x.shape)} is on {x.device}, {first} {tuple(like.shape)} on {like.device}; they must be "
                "on one device"
            )


def stream_of(x: torch.Tensor) -> int:
    """The current CUDA stream of the tensor's device as an integer; 0 on the CPU."""
    return 0 if x.is_cpu else torch._C._cuda_getCurrentRawStream(x.get_device())


def differentiable(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd has to see a call on these tensors."""
    if not torch.is_grad_enabled():
        return False
    return any(x is not None and x.requires_grad for x in tensors)
