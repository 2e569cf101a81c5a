"""Directories of tiny random causal language models of transformers, with tokenizers of the two usual kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

transformers = pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")

TEXTS = ["def double(x):\n    return 2 * x\n", "    if a:\n        b = c\n", "int main() { return 0; }\n"] * 3

FIM = {
    "starcoder": ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"],
    "santacoder": ["<fim-prefix>", "<fim-middle>", "<fim-suffix>"],
    "qwen": ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_sep|>"],
    "deepseek": ["<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"],
    "codellama": ["\u2581<PRE>", "\u2581<MID>", "\u2581<SUF>", "\u2581<EOT>"],
    "none": [],
}
"""Tokens of each family. Those of Qwen and DeepSeek are not marked as special, as in their releases."""


def byte_level(fim: str = "none", bos: bool = False) -> Any:
    """A byte-level BPE, as most code models have one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    marked = fim in ("starcoder", "santacoder")
    tokenizer.add_tokens([AddedToken(name, special=marked, normalized=False) for name in FIM[fim]])
    end = "<|endoftext|>"
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(f"{end} $A", special_tokens=[(end, 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=end)


def sentence_piece(fim: str = "none") -> Any:
    """A BPE in the manner of SentencePiece: a blank before every text, bytes for what the vocabulary lacks, a BOS."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    pieces += [chr(code) for code in range(33, 127)] + ["\u2581x", "re", "ret", "\u2581ret", "\u2581\u2581"]
    merges = [("\u2581", "x"), ("r", "e"), ("re", "t"), ("\u2581", "ret"), ("\u2581", "\u2581")]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in FIM[fim]])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def write(directory: Path, fim: str = "qwen", tokenizer: Any = None, **changes: Any) -> Path:
    """A Qwen2 of two layers with its tokenizer; always the same weights."""
    tokenizer = tokenizer or byte_level(fim)
    config = transformers.Qwen2Config(
        **{
            "vocab_size": len(tokenizer) + 5,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": 0,
        }
        | changes
    )
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
