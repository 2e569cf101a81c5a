"""A run that has come as far as the evaluation: documents, a byte tokenizer, a tiny random model, a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from codeshell import recipe
from codeshell.engine.files import write_text
from codeshell.evaluate.corpus import Document
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.recipe import Evaluate, Model, Phase, Recipe, Train
from codeshell.tokenizer import SPECIAL_TOKENS, Tokenizer
from codeshell.tokenizer.tokenizer import BYTE_SYMBOLS
from helpers.evaluation_fakes import document, write_documents


def byte_tokenizer() -> Tokenizer:
    """The 256 bytes, no merges, the special tokens behind them."""
    vocabulary = dict(BYTE_SYMBOLS.items())
    added = [
        {"id": 256 + n, "content": name, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
        | {"single_word": False}
        for n, name in enumerate(SPECIAL_TOKENS)
    ]
    tree = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    return Tokenizer(json.dumps(tree))


def tiny_model(seed: int) -> CodeShellForCausalLM:
    torch.manual_seed(seed)
    config = CodeShellConfig(
        vocab_size=384,
        n_positions=96,
        n_embd=32,
        n_layer=2,
        n_head=4,
        num_query_groups=2,
        initializer_range=0.3,
        bos_token_id=256,
        eos_token_id=256,
        n_vocab_used=276,
    )
    return CodeShellForCausalLM(config).eval()


def source(name: str, functions: int) -> Document:
    """A Python file of a few functions."""
    parts = ["import os\n"]
    for n in range(functions):
        parts.append(
            f"\n\ndef {name}_{n}(a, b):\n    if a > {n}:\n        return b\n    else:\n        return a + {n}\n"
        )
    return document("".join(parts), path=f"{name}.py")


HELD_OUT = [source(f"held{n}", 1 + n % 3) for n in range(14)] + [document("# Title\n\ntext\n" * 3, language="Markdown")]
TRAINING = [source(f"train{n}", 1 + n % 4) for n in range(10)]

RECIPE = Recipe(
    seed=5,
    model=Model(n_layer=2, n_embd=32, n_head=4, num_query_groups=2, n_positions=96),
    train=Train(
        steps=10, batch_tokens=192, phases=(Phase(share=0.8, context=32), Phase(share=0.2, context=96)), threads=1
    ),
    evaluate=Evaluate(max_bytes=3000, infill_lines=12, functions=6, max_new_tokens=16, position_sequences=12),
)


def make_run(root: Path, held_out: list[Document] = HELD_OUT) -> Path:
    write_documents(root / "curated" / "train-00000.parquet", TRAINING)
    half = len(held_out) // 2
    write_documents(root / "curated" / "test-00000.parquet", held_out[:half])
    write_documents(root / "curated" / "test-00001.parquet", held_out[half:])
    byte_tokenizer().save(root / "tokenizer")
    byte_tokenizer().save(root / "model")
    tiny_model(1).save_pretrained(root / "model")
    tiny_model(2).save_pretrained(root / "train" / "checkpoints" / "step-000008")
    write_text(root / "recipe.toml", recipe.to_toml(RECIPE))
    return root
