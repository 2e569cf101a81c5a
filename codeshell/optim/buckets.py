"""Buckets: the parameters of a group that one launch serves, with the table of addresses that the launch reads.

A table is made once; each step reads the addresses again (in C++: a gradient is a new tensor after `zero_grad`), and a
GPU gets the
table again only where one has changed. Copies to a GPU go through torch's caching allocators of pinned and device
memory, asynchronously
on the current stream: a buffer is not used again before the copy and the kernel that read it have run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from codeshell import _C

# Tests put the kernels' host execution here: tensors of the CPU then take the path of a GPU.
host_kernels: ModuleType | None = None


@dataclass(frozen=True)
class Scheme:
    """What the arrays of a parameter hold."""

    param: torch.dtype
    gradient: torch.dtype
    moment: torch.dtype
    master: bool
    stochastic: bool

    def native(self) -> tuple[str, str, str, bool, bool]:
        """As the bindings take it."""
        names = (str(dtype).removeprefix("torch.") for dtype in (self.param, self.gradient, self.moment))
        return (*names, self.master, self.stochastic)  # type: ignore[return-value]


@dataclass(frozen=True)
class Kind:
    """What the parameters of a bucket have in common.

    Attributes:
        device: where their local tensors are.
        scheme: what the arrays hold.
        mesh: the device mesh of DTensors, whose local shards are updated; None for plain tensors.
        placements: theirs on it.
        staged: some parameter or gradient is not contiguous, or a gradient's dtype has no kernel: views and copies are
            made each step.
    """

    device: torch.device
    scheme: Scheme
    mesh: Any
    placements: tuple[Any, ...]
    staged: bool


def local(tensor: Tensor) -> Tensor:
    """A DTensor's shard of this process; any other tensor itself."""
    shard: Tensor = getattr(tensor, "_local_tensor", tensor)
    return shard


def order_of(tensor: Tensor) -> list[int] | None:
    """The permutation of dimensions that makes a dense tensor contiguous; None for one with gaps or overlaps."""
    if tensor.is_contiguous():
        return list(range(tensor.dim()))
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda i: (-strides[i], -tensor.shape[i]))
    return order if tensor.permute(order).is_contiguous() else None


