"""Small `tokenizer.json` files in the form that families of models have on the hub.

The pre-tokenizer, normaliser, decoder, post-processor and the flags of the added tokens are the families' own, as their
published files state them; vocabulary and merges are learnt here from a few lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, trainers
from tokenizers.pre_tokenizers import ByteLevel

LINES = [
    "def add(a, b):\n    return a + b  # 返回两个数的和\n",
    "for (int i = 0; i < 1234; ++i) { sum += values[i]; }\r\n\r\n",
    "It's the user's file, isn't it? You'll see: we've 3 of 100 left.\n\n\n",
    "\t\tif x == '':\n\t\t\tcontinue\n",
    "函数返回列表中所有的值的总和。参数不能为空。\n",
    "naïve café œuvre \u2013 “quoted” … Größe 12½ km² ٣٤ \uff14\uff12\n",
]

GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": use_regex,
    }


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(index: int, content: str, special: bool = True, normalized: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": index, "content": content, **flags, "normalized": normalized, "special": special}


PRE_TOKENIZERS = {
    "llama-3": sequence(split(GPT4_WORDS % "{1,3}"), byte_level(False, True, False)),
    "qwen2": sequence(split(GPT4_WORDS % ""), byte_level(False, False, False)),
    "starcoder2": sequence({"type": "Digits", "individual_digits": True}, byte_level(False, True, True)),
    "deepseek-coder": sequence(
        split(r"[\r\n]"),
        split(r"\s?\p{L}+"),
        split(r"\s?\p{P}+"),
        split("[一-龥ࠀ-一가-퟿]+"),
        {"type": "Digits", "individual_digits": True},
        byte_level(False, True, False),
    ),
    "gpt-neox": byte_level(False, True, True),
}

DEEPSEEK_LETTERS = "õ÷ÁýÀÿøúþüùöû"
"""Added tokens of DeepSeek-Coder that are text: symbols of bytes that UTF-8 never has."""


def tree(family: str, size: int = 380) -> dict[str, Any]:
    """The parsed file of a family, with about `size` learnt tokens."""
    pre = PRE_TOKENIZERS[family]
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = _pre_tokenizer(pre)
    alphabet = ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(LINES * 3, trainer)
    model = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    if family == "deepseek-coder":
        # These bytes have no symbol in its vocabulary.
        kept = [name for name in vocabulary if name not in DEEPSEEK_LETTERS]
        vocabulary = {name: index for index, name in enumerate(kept)}
    first = len(vocabulary)
    result: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "pre_tokenizer": pre,
        "post_processor": None,
        "decoder": byte_level(True, True, True),
        "model": model | {"vocab": vocabulary, "byte_fallback": False, "fuse_unk": False},
    }
    if family == "llama-3":
        names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"]
        result["added_tokens"] = [added(first + n, name) for n, name in enumerate(names)]
        result["model"]["ignore_merges"] = True
        begin = {"SpecialToken": {"id": names[0], "type_id": 0}}
        a, b = ({"Sequence": {"id": letter, "type_id": n}} for n, letter in enumerate("AB"))
        template = {
            "type": "TemplateProcessing",
            "single": [begin, a],
            "pair": [begin, a, {"SpecialToken": {"id": names[0], "type_id": 1}}, b],
            "special_tokens": {names[0]: {"id": names[0], "ids": [first], "tokens": [names[0]]}},
        }
        result["post_processor"] = {"type": "Sequence", "processors": [byte_level(True, False, True), template]}
    elif family == "qwen2":
        result["normalizer"] = {"type": "NFC"}
        result["post_processor"] = result["decoder"] = byte_level(False, False, False)
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        markers = ["<tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>"]
        result["added_tokens"] = [added(first + n, name) for n, name in enumerate(specials)] + [
            added(first + len(specials) + n, name, special=False) for n, name in enumerate(markers)
        ]
    elif family == "starcoder2":
        # Its special tokens come first, and are listed in the vocabulary, too.
        names = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<repo_name>"]
        result["added_tokens"] = [added(n, name) for n, name in enumerate(names)]
        moved = {name: index + len(names) for name, index in vocabulary.items()}
        result["model"]["vocab"] = {name: n for n, name in enumerate(names)} | moved
    elif family == "deepseek-coder":
        result["normalizer"] = {"type": "Sequence", "normalizers": []}
        result["post_processor"] = byte_level(True, False, True)
        marks = [
            "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
            "<\uff5cfim\u2581hole\uff5c>",
            "<\uff5cfim\u2581begin\uff5c>",
            "<\uff5cfim\u2581end\uff5c>",
        ]
        letters = [
            added(first + n, letter, special=False, normalized=True) for n, letter in enumerate(DEEPSEEK_LETTERS)
        ]
        first += len(letters)
        result["added_tokens"] = letters + [
            added(first + n, name, special="sentence" in name, normalized=True)
            for n, name in enumerate([*marks, "<pad>", "<|EOT|>"])
        ]
    else:
        # Runs of spaces are added tokens, longest first.
        runs = [added(first + n, " " * (6 - n), special=False, normalized=True) for n in range(4)]
        result["added_tokens"] = [*runs, added(first + 4, "<|endoftext|>")]
    return result


def write(family: str, directory: Path) -> Path:
    """A directory with the family's `tokenizer.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(tree(family), ensure_ascii=False), encoding="utf-8")
    return directory


def library(tree: dict[str, Any]) -> tokenizers.Tokenizer:
    """The library's own tokenizer of a file."""
    return tokenizers.Tokenizer.from_str(json.dumps(tree))


def _pre_tokenizer(tree: dict[str, Any]) -> Any:
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    return tokenizers.Tokenizer.from_str(json.dumps({"pre_tokenizer": tree, "model": empty})).pre_tokenizer
