"""Cases of the in-place softmax gradient, for its tests on the host and on a GPU: logits among guards, and the errors
that are allowed against fp64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from codeshell.ops import devices, loss_cuda

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IGNORE = -100
GUARD = 7.5
"""What lies around the rows, exact in every dtype."""


@dataclass(frozen=True)
class Case:
    """Logits (rows, vocabulary): `gap` elements lie between the rows, and `offset` before the first."""

    name: str
    rows: int
    vocabulary: int
    gap: int = 0
    offset: int = 0
    spread: float = 2.0


CASES = [
    Case("one_token", 3, 1),
    Case("two_tokens", 3, 2),
    Case("under_a_pack", 5, 3, offset=1),
    Case("odd", 9, 31),
    Case("odd_with_gaps", 9, 33, gap=4, offset=3),
    Case("a_pack_over", 6, 137, gap=7, offset=8),
    Case("aligned", 7, 1024),
    Case("few_rows", 2, 5000, gap=3, offset=5),
    Case("one_long_row", 1, 9001, offset=1),
    Case("two_batches", 9, 20_001, offset=2),
    Case("sharp", 9, 700, spread=40.0),
]


class Logits:
    """Random logits of a case, in memory of their own among guards."""

    def __init__(self, case: Case, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed + case.vocabulary)
        stride = case.vocabulary + case.gap
        self.memory = torch.full((case.offset + case.rows * stride + 16,), GUARD, dtype=dtype, device=device)
        self.rows = self.memory.as_strided((case.rows, case.vocabulary), (stride, 1), case.offset)
        values = case.spread * torch.randn(case.rows, case.vocabulary, generator=generator)
        self.values = values.to(dtype)
        self.rows.copy_(self.values)
        self.targets = torch.randint(0, case.vocabulary, (case.rows,), generator=generator).to(device)
        self.losses = torch.full((case.rows + 2,), torch.nan, device=device)

    def run(self, scale: float = 0.25, splits: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient and the losses by the kernel, on the CPU; `splits` 0 is the kernel's own choice."""
        losses, factor = self.losses[1:-1], torch.tensor(scale, device=self.memory.device)
        if splits:
            rows, vocabulary = self.rows.shape
            partials = torch.full((rows, splits, 2), torch.nan, device=self.memory.device)
            devices.extension.softmax_gradient_cuda(
                *(self.rows.data_ptr(), self.rows.stride(0), rows, vocabulary, loss_cuda._NAMES[self.rows.dtype]),
                *(self.targets.data_ptr(), IGNORE, factor.data_ptr(), losses.data_ptr(), partials.data_ptr(), splits),
                torch.cuda.current_stream().cuda_stream if self.memory.is_cuda else 0,
            )
        else:
            loss_cuda.launch(self.rows, self.targets, IGNORE, factor, losses)
        return self.rows.cpu(), losses.cpu()

    def check_guards(self) -> None:
        """Nothing but the rows and their losses was written."""
        inside = torch.zeros_like(self.memory, dtype=torch.bool)
        inside.as_strided(self.rows.shape, self.rows.stride(), self.rows.storage_offset()).fill_(True)
        assert bool((self.memory[~inside] == GUARD).all())
        assert bool(self.losses[[0, -1]].isnan().all())


def by_torch(
    logits: torch.Tensor, targets: torch.Tensor, scale: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by torch's cross_entropy and autograd in `dtype`; the gradient is rounded to that of the logits."""
    leaf = logits.to(dtype).requires_grad_()
    losses = F.cross_entropy(leaf, targets, reduction="none", ignore_index=IGNORE)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return (gradient * scale).to(logits.dtype if dtype == torch.float32 else dtype), losses.detach()


def check(
    values: torch.Tensor, targets: torch.Tensor, scale: float, gradient: torch.Tensor, losses: torch.Tensor
) -> None:
    """Within twice the error of torch's computation in fp32 of fp64, and the roundings of one element.

    In a few rows torch may be exact by luck. An element has four roundings of fp32 (the exponential's argument and
    result, the quotient, the product), and that of its own dtype.
    """
    right, exact = by_torch(values, targets, scale, torch.float64)
    peer, others = by_torch(values, targets, scale, torch.float32)
    single = torch.finfo(torch.float32).eps
    slack = (4 * single + torch.finfo(gradient.dtype).eps / 2) * float(right.abs().max())
    assert float((gradient.double() - right).abs().max()) <= 2 * float((peer.double() - right).abs().max()) + slack
    slack = single * max(1.0, float(exact.abs().max()))
    assert float((losses.double() - exact).abs().max()) <= 2 * float((others.double() - exact).abs().max()) + slack


def check_case(case: Case, dtype: torch.dtype, device: str = "cpu", splits: int = 0) -> None:
    logits = Logits(case, dtype, device)
    logits.targets[1::4] = IGNORE
    gradient, losses = logits.run(splits=splits)
    check(logits.values, logits.targets.cpu(), 0.25, gradient, losses)
    assert not gradient[1::4].any() and not losses[1::4].any()
    logits.check_guards()
