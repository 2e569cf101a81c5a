"""Tiny models with their tokenizer in a directory, and llama.cpp's way from a text to ids, written out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
import torch

from codeshell.model import CodeShellForCausalLM
from codeshell.tokenizer import SPECIAL_TOKENS, Tokenizer
from codeshell.tokenizer.encoder import BYTE_SYMBOLS
from codeshell.tokenizer.train import train
from helpers.hub_tokenizers import LINES, added, byte_level, sequence
from helpers.tiny_models import tiny_model

TEXTS = [
    *LINES,
    "",
    " ",
    "x",
    "    def f(self, x1, *args):\n        return self.y[10:200] , 'it''s' . z ? !\n",
    "a  b   c\t\td \n \n\n  e\r\n\r\n   \u00a0\u2003f\u3000g",
    "1234567890 1.5e-10 0xDEADBEEF v2.10.3 \u00bd\u00b2\u2164\u0665\u0e55\U0001d7d8 12ab34",
    "'s 't 're 've 'm 'll 'd 'S 'LL it's we'll O'Reilly",
    "\u4f60\u597d\uff0c\u4e16\u754c 你好123 \u0423\u043a\u0440\u0430\u0457\u043d\u0430 \u05e9\u05dc\u05d5\u05dd",
    "e\u0301 \u0915\u094d\u0937 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \ufeff\ufffd",
    "\x00\x01\x0b\x0c\x1f\x7f\x85\u2028\u2029",
    "<|endoftext|> <fim_prefix> is text here",
    "x" * 300 + "=" * 300 + " " * 300 + "\n" * 300,
]
"""Code, blanks, digits of many scripts, contractions, marks, controls, and texts that spell special tokens."""


def tokenizer(size: int = 500) -> Tokenizer:
    """Ours: digits, then GPT-2's expression; learnt from a few lines."""
    return train([LINES * 3], size)


def model_directory(
    directory: Path, dtype: torch.dtype = torch.float32, layout: Any = "codeshell", **changes: Any
) -> Path:
    """A tiny model and our tokenizer, as a run leaves them."""
    own = tokenizer()
    tiny = tiny_model(
        dtype,
        **{"vocab_size": own.padded_vocab_size, "n_vocab_used": own.vocab_size}
        | {"bos_token_id": own.eot, "eos_token_id": own.eot}
        | changes,
    )
    tiny.save_pretrained(directory, layout)
    own.save(directory)
    return directory


def load(directory: Path) -> CodeShellForCausalLM:
    return CodeShellForCausalLM.from_pretrained(directory)


def with_merges(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """A tokenizer with these merges, listed as they are; every pair's product is a token."""
    symbols = {byte: symbol for symbol, byte in BYTE_SYMBOLS.items()}
    vocabulary = {symbols[byte]: byte for byte in range(256)}
    for first, second in merges:
        vocabulary.setdefault(first + second, len(vocabulary))
    tree = {
        "version": "1.0",
        "added_tokens": [added(len(vocabulary) + index, name) for index, name in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level(False, True, True)),
        "post_processor": None,
        "decoder": byte_level(True, True, True),
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in merges]},
    }
    return Tokenizer(json.dumps(tree))


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
EXPRESSIONS = {
    **dict.fromkeys(("codeshell", "starcoder", "smollm"), (r"\p{N}", GPT2)),
    **dict.fromkeys(("gpt-2", "trillion"), (GPT2,)),
}
"""What llama.cpp cuts with for each name of a pre-tokenizer (src/llama-vocab.cpp)."""


def llama_cpp_ids(pre: str, tokens: Sequence[str], merges: Sequence[str], text: str) -> list[int]:
    """Ids of a text by llama.cpp's rules, from what is in a GGUF alone.

    Each expression cuts what the one before it left; what lies between two matches is a piece, too. Then the pair of
    the lowest rank is merged, the leftmost of equals, until no pair is in the list. The first of two equal pairs in the
    list gives the rank.
    """
    ranks: dict[tuple[str, ...], int] = {}
    for index, line in enumerate(merges):
        ranks.setdefault(tuple(line.split(" ")), index)
    ids = {token: index for index, token in enumerate(tokens)}
    letters = {byte: symbol for symbol, byte in BYTE_SYMBOLS.items()}
    pieces = [text]
    for expression in EXPRESSIONS[pre]:
        pieces = [part for piece in pieces for part in _cut(expression, piece)]
    result: list[int] = []
    for piece in pieces:
        word = [letters[byte] for byte in piece.encode()]
        while pairs := [(ranks[pair], at) for at, pair in enumerate(pairwise(word)) if pair in ranks]:
            _, at = min(pairs)
            word[at : at + 2] = [word[at] + word[at + 1]]
        result += [ids[symbol] for symbol in word if symbol in ids]
    return result


def _cut(expression: str, text: str) -> list[str]:
    parts, at = [], 0
    for match in regex.finditer(expression, text):
        parts += [text[at : match.start()], match[0]]
        at = match.end()
    return [part for part in [*parts, text[at:]] if part]
