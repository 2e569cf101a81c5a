"""Decoding attention over a cache: codeshell.ops.decode_attention against torch's SDPA and flash-attention.

    python benchmarks/decode.py --json decode.json

New tokens of each row attend to a full cache with 8 key/value heads of 128 dimensions; there are 64 or 32 query heads.
Bytes are the keys and values, each read once; queries and outputs are not counted. torch's SDPA reads a contiguous
cache in which all lengths are equal, so it needs no mask. flash_attn_with_kvcache takes part where it is installed: FA3
as `flash_attn_interface` (`fa3_fwd_interface` in the fa3-fwd wheel), and FA2 as `flash_attn`. One case has a long row
beside short ones. On a GPU of compute capability 9.0 the Hopper kernel is turned on for this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import harness
import torch
from harness import Case, Contender, Session
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from codeshell.ops import decode_attention, hopper, rotary

KV_HEADS, DIM = 8, 128
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
FLASH = {
    "FA3": (("flash_attn_interface", "fa3_fwd_interface"), "page_table"),
    "FA2": (("flash_attn",), "block_table"),
}
"""The modules of each version, and its name for the block table."""
SHORT = 16
"""How many times shorter the short rows of the uneven case are than the long one."""

Flash = dict[str, tuple[Callable[..., torch.Tensor], str]]
"""Version to its flash_attn_with_kvcache, and that function's name for the block table."""


class Data:
    """Slots of caches, which are full to their capacity; pages are in random order."""

    def __init__(
        self,
        session: Session,
        batch: int,
        tokens: int,
        keys: int,
        heads: int,
        page: int,
        dtype: torch.dtype,
        uneven: bool = False,
    ) -> None:
        device = session.device
        generator = torch.Generator(device).manual_seed(0)
        self.tokens, self.keys, self.heads, self.page = tokens, keys, heads, page
        lengths = [keys] + [keys // SHORT if uneven else keys] * (batch - 1)
        self.uneven = uneven
        self.bytes = 2 * sum(lengths) * KV_HEADS * DIM * dtype.itemsize
        self.slots = session.slots(self.bytes)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)

        rows = (batch * keys // page, page) if page else (batch, keys)
        self.q = random(batch, tokens, heads, DIM)
        self.new = [random(batch, tokens, KV_HEADS, DIM) for _ in range(2)]
        self.caches = [[random(*rows, KV_HEADS, DIM) for _ in range(2)] for _ in range(self.slots)]
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
        self.table = None
        if page:
            order = torch.randperm(rows[0], generator=generator, device=device)
            self.table = order.view(batch, -1).to(torch.int32)
        angles = torch.arange(keys, device=device)[:, None] * 1e4 ** -torch.linspace(0, 1, DIM // 2, device=device)
        self.cos, self.sin = angles.cos(), angles.sin()

    def ours(self, slot: int) -> torch.Tensor:
        return decode_attention(self.q, *self.caches[slot], cache_seqlens=self.lengths, block_table=self.table)

    def flash(self, function: Callable[..., torch.Tensor], table: str) -> harness.Step:
        paged = {} if self.table is None else {table: self.table}
        return lambda slot: function(self.q, *self.caches[slot], cache_seqlens=self.lengths, causal=True, **paged)

    def sdpa(self, slot: int) -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in (self.q, *self.caches[slot]))
        seen = causal_lower_right(self.tokens, self.keys) if self.tokens > 1 else None
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if q.is_cuda and seen is None else nullcontext():
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2)

    def appended(self, slot: int) -> torch.Tensor:
        """One call that rotates the last tokens of each row, writes them over those in the cache, and attends."""
        return decode_attention(
            *(self.q, *self.caches[slot]),
            cache_seqlens=self.lengths - self.tokens,
            block_table=self.table,
            k_new=self.new[0],
            v_new=self.new[1],
            cos=self.cos,
            sin=self.sin,
        )

    def three_calls(self, slot: int) -> torch.Tensor:
        """The same in separate calls: rotary, two writes and SDPA."""
        positions = torch.arange(self.keys - self.tokens, self.keys, device=self.q.device)
        q, k = rotary(self.q, self.new[0], self.cos, self.sin, positions=positions)
        for cache, new in zip(self.caches[slot], (k, self.new[1]), strict=True):
            cache[:, -self.tokens :] = new
        kept, self.q = self.q, q
        try:
            return self.sdpa(slot)
        finally:
            self.q = kept


