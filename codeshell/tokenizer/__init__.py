"""Byte-level BPE: load, train, encode, and measure how many characters a token carries."""

from codeshell.documents.templates import SPECIAL_TOKENS
from codeshell.tokenizer.tokenizer import Tokenizer

__all__ = ["SPECIAL_TOKENS", "Tokenizer"]
