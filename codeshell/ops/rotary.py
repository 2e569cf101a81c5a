"""Rotary position embedding (Su et al. 2021), half-split or interleaved, over the first dimensions of each head."""

from __future__ import annotations

import torch


def rotary(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
    positions: torch.Tensor | None = None,
    inplace: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys by the angles of their positions.

    Args:
        q: (batch, seq, heads, dim) or (total, heads, dim), floating point.
        k: the same with its own number of heads.
        cos, sin: fp32 (positions, rotary_dim / 2); a head's dimensions past rotary_dim are left as they are.
        interleaved: pairs are (0, 1), (2, 3) … (GPT-J); otherwise (0, rotary_dim / 2) … (GPT-NeoX, Llama, CodeShell).
        positions: integer rows of `cos`: (seq,), (batch, seq) or (total,). None is 0, 1, 2 … along seq or total.
        inplace: write into `q` and `k` and return them. They must not be leaves that require gradients.

    Returns:
        The rotated `q` and `k` in their dtypes. The rotation itself is computed in fp32 (fp64 for fp64 input).

    Raises:
        ValueError: an argument's shape or dtype does not fit; the message names it.
    """
    _check(q, k, cos, sin, positions)
    seq = q.shape[-3]
    angles = slice(0, seq) if positions is None else positions
    c, s = cos[angles].unsqueeze(-2), sin[angles].unsqueeze(-2)
    rotated_q, rotated_k = (_rotate(x, c, s, interleaved) for x in (q, k))
    if inplace:
        return q.copy_(rotated_q), k.copy_(rotated_k)
    return rotated_q, rotated_k


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    half = cos.shape[-1]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    turning = x[..., : 2 * half].to(wide)
    if interleaved:
        a, b = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = turning[..., :half], turning[..., half:]
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((turned.to(x.dtype), x[..., 2 * half :]), dim=-1)


def _check(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor | None
) -> None:
    if q.dim() not in (3, 4) or k.dim() != q.dim():
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}: both must be (batch, seq, heads, dim) or (total, heads, dim)"
        )
    if q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in more than their number of heads")
    if q.dtype != k.dtype or not q.dtype.is_floating_point:
        raise ValueError(f"q is {q.dtype} and k {k.dtype}; they must be one floating-point dtype")
    check_tables(cos, sin, q.shape[-1])
    seq = q.shape[-3]
    if positions is None:
        if cos.shape[0] < seq:
            raise ValueError(f"cos has {cos.shape[0]} positions, fewer than the {seq} of q")
        return
    if positions.is_floating_point() or positions.dtype == torch.bool:
        raise ValueError(f"positions is {positions.dtype}; it must be an integer tensor")
    shapes = [(seq,), tuple(q.shape[:-2])]
    if tuple(positions.shape) not in shapes:
        raise ValueError(f"positions {tuple(positions.shape)}: must be one of {sorted(set(shapes))}")
    if positions.device.type == "cpu" and positions.numel():
        low, high = int(positions.min()), int(positions.max())
        if low < 0 or high >= cos.shape[0]:
            raise ValueError(f"positions run from {low} to {high}, but cos has rows 0 to {cos.shape[0] - 1}")


def check_tables(cos: torch.Tensor, sin: torch.Tensor, dim: int) -> None:
    """`ValueError` unless cos and sin are (positions, rotary_dim / 2) tables for heads of `dim`."""
    if cos.dim() != 2 or cos.shape != sin.shape:
        raise ValueError(f"cos {tuple(cos.shape)}, sin {tuple(sin.shape)}: both must be (positions, rotary_dim / 2)")
    if cos.dtype not in (torch.float32, torch.float64) or sin.dtype != cos.dtype:
        raise ValueError(f"cos is {cos.dtype} and sin {sin.dtype}; both must be fp32")
    if 2 * cos.shape[1] > dim:
        raise ValueError(f"cos {tuple(cos.shape)} rotates {2 * cos.shape[1]} dimensions, but a head has {dim}")