class Bucket:
    """Parameters of one kind, in the order in which they are given.

    Args:
        kind: what they have in common.
        params: the parameters.
        states: their entries of the optimizer's state: `step`, `exp_avg`, `exp_avg_sq`, and `master_param` where the
            scheme has it.
        streams: a number a parameter that tells its random numbers from the others'.
    """

    def __init__(self, kind: Kind, params: list[Tensor], states: list[dict[str, Any]], streams: Sequence[int]) -> None:
        self.kind, self.params, self.states = kind, params, states
        self.on_gpu = kind.device.type == "cuda" or host_kernels is not None
        self._kernels: Any = host_kernels or _C
        self._scheme = kind.scheme.native()
        self._table = self._kernels.AdamWTable([local(p).numel() for p in params], list(streams))
        self._device_table: tuple[Tensor, Tensor] | None = None
        self._finished: Tensor | None = None
        self._spare: Tensor | None = None
        self._captured: list[Tensor] = []
        self._write_back: list[
            tuple[Tensor, Tensor, bool]
        ] = []  # copy, where it belongs, only if gradients are unscaled
        self._staged: Any = None

    def refresh(self) -> bool:
        """Read the addresses; False if a tensor is not of the bucket's kind any more."""
        params, gradients, states = self.params, None, self.states
        if self.kind.staged:
            self._staged = params, gradients, states = self._stage()  # Kept: the kernel gets their addresses.
        device = -1 if self.kind.device.type != "cuda" else self.kind.device.index or 0
        outcome: int = self._table.refresh(params, gradients, states, self._scheme, device, self.kind.mesh is not None)
        if outcome >= 0:
            return False
        if self.on_gpu and (outcome == -2 or self._device_table is None):
            self._upload()
        return True

    def step(self, settings: tuple[Any, ...]) -> int:
        """One update; `settings` are the scalars and addresses of csrc/adamw/adamw.h.

        On the CPU the addresses are read meanwhile, on a GPU they are those of the last `refresh`.

        Returns:
            How many of the parameters, in their order, this has dealt with: before the first that is not of the
            bucket's kind any more.
        """
        done = len(self.params)
        if self.on_gpu:
            with _device(self.kind.device):
                self._kernels.adamw_step_cuda(self._addresses(), self._scheme, settings, _stream(self.kind.device))
            changed = [p for p in self.params if p.grad is not None]
            increment_version(changed)  # The kernels write behind autograd's back.
        else:
            params, gradients, states = self._stage() if self.kind.staged else (self.params, None, self.states)
            unfit = self._table.step_cpu(
                *(params, gradients, states, self.params, increment_version, self._scheme, settings),
                *(self.kind.mesh is not None, torch.get_num_threads()),
            )
            done = done if unfit < 0 else unfit
        for copy, original, only_unscaled in self._write_back:
            if not only_unscaled or settings[-1][1]:
                original.copy_(copy)
        self._write_back, self._staged = [], None
        return done

    def sum_of_squares(self, sums: Tensor, slot: int, last: bool, max_norm: float, result: Tensor) -> None:
        """The sum of the squares of the gradients to `sums[slot]` (fp64), on the bucket's device.

        `last`: also the norm over `sums[: slot + 1]` and min(1, max_norm / (norm + 1e-6)), to `result` (2,) fp32; not
        for DTensors.
        """
        gradient = self._scheme[1]
        if not self.on_gpu:
            sums[slot] = self._table.sum_of_squares_cpu(gradient, torch.get_num_threads())
            return
        chunks = self._addresses()[3]
        partials = torch.empty(max(chunks, 1), dtype=torch.float64, device=self.kind.device)
        with _device(self.kind.device):
            self._kernels.gradient_norm_cuda(
                self._addresses(),
                gradient,
                partials.data_ptr(),
                sums.data_ptr(),
                slot,
                slot + (1 if last else 2),
                max_norm,
                result.data_ptr(),
                _stream(self.kind.device),
            )

    def _addresses(self) -> tuple[int, int, int, int, int]:
        assert self._device_table is not None and self._finished is not None
        tensors, chunks = self._device_table
        return tensors.data_ptr(), len(self.params), chunks.data_ptr(), chunks.numel() // 8, self._finished.data_ptr()

    def _upload(self) -> None:
        """Give the device the table as it is now."""
        kind, table = self.kind, self._table.tensors()
        capturing = kind.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if capturing and (self._spare is None or self._device_table is None):
            raise RuntimeError(
                "AdamW: run step() once outside of the graph before each capture, which makes its tables"
            )
        if kind.device.type == "cuda" and self._spare is None:
            # Pinned memory cannot be had during a capture. The graph reads it at each replay, so that it must stay
            # as it is.
            self._spare = torch.empty(len(table), dtype=torch.uint8, pin_memory=True)
        with _device(kind.device):
            if self._device_table is None:
                chunks = _to_device(self._table.chunks(), kind.device)
                self._finished = torch.zeros(1, dtype=torch.int32, device=kind.device)
            else:
                chunks = self._device_table[1]
            if capturing:
                assert self._spare is not None
                pinned, self._spare = self._spare, None
                pinned.copy_(torch.frombuffer(bytearray(table), dtype=torch.uint8))
                tensors = pinned.to(kind.device, non_blocking=True)
                self._captured += [pinned, tensors, chunks]
            else:
                tensors = _to_device(table, kind.device)
        self._device_table = tensors, chunks

    def _stage(self) -> tuple[list[Tensor], list[Tensor | None], list[dict[str, Any]]]:
        """Contiguous views of the tensors, copies where there is no such view."""
        params: list[Tensor] = []
        gradients: list[Tensor | None] = []
        states: list[dict[str, Any]] = []
        self._write_back = []
        for parameter, state in zip(self.params, self.states, strict=True):
            p = local(parameter.detach())
            order = order_of(p)
            view = p.contiguous() if order is None else p.permute(order)
            params.append(view)
            if parameter.grad is None:
                gradients.append(None)
                states.append({})
                continue
            gradient = local(parameter.grad.detach())
            dense = gradient if order is None else gradient.permute(order)
            staged = dense.to(self.kind.scheme.gradient).contiguous()
            if order is None:
                self._write_back.append((view, p, False))
            if staged.data_ptr() != gradient.data_ptr():
                self._write_back.append((staged, dense, True))
            gradients.append(staged)
            states.append(
                {
                    key: value if key == "step" or order is None else local(value).permute(order)
                    for key, value in state.items()
                    if isinstance(value, Tensor)
                }
            )
        return params, gradients, states


def _to_device(data: bytes, device: torch.device) -> Tensor:
    host = torch.frombuffer(bytearray(data or bytes(8)), dtype=torch.uint8)[: len(data)]
    if device.type != "cuda":
        return host
    return host.pin_memory().to(device, non_blocking=True)


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _device(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
