"""The tokenizer's part of a GGUF: tokens, types, merges, and which of llama.cpp's pre-tokenizers cuts a text as ours.

llama.cpp knows pre-tokenizers by name only (`tokenizer.ggml.pre`), and several names stand for the same cuts:

    digits one by one, then GPT-2's expression    codeshell, starcoder, refact, command-r, smollm, …
    GPT-2's expression                            gpt-2, olmo, mpt, trillion, …

They differ in one thing. For most of them llama.cpp cleans up spaces where it decodes a whole text, so that `x , y`
becomes `x, y`. It does not for `command-r`, `smollm` and `trillion`, and code needs its spaces; so the last two are
written. Both are known since 2024 and March 2025.

What a GGUF cannot say: that added tokens are text, that a text is normalised first, or `ignore_merges`. Such tokenizers
are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from codeshell.errors import UserError
from codeshell.tokenizer import Tokenizer, families
from codeshell.tokenizer.encoder import BYTE_SYMBOLS, served

PRE = {"digits-gpt2": "smollm", "gpt2": "trillion"}
"""llama.cpp's name of each pre-tokenizer of `codeshell.tokenizer.encoder.PATTERNS`."""

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""gguf's types of tokens: text, special, and rows without a token."""

REPOSITORY = ("<reponame>", "<repo_name>", "<|repo_name|>")
FILE = ("<file_sep>", "<|file_sep|>", "<filename>")
"""The tokens before the name of a repository and of a file, for prompts of several files. `<filename>` is StarCoder's:
what follows it is the name, a line end and the text, just as after StarCoder2's `<file_sep>`."""


@dataclass(frozen=True)
class GgufTokenizer:
    """What is written of a tokenizer.

    Attributes:
        pre: llama.cpp's name of the pre-tokenizer.
        tokens: name of every row of the embedding.
        types: gguf's type of each.
        merges: in the order of application, `"a b"`.
        ids: key below `tokenizer.ggml.` to id: `bos_token_id`, `fim_pre_token_id`, …
        adds_bos: whether a text begins with the token `bos`, as the family's training texts do.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    adds_bos: bool


def convert(
    tokenizer: Tokenizer, rows: int, origin: str, bos: int | None = None, eos: int | None = None
) -> GgufTokenizer:
    """The tokenizer for a model whose embedding has `rows` rows.

    Args:
        tokenizer: of the model.
        rows: rows that are no token are named `[PAD…]` and marked as unused.
        origin: names the tokenizer in errors.
        bos, eos: ids in the model's config; None takes those of the tokenizer's family.

    Raises:
        UserError: llama.cpp has no pre-tokenizer that cuts as this one, or the tokenizer does not fit the model.
    """
    core = tokenizer.core()
    pattern, reason = served(core)
    known = f"GGUF can have a byte-level BPE with the pre-tokenizer {' or '.join(PRE)}"
    if pattern is None or pattern not in PRE:
        raise UserError(f"{origin}: llama.cpp cannot be told to encode as this tokenizer: {reason}; {known}")
    if core["model"]["ignore_merges"]:
        raise UserError(f"{origin}: llama.cpp has no ignore_merges for the pre-tokenizer {PRE[pattern]}; {known}")
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{origin}: {tokenizer.vocab_size:,} tokens, but the model has {rows:,} rows; give the model's own "
            "tokenizer, or `codeshell model resize` the model"
        )
    names: dict[int, str] = {}
    types = [UNUSED] * rows
    vocabulary: dict[str, int] = core["model"]["vocab"]
    for name, index in vocabulary.items():
        # llama.cpp prints a token by the byte of each of its letters.
        if not BYTE_SYMBOLS.keys() >= set(name):
            raise UserError(
                f"{origin}: token {index} ({name[:40]!r}) is not written in the byte alphabet, and llama.cpp would "
                "print another text for it; `codeshell tokenizer repair` tells what a tokenizer has of these"
            )
        names[index], types[index] = name, NORMAL
    for name, index in tokenizer.specials.items():
        names[index], types[index] = name, CONTROL
    taken = set(names.values())
    for index in range(rows):
        if index not in names:
            # llama.cpp finds tokens by name, so none may have two ids.
            name = f"[PAD{index}]"
            while name in taken:
                name = f"[{name}]"
            names[index] = name
    return GgufTokenizer(
        PRE[pattern],
        [names[index] for index in range(rows)],
        types,
        _merges(core["model"]["merges"]),
        _ids(tokenizer, rows, origin, bos, eos),
        tokenizer.bos is not None,
    )


def _merges(pairs: list[tuple[str, str]]) -> list[str]:
    """The merges in order. A pair that is listed twice counts where it stands last, but llama.cpp takes the first."""
    return [f"{left} {right}" for left, right in list(dict.fromkeys(reversed(pairs)))[::-1]]


def _ids(tokenizer: Tokenizer, rows: int, origin: str, bos: int | None, eos: int | None) -> dict[str, int]:
    """The ids that llama.cpp asks for by key."""
    end = families.first_of(families.ENDS_OF_DOCUMENT, tokenizer.specials)
    if eos is None and end is not None:
        eos = tokenizer.specials[end]
    if eos is None:
        raise UserError(f"{origin}: no token ends a text (eos); give a tokenizer with {families.ENDS_OF_DOCUMENT[0]}")
    if bos is None:
        bos = tokenizer.bos
    found: dict[str, int] = {"eos_token_id": eos, "eot_token_id": eos, "bos_token_id": eos if bos is None else bos}
    fim = families.fim_of(tokenizer.specials)
    # Padding is never attended to; the token of the family where it has one, as in training.
    pad = fim.pad if fim and fim.pad in tokenizer.specials else None
    found["padding_token_id"] = eos if pad is None else tokenizer.specials[pad]
    if fim is not None:
        for key, name in (("pre", fim.prefix), ("suf", fim.suffix), ("mid", fim.middle), ("pad", pad)):
            if name is not None:
                found[f"fim_{key}_token_id"] = tokenizer.specials[name]
        # Both or none: a prompt of several files needs the two.
        whole, part = (families.first_of(names, tokenizer.specials) for names in (REPOSITORY, FILE))
        if whole is not None and part is not None:
            found["fim_rep_token_id"] = tokenizer.specials[whole]
            found["fim_sep_token_id"] = tokenizer.specials[part]
    for key, index in found.items():
        if not 0 <= index < rows:
            raise UserError(f"{origin}: {key} is {index}, but the model has {rows:,} rows; correct config.json")
    return found
