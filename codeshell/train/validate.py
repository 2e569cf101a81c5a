"""Validation: loss and bits per byte on the same held-out tokens every time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from codeshell.model.precision import Precision
from codeshell.train.batches import IGNORED, Documents, aligned, fold, take
from codeshell.train.forward import summed_loss

if TYPE_CHECKING:
    from codeshell.documents.token_shards import TokenCorpus
    from codeshell.tokenizer import Tokenizer
    from codeshell.train.parallel import Group


@dataclass(frozen=True)
class Score:
    """Result of a validation; both numbers are infinite or NaN if the model's loss is.

    Attributes:
        loss: mean over the predicted tokens, in nats.
        bits_per_byte: bits that the predicted tokens cost, `<|endoftext|>` included, per byte they stand for.
    """

    loss: float
    bits_per_byte: float


class Validation:
    """Held-out tokens: whole documents in an order hashed from their ids, so that a part of them is a fair sample.

    The first token of a document has nothing before it and is not predicted, so its bytes are not counted either.
    Which tokens are predicted does not depend on the context length; how much stands before them does. Of a
    conversation the answers are predicted, and a row holds all of it if it can.

    Args:
        corpus: the validation split.
        tokenizer: the one that encoded it.
        limit: the most tokens to predict.
        isolated: documents do not attend to one another.
        begin: a token that stands before each document, as in `codeshell.train.rows.Lanes`.
    """

    def __init__(
        self, corpus: TokenCorpus, tokenizer: Tokenizer, *, limit: int, isolated: bool, begin: int | None = None
    ) -> None:
        documents = Documents(corpus, tokenizer, seed=0, begin=begin)
        # The stream has one `<|endoftext|>` per text that is not empty; its last token is only a target.
        count = max(min(limit, corpus.n_tokens + documents.added() - 1), 0)
        self.isolated, self.eot = isolated, tokenizer.eot
        self.batch = take(documents, count, isolated=isolated) if count else None
        # Bytes that the predicted tokens stand for: the size of each kind of token, times how often it occurs.
        predicted = np.empty(0, np.int64) if self.batch is None else self.batch.targets
        self.predicted = predicted[predicted != IGNORED]
        kinds, counts = np.unique(self.predicted, return_counts=True)
        lengths = np.asarray([len(tokenizer.decode_bytes([kind])) for kind in kinds.tolist()], dtype=np.int64)
        self.n_bytes = int((counts * lengths).sum())

    def score(
        self,
        model: torch.nn.Module,
        *,
        context: int,
        micro_tokens: int,
        precision: Precision,
        group: Group | None = None,
    ) -> Score:
        """Run the model in evaluation mode over sequences of `context` tokens; then set its mode back.

        Several ranks share the forward passes, and add their sums in the order of one process: the same bits.

        Args:
            model: on its device.
            context: tokens of a sequence.
            micro_tokens: the most tokens of a forward pass.
            precision: of the forward pass.
            group: the ranks that share the model; None is one process.
        """
        assert self.batch is not None, "there is nothing to validate on"
        rank, world = (group.rank, group.world) if group else (0, 1)
        micros = list(fold(aligned(self.batch, context, self.eot), context, micro_tokens, isolated=self.isolated))
        training = model.training
        model.eval()
        sums: list[float] = []
        with torch.no_grad():
            # Dealt like cards. Every rank takes part in every turn, because the weights are gathered from all; one
            # that has no micro-batch left repeats the last one for nothing.
            for index in range(rank, -(-len(micros) // world) * world, world):
                if group is not None:
                    group.mark("a validation")
                value = float(summed_loss(model, micros[min(index, len(micros) - 1)], precision))
                sums += [value] if index < len(micros) else []
        model.train(training)
        # Summed in a Python float (fp64), over all tokens, and divided once at the end.
        rows = group.gather(sums) if group else [sums]
        nats = 0.0
        for index in range(len(micros)):
            nats += rows[index % world][index // world]
        return Score(nats / len(self.predicted), nats / math.log(2) / self.n_bytes)
