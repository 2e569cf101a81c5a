"""How operations reach torch: one library of names, and when a call may go past it.

An operation is a Python function that allocates its outputs and calls `codeshell._C`. It is registered under
`torch.ops.codeshell` with a fake for tracing; gradients come from an autograd.Function outside it. In eager mode with
ordinary tensors the function is called directly: torch's dispatcher costs more than everything else in the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from codeshell.versions import require

require("torch", torch.__version__)
library = torch.library.Library("codeshell", "DEF")  # type: ignore[no-untyped-call]
"""The namespace `torch.ops.codeshell`."""

# Looked up once: a call takes a few microseconds, and looking up attributes of modules would be a fifth of that.
_Tensor, _Parameter = torch.Tensor, torch.nn.Parameter
_compiling = torch.compiler.is_compiling
_modes, _transforms = torch._C._len_torch_dispatch_stack, torch._C._are_functorch_transforms_active


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


def direct(x: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether a call on these tensors may go past the dispatcher: nothing traces, intercepts or transforms it."""
    # A subclass may intercept any call, so only the two plain types go past the dispatcher.
    if _compiling() or (type(x) is not _Tensor and type(x) is not _Parameter):
        return False
    for other in others:
        if type(other) is not _Tensor and type(other) is not _Parameter:
            return False
    # Modes are FakeTensorMode, profilers of operations and the like; transforms are vmap, grad and jvp.
    return not (_modes() or _transforms() or x.is_meta)


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
