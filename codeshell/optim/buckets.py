"""Buckets: the parameters of a group that one launch serves, with the table of addresses that the launch reads.

A table is made once. Each step reads the addresses again, in C++, because a gradient is a new tensor after `zero_grad`;
a GPU gets the table again only where an address has changed. Copies to a GPU go through torch's caching allocators of
pinned and device memory, asynchronously on the current stream: a buffer is not used again before the copy and the
kernel that read it have run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from codeshell.ops import devices
from codeshell.optim.masters import marks_of

SERVED = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of parameters that have kernels."""


@dataclass(frozen=True)
class Scheme:
    """What the arrays of a parameter hold: their dtypes, and how values are rounded."""

    param: torch.dtype
    gradient: torch.dtype
    moment: torch.dtype
    master: bool
    stochastic: bool

    def as_argument(self) -> tuple[str, str, str, bool, bool]:
        """The scheme in the form that the bindings take."""
        names = (str(dtype).removeprefix("torch.") for dtype in (self.param, self.gradient, self.moment))
        return (*names, self.master, self.stochastic)  # type: ignore[return-value]

    def is_torchs(self) -> bool:
        """Whether torch's own step computes the same."""
        one_dtype = self.param == self.gradient == self.moment
        return one_dtype and not self.master and not self.stochastic


@dataclass(frozen=True)
class Kind:
    """What the parameters of a bucket have in common.

    Attributes:
        device: where their local tensors are.
        scheme: what the arrays hold.
        mesh: the device mesh of DTensors, whose local shards are updated; None for plain tensors.
        placements: the placements of DTensors on it.
        staged: whether some parameter or gradient is not contiguous, or a gradient's dtype has no kernel: then each
            step makes views and copies.
    """

    device: torch.device
    scheme: Scheme
    mesh: Any
    placements: tuple[Any, ...]
    staged: bool


def local(tensor: Tensor) -> Tensor:
    """The shard that this process has of a DTensor; any other tensor itself."""
    shard: Tensor = getattr(tensor, "_local_tensor", tensor)
    return shard


