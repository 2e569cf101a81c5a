"""A tokenizer like another one, with a changed vocabulary, merges or ids of special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from codeshell.tokenizer.rules import Rule
from codeshell.tokenizer.tokenizer import Tokenizer


def rebuild(
    base: Tokenizer, vocabulary: Mapping[str, int], merges: Iterable[Rule], specials: Mapping[str, int]
) -> Tokenizer:
    """`base` with these tokens; its pre-tokenizer, decoder, and the flags of its added tokens stay.

    Args:
        base: where everything else comes from.
        vocabulary: id by token, the special ones left out.
        merges: in order of application.
        specials: id of every special token of `base`.
    """
    tree = json.loads(base.source)
    model = tree["model"]
    # Some files list the special tokens in the vocabulary, too; those keep doing so.
    listed = {name: index for name, index in specials.items() if name in model["vocab"]}
    outside = {name for name in base.added_text if name not in model["vocab"]}
    tokens = {name: index for name, index in vocabulary.items() if name not in outside} | listed
    model["vocab"] = dict(sorted(tokens.items(), key=lambda item: item[1]))
    # In the form in which the file has them: "a b" in older files, ["a", "b"] in newer ones.
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] = [f"{a} {b}" if as_text else [a, b] for a, b in merges]
    added = [token | {"id": specials.get(token["content"], token["id"])} for token in tree.get("added_tokens") or []]
    tree["added_tokens"] = sorted(added, key=lambda token: int(token["id"]))
    tree["post_processor"] = _renumbered(tree.get("post_processor"), specials)
    return Tokenizer(json.dumps(tree, ensure_ascii=False, indent=1) + "\n", "tokenizer")


def _renumbered(node: Any, specials: Mapping[str, int]) -> Any:
    """A post-processor with the present ids of the special tokens that it names."""
    if isinstance(node, list):
        # BERT's and RoBERTa's processors name a token and its id as a pair.
        if len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], int):
            return [node[0], specials.get(node[0], node[1])]
        return [_renumbered(part, specials) for part in node]
    if isinstance(node, dict):
        result = {name: _renumbered(part, specials) for name, part in node.items()}
        # A template lists the tokens of each of its names, and their ids beside them.
        if isinstance(names := node.get("tokens"), list) and isinstance(ids := node.get("ids"), list):
            result["ids"] = [specials.get(str(name), index) for name, index in zip(names, ids, strict=False)]
        return result
    return node