def peers(data: Data, flash: Flash) -> list[Contender]:
    found = [] if data.page or data.uneven else [Contender("torch SDPA", lambda: data.sdpa)]
    for name, (function, table) in flash.items():
        make = lambda function=function, table=table: data.flash(function, table)  # noqa: E731
        found.append(Contender(f"{name} flash_attn_with_kvcache", make))
    return found


def find_flash(session: Session) -> Flash:
    found = {}
    for name, (modules, table) in FLASH.items():
        if session.device.type == "cpu":
            session.absent(name, "its kernels need a GPU")
        elif there := session.found(name, modules, "flash_attn_with_kvcache"):
            found[name] = there[1], table
    return found


def cases(session: Session) -> Iterator[Case]:
    gpu, smoke, flash = session.device.type == "cuda", session.args.smoke, find_flash(session)
    shapes = [(2, 1, 32, 32), (1, 3, 32, 16)] if smoke else [(1, 1, 2048, 32), (4, 1, 2048, 32), (1, 16, 2048, 32)]
    if gpu and not smoke:
        shapes = [(1, 1, 2048, 64), (8, 1, 8192, 64), (32, 1, 32768, 64), (8, 8, 8192, 64), (8, 16, 8192, 64)]
        shapes += [(1, 1, 8192, 32), (32, 1, 8192, 32)]
    for dtype in (torch.bfloat16,) if gpu else (torch.float32, torch.bfloat16):
        for batch, tokens, keys, heads in shapes:
            for page in (0, 16):
                yield from shape_cases(session, flash, batch, tokens, keys, heads, page, dtype)
        batch, keys, heads = (3, 64, 32) if smoke else (32, 32768, 64) if gpu else (4, 4096, 32)
        yield from shape_cases(session, flash, batch, 1, keys, heads, 16, dtype, uneven=True)


def shape_cases(session: Session, flash: Flash, *shape: Any, uneven: bool = False) -> Iterator[Case]:
    batch, tokens, keys, heads, page, dtype = shape
    data = Data(session, *shape, uneven)
    form = f"pages of {page}" if page else "contiguous"
    over = f"{keys}, the other rows {keys // SHORT}" if uneven else f"{keys}"
    title = f"{batch} x {tokens} tokens over {over}, {heads}/{KV_HEADS} heads, d {DIM}, {form}, {NAMES[dtype]}"
    common: dict[str, Any] = {"bytes": data.bytes, "slots": data.slots, "floor": "read", "tolerance": TOLERANCE[dtype]}
    ours = Contender("codeshell.ops.decode_attention", lambda: data.ours, ours=True)
    yield Case(title, [ours, *peers(data, flash)], **common)
    if page == 0 and batch > 1:
        one = Contender("codeshell.ops.decode_attention", lambda: data.appended, ours=True)
        three = Contender("rotary, two writes, torch SDPA", lambda: data.three_calls)
        yield Case(f"{title}, rotary and append", [one, three], **common)


def main() -> int:
    args = harness.parser(__doc__).parse_args()
    hopper.enabled = True
    session = Session("decode", args, floors=("copy", "read"))
    if session.device.type == "cuda" and (lacking := hopper.missing(session.device)):
        session.absent("our kernel", f"{lacking}: the rows of codeshell are PyTorch's")
    session.run(cases(session))
    return session.finish()


if __name__ == "__main__":
    sys.exit(main())
