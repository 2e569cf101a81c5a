"""A tokenizer whose tokens are bytes: token n is byte n, and the special tokens come after them."""

from __future__ import annotations

from collections.abc import Iterable


class Bytes:
    specials = {"<eot>": 256, "<fim_prefix>": 257, "<fim_middle>": 258, "<fim_suffix>": 259, "<filename>": 260}  # noqa: RUF012
    vocab_size = 261
    eot, fim_prefix, fim_middle, fim_suffix = 256, 257, 258, 259

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(i for i in ids if i < 256)