def order_of(tensor: Tensor) -> list[int] | None:
    """The permutation of dimensions that makes a dense tensor contiguous; None for one with gaps or overlaps."""
    if tensor.is_contiguous():
        return list(range(tensor.dim()))
    # Dimensions by falling stride; where strides are equal, the larger dimension is the outer one.
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
        streams: one number per parameter, which tells its random numbers from the others'.
    """

    has_kernel = True
    """Whether our kernels update it, and not PyTorch (reference.py)."""

    def __init__(self, kind: Kind, params: list[Tensor], states: list[dict[str, Any]], streams: Sequence[int]) -> None:
        self.kind, self.params, self.states, self._streams = kind, params, states, streams
        self.on_gpu = devices.on_gpu(kind.device)
        # What a staged step copied: (copy, where it belongs, whether only a step that unscales gradients writes it).
        self._write_back: list[tuple[Tensor, Tensor, bool]] = []
        self._staged: Any = None
        self._marks: list[tuple[int, int]] | None = None
        self._make_table()

    def _make_table(self) -> None:
        self._kernels = devices.extension
        self._scheme = self.kind.scheme.as_argument()
        self._table = self._kernels.AdamWTable([local(p).numel() for p in self.params], list(self._streams))
        # On a GPU: the table's tensors and chunks, and the counter by which a launch finds its last block.
        self._device_table: tuple[Tensor, Tensor] | None = None
        self._finished: Tensor | None = None
        # Pinned memory for the table of the next capture, and everything that captured graphs read at each replay.
        self._spare: Tensor | None = None
        self._captured: list[Tensor] = []

    def is_overwritten(self) -> bool:
        """Whether others have written or moved parameters with master weights since the last step."""
        return self._marks is not None and self._marks != marks_of(self.params)

    def refresh(self) -> bool:
        """Read the addresses; False if a tensor is no longer of the bucket's kind."""
        if self.kind.staged:
            self._staged = self._stage()  # kept, because the kernel gets their addresses
            return self._read(*self._staged)
        return self._read(self.params, None, self.states)

    def _read(self, params: list[Tensor], gradients: list[Tensor | None] | None, states: list[dict[str, Any]]) -> bool:
        """Read the addresses of these tensors; without `gradients`, those are each parameter's `grad`."""
        device = -1 if self.kind.device.type != "cuda" else self.kind.device.index or 0
        # -1 is "as they were", -2 "some have changed", and any other number is a tensor that does not fit.
        outcome: int = self._table.refresh(params, gradients, states, self._scheme, device, self.kind.mesh is not None)
        if outcome >= 0:
            return False
        if self.on_gpu and (outcome == -2 or self._device_table is None):
            self._upload()
        return True

    def step(self, scalars: tuple[Any, ...], pointers: list[Tensor | None]) -> int:
        """One update.

        On the CPU the addresses are read during the update; on a GPU they are those of the last `refresh`.

        Args:
            scalars: lr, beta1, beta2, eps, weight_decay, seed, maximize: see csrc/adamw/adamw.h.
            pointers: one-element fp32 tensors on the bucket's device, or None: the learning rate in place of that of
                the scalars, the gradients' scale, whether infinities were found in them, the clipping factor.

        Returns:
            How many of the parameters, in their order, are updated: those before the first that is no longer of the
            bucket's kind.
        """
        done = self._update(scalars, pointers)
        # Gradients that were copied are written only where the step has divided them by a GradScaler's scale.
        for copy, original, only_unscaled in self._write_back:
            if not only_unscaled or pointers[1] is not None:
                original.copy_(copy)
        self._write_back, self._staged = [], None
        self._marks = marks_of(self.params) if self.kind.scheme.master else None
        return done

    def _update(self, scalars: tuple[Any, ...], pointers: list[Tensor | None]) -> int:
        """The update of `step`, of staged copies where there are some."""
        settings = (*scalars, [0 if pointer is None else pointer.data_ptr() for pointer in pointers])
        # One launch for all, on the current stream of the parameters' device.
        if self.on_gpu:
            with _device(self.kind.device):
                self._kernels.adamw_step_cuda(self._addresses(), self._scheme, settings, _stream(self.kind.device))
            changed = [p for p in self.params if p.grad is not None]
            increment_version(changed)  # autograd does not see what the kernels write
        else:
            params, gradients, states = self._stage() if self.kind.staged else (self.params, None, self.states)
            unfit = self._table.step_cpu(
                *(params, gradients, states, self.params, increment_version, self._scheme, settings),
                *(self.kind.mesh is not None, torch.get_num_threads()),
            )
            return len(self.params) if unfit < 0 else unfit
        return len(self.params)

    def sum_of_squares(self, sums: Tensor, slot: int, last: bool, max_norm: float, result: Tensor) -> None:
        """Write the sum of the squares of the gradients to `sums[slot]` (fp64), on the bucket's device.

        With `last`, also write the norm over `sums[: slot + 1]` and min(1, max_norm / (norm + 1e-6)) to `result` (2,)
        fp32. This is not for DTensors, whose sums go over all processes first.
        """
        gradient = self._scheme[1]
        if not self.on_gpu:
            sums[slot] = self._table.sum_of_squares_cpu(gradient, torch.get_num_threads())
            return
        # One partial sum for each chunk; the last block to finish adds them up in order.
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
        """The device table as the bindings take it: tensors, their count, chunks (of 8 bytes), their count, counter."""
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
            # Pinned memory cannot be allocated during a capture, so it is at hand before. The graph reads it at each
            # replay, so it is never used for another table.
            self._spare = torch.empty(len(table), dtype=torch.uint8, pin_memory=True)
        with _device(kind.device):
            # The chunks depend on sizes alone: they are copied once. Only the tensors' addresses change.
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
        """Contiguous views of parameters, gradients and states, or copies where there is no such view.

        What the step writes into a copy is noted in `_write_back`.
        """
        params: list[Tensor] = []
        gradients: list[Tensor | None] = []
        states: list[dict[str, Any]] = []
        self._write_back = []
        for parameter, state in zip(self.params, self.states, strict=True):
            # A dense tensor of any order of dimensions has a contiguous view, and its moments have the same order. Only
            # one with gaps is copied.
            p = local(parameter.detach())
            order = order_of(p)
            view = p.contiguous() if order is None else p.permute(order)
            params.append(view)
            if parameter.grad is None:
                gradients.append(None)
                states.append({})
                continue
            # The gradient is brought to the parameter's order, and to a dtype that has a kernel.
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
    """The bytes as a uint8 tensor on a device, copied asynchronously."""
    # An empty buffer cannot be viewed as a tensor.
    host = torch.frombuffer(bytearray(data or bytes(8)), dtype=torch.uint8)[: len(data)]
    if device.type != "cuda":
        return host
    return host.pin_memory().to(device, non_blocking=True)


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _device(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
