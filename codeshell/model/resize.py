"""A model for another tokenizer: the rows of the embedding and of the head, moved and made.

Every row of the new embedding is the mean of the rows of what the model's own tokenizer makes of the token's text. A
token that the old tokenizer has becomes that one token, so it keeps its row bit for bit, and the model gives it the
same logits as before. A new token starts where its parts are. A token that the old tokenizer has but never produced
(see codeshell/tokenizer/repair.py) counts as new, because its row was never trained.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from codeshell.errors import UserError
from codeshell.model.config import CodeShellConfig
from codeshell.model.modules import CodeShellForCausalLM
from codeshell.tokenizer import Tokenizer, rules
from codeshell.tokenizer.words import Words


@dataclass(frozen=True)
class Plan:
    """Where each row of the new embedding comes from.

    Attributes:
        parts: for each new id the old ids whose rows are averaged; empty for ids without a text, and for padding.
        kept: tokens that keep their row.
        made: tokens that start as a mean of several rows.
        lone: tokens of whose text the old tokenizer makes nothing (bytes that it lacks, special tokens of new names).
    """

    parts: list[list[int]]
    kept: int
    made: int
    lone: int


def plan(old: Tokenizer, new: Tokenizer) -> Plan:
    """The parts of every id of `new` under `old`; special tokens are matched by their names.

    Raises:
        UserError: the tokenizers have not one token in common.
    """
    parts: list[list[int]] = [[] for _ in range(new.padded_vocab_size)]
    vocabulary: dict[str, int] = new.core()["model"]["vocab"]
    names = list(vocabulary)
    # Tokens are words in the byte alphabet, and merging alone decides what they are, whatever cuts a text.
    ids, begins = Words(old).encode(names)
    for name, (begin, end) in zip(names, pairwise(begins.tolist()), strict=True):
        parts[vocabulary[name]] = ids[begin:end].tolist()
    # Added tokens that are text are not merged: a name that both have is one row.
    for name, index in new.added_text.items():
        parts[index] = [old.added_text[name]] if name in old.added_text else _text_ids(old, name)
    for name, index in new.specials.items():
        parts[index] = [old.specials[name]] if name in old.specials else []
    used = [*vocabulary.values(), *new.specials.values()]
    sizes = [len(parts[index]) for index in used]
    if not any(sizes):
        raise UserError("the tokenizer has no token that the model's own tokenizer knows; give one that extends it")
    return Plan(parts, sum(n == 1 for n in sizes), sum(n > 1 for n in sizes), sum(n == 0 for n in sizes))


def resize(model: CodeShellForCausalLM, old: Tokenizer, new: Tokenizer) -> tuple[CodeShellForCausalLM, Plan]:
    """The model with rows for `new`, in its own dtype; the layers between are shared with `model`, not copied.

    Rows without a part, padding included, are the mean of all rows that `old` uses: then no unused row has a logit far
    from the others'. The config counts the rows that are tokens, so that generation never produces padding.

    Args:
        model: trained with `old`.
        old, new: tokenizers.

    Raises:
        UserError: the model has fewer rows than `old` has tokens, or the tokenizers have nothing in common.
    """
    config = model.config
    if config.vocab_size < old.vocab_size:
        raise UserError(
            f"the model has {config.vocab_size:,} rows, but its tokenizer {old.vocab_size:,} tokens; give the "
            "tokenizer that it was trained with (--base)"
        )
    found = plan(old, new)
    changed = CodeShellConfig(**_fields(config) | _ids(config, old, new))
    with torch.device("meta"):
        result = CodeShellForCausalLM(changed)
    used = sorted({*old.core()["model"]["vocab"].values(), *old.specials.values()})
    weights = dict(model.named_parameters())
    for name in ("transformer.wte.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = torch.nn.Parameter(_rows(weights[name].detach(), found.parts, used))
    result.load_state_dict(weights, strict=False, assign=True)
    result.tie_weights()
    return result.train(model.training), found


def _rows(rows: torch.Tensor, parts: list[list[int]], used: list[int]) -> torch.Tensor:
    """(new ids, width): the mean of each id's old rows, summed in fp32 in the order of its parts.

    Args:
        rows: (old ids, width).
        parts: old ids of each new id.
        used: old ids that are tokens; an id without parts gets the mean of their rows.
    """
    result = rows.new_empty(len(parts), rows.shape[1])
    single = [(index, part[0]) for index, part in enumerate(parts) if len(part) == 1]
    none = [index for index, part in enumerate(parts) if not part]
    # Rows that stay are copied, not averaged, so that they keep their bits in any dtype.
    if single:
        to, source = torch.tensor(single).unbind(1)
        result[to] = rows[source]
    if none:
        result[torch.tensor(none)] = rows[torch.tensor(used)].float().mean(0).to(rows.dtype)
    for index, part in enumerate(parts):
        if len(part) > 1:
            result[index] = rows[torch.tensor(part)].float().mean(0).to(rows.dtype)
    return result


def _text_ids(tokenizer: Tokenizer, name: str) -> list[int]:
    """Ids of a text by merging alone."""
    ids, _ = Words(tokenizer).encode([rules.in_symbols(name.encode())])
    return [int(index) for index in ids]


def _fields(config: CodeShellConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _ids(config: CodeShellConfig, old: Tokenizer, new: Tokenizer) -> dict[str, Any]:
    """What the config says of the vocabulary; the ids of special tokens follow their names."""
    names = {index: name for name, index in old.specials.items()}

    def moved(index: int | None) -> int | None:
        return index if index is None else new.specials.get(names.get(index, ""), index)

    return {
        "vocab_size": new.padded_vocab_size,
        "n_vocab_used": new.vocab_size,
        "bos_token_id": moved(config.bos_token_id),
        "eos_token_id": moved(config.eos_token_id),
    }
