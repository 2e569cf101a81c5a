"""Training by Hugging Face's `tokenizers` alone: what codeshell.tokenizer.train must give, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from codeshell.documents.templates import SPECIAL_TOKENS


def library_training(batches: Iterable[list[str]], base_vocab_size: int, longest: int) -> str:
    """The `tokenizer.json` that the library learns; words of more than `longest` characters are cut into pieces."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = words = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=base_vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces = ([piece for text in batch for piece in cut_words(text, words, longest)] for batch in batches)
    learner.train_from_iterator(pieces, trainer)
    learner.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    return str(learner.to_str(pretty=True))


def cut_words(text: str, words: pre_tokenizers.PreTokenizer, longest: int) -> list[str]:
    """The text, cut inside its words of more than `longest` characters."""
    cuts = [0]
    for _, (begin, end) in words.pre_tokenize_str(text):
        cuts.extend(range(begin + longest, end, longest))
    return [text[begin:end] for begin, end in pairwise([*cuts, len(text)])]
