"""Directories of tiny random BERT, RoBERTa and ModernBERT models, as a model hub would give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

transformers = pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")

KINDS = ("bert", "roberta", "modernbert")

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}

CORPUS = ["def main(x): return x + 1", "int main(void) { return 0; }", "python go rust # comments and words"] * 4


def _tokenizer(kind: str) -> Tokenizer:
    first, last, pad, unknown = (
        ("<s>", "</s>", "<pad>", "<unk>") if kind == "roberta" else ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
    )
    # In RoBERTa the padding has the id 1, and positions are counted from it.
    special = [first, pad, last, unknown] if kind == "roberta" else [pad, unknown, first, last]
    trainer: Any
    if kind == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(name, tokenizer.token_to_id(name)) for name in (first, last)]
    )
    # What sentence-transformers leaves in the file, and what must not cut our texts.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return tokenizer


def write(directory: Path, kind: str, **changes: Any) -> Path:
    """Write a model of this kind, always with the same weights; `changes` are members of its configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(kind)
    tokenizer.save(str(directory / "tokenizer.json"))
    pad = 1 if kind == "roberta" else 0
    shape = SHAPE | {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 128, "pad_token_id": pad}
    names = {"bert": ("BertConfig", "BertModel"), "roberta": ("RobertaConfig", "RobertaModel")}
    config_name, model_name = names.get(kind, ("ModernBertConfig", "ModernBertModel"))
    config = getattr(transformers, config_name)(**(shape | changes))
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(config)
    model.save_pretrained(directory)
    return directory
