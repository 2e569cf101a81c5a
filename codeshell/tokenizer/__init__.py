"""Byte-level BPE: load, train, encode, and measure how many characters a token carries."""

from codeshell.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

__all__ = ["SPECIAL_TOKENS", "Tokenizer"]
