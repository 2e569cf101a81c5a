"""What families of code models call their special tokens, and what of a foreign tokenizer cannot be exact.

Byte-level BPE is one method with many regular expressions and many names. A `tokenizer.json` says the expression; the
names of the tokens that end a document and that surround a cursor are known by family only, from the models' cards.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from codeshell.documents.templates import END_OF_TEXT
from codeshell.errors import UserError


class Fim(NamedTuple):
    """The tokens of a family of models that fill in the middle; `pad` is None where the family has none."""

    family: str
    prefix: str
    suffix: str
    middle: str
    pad: str | None = None


FIM = (
    Fim("StarCoder", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"),
    Fim("SantaCoder", "<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"),
    Fim("Qwen2.5-Coder, CodeGemma", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"),
    # The hole is where the middle goes, so what follows it is the suffix.
    Fim("DeepSeek-Coder", "<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    Fim("Code Llama", "\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
)
"""In the order in which a vocabulary is searched; each model card shows the prompt."""

ENDS_OF_DOCUMENT = (
    END_OF_TEXT,  # StarCoder, StarCoder2, CodeShell, Qwen2, GPT-2
    "<|end_of_text|>",  # Llama-3
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek
    "</s>",
)
"""The token that ends a document in pre-training, which need not be the one that ends an answer in a chat."""

STARTS_OF_DOCUMENT = ("<|begin_of_text|>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>")
"""What Llama-3 and DeepSeek put before a document. The other families put nothing."""

_EXACT_NORMALIZERS = ("NFC",)
"""Normalizers that are applied and kept: NFC gives canonically equal text, and Qwen2's tokenizer has it."""


def fim_of(names: Container[str]) -> Fim | None:
    """The family whose prefix, suffix and middle are all among the names."""
    return next((fim for fim in FIM if all(token in names for token in fim[1:4])), None)


def first_of(candidates: tuple[str, ...], names: Container[str]) -> str | None:
    """The first candidate that is among the names."""
    return next((name for name in candidates if name in names), None)


def normalizer(tree: Any, origin: str) -> dict[str, str] | None:
    """The normalizer of a file in canonical form: None, or NFC. A sequence without a step is none.

    Raises:
        UserError: any other one, by its name: what it changes would be lost.
    """
    steps = _steps(tree)
    for step in steps:
        if step not in _EXACT_NORMALIZERS:
            raise UserError(
                f"{origin}: has a normaliser {step}, so text would not survive encoding; use a tokenizer with none, "
                f"or with {' or '.join(_EXACT_NORMALIZERS)}"
            )
    return {"type": steps[0]} if steps else None


def _steps(tree: Any) -> list[str]:
    """Types of the normalizers, in order."""
    if tree is None:
        return []
    kind = tree.get("type") if isinstance(tree, dict) else None
    if kind == "Sequence" and isinstance(parts := tree.get("normalizers", []), list):
        return [step for part in parts for step in _steps(part)]
    return [str(kind)]


def check_model(model: Mapping[str, Any], origin: str) -> None:
    """Refuse what is not byte-level BPE, by its name.

    Raises:
        UserError: Unigram, WordPiece or WordLevel; BPE that falls back to byte tokens or marks subwords.
    """
    kind = model.get("type", "BPE")
    if kind != "BPE":
        known = {"Unigram": "Unigram (SentencePiece's)", "WordPiece": "WordPiece (BERT's)"}
        name = known.get(str(kind), str(kind))
        raise UserError(f"{origin}: the model is {name}; only byte-level BPE is exact, so give one of those")
    if model.get("byte_fallback"):
        raise UserError(
            f"{origin}: has byte_fallback, as SentencePiece's BPE has (Llama-2, Mistral, Gemma), which is not "
            "byte-level; give a byte-level BPE tokenizer"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise UserError(f"{origin}: marks subwords with affixes; give a byte-level BPE tokenizer")


def missing_file(directory: Path) -> str:
    """What is wrong with a directory without a `tokenizer.json`, by what else is in it."""
    if (directory / "tokenizer.model").exists():
        return (
            "no tokenizer.json, and tokenizer.model is SentencePiece's or tiktoken's own format, which is not read; "
            "take the Hugging Face version of the model, which has a tokenizer.json"
        )
    if (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
        return (
            "no tokenizer.json; vocab.json and merges.txt alone do not say where text is cut, so convert them once "
            "with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    return "no such tokenizer; give a tokenizer.json, or a directory that holds one"
