"""Training rows: pieces of documents, each whole within its row, rearranged for fill-in-the-middle by a hash.

A row is one sequence of the context length. It is filled with the rest of a document, then the next document, and so
on; a document that does not fit is cut, and goes on in the next row as a piece of its own. Rearranging a piece and
not the whole document keeps prefix, suffix and middle within one context (Bavarian et al. 2022 find this
"context-level" form the better one; in a document many times longer than the context the middle would see neither).

Documents are dealt into lanes by a hash, so that a batch holds as many different files as it has lanes; very long
ones are dealt in parts. The stored tokens of a lane are consumed in order and each once an epoch, whatever the
context, so the place in a lane is a `Position` of three integers, and what follows it is a pure function of (seed,
corpus, recipe): that is what makes a resume exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from codeshell.randomness import draw, mix
from codeshell.train import fim
from codeshell.train.batches import IGNORED, Batch, Ints, Position, Positions, document_keys

if TYPE_CHECKING:
    from codeshell.documents.token_shards import TokenCorpus
    from codeshell.tokenizer import Tokenizer

PART_CONTEXTS = 4
"""A document longer than this many contexts is dealt in parts of that length: a lane does not spend hundreds of batches
in one large file."""

SMALLEST_REARRANGED = 16
"""Less room than this at the end of a row is filled without rearranging: sentinels would take a quarter of it."""


class Lanes:
    """A token corpus dealt into lanes.

    Args:
        corpus: the training documents.
        tokenizer: of the corpus.
        batch_tokens, contexts: of the recipe; they decide the number of lanes and the length of a part.
        seed, fim_rate, spm_rate: of the recipe.
        own: pieces do not attend to one another; then nothing is predicted behind `<|endoftext|>`.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        tokenizer: Tokenizer,
        *,
        batch_tokens: int,
        contexts: Sequence[int],
        seed: int,
        fim_rate: float,
        spm_rate: float,
        own: bool,
    ) -> None:
        self.corpus, self.tokenizer, self.own = corpus, tokenizer, own
        self.seed, self.fim_rate, self.spm_rate = seed, fim_rate, spm_rate
        self.part_tokens = PART_CONTEXTS * max(contexts)
        counts = np.asarray(corpus.token_counts, dtype=np.int64)
        parts = -(-counts // self.part_tokens)  # 0 for an empty document: it is in no lane
        self._document = np.repeat(np.arange(len(counts), dtype=np.int64), parts)
        first = np.cumsum(parts) - parts
        self._part = np.arange(len(self._document), dtype=np.int64) - np.repeat(first, parts)
        self._keys = mix(np.repeat(document_keys(corpus), parts) ^ mix(self._part.astype(np.uint64)))
        self.count = lane_count(batch_tokens, contexts, len(self._document))
        dealt = np.argsort(mix(self._keys, draw(seed, "lane")), kind="stable")
        self._members = [dealt[number :: self.count] for number in range(self.count)]
        self._orders: list[tuple[int, Ints]] = [(-1, dealt)] * self.count

    def start(self) -> Positions:
        """The beginning of every lane."""
        return (Position(),) * self.count

    def take(self, positions: Positions, count: int, context: int) -> Batch:
        """The next `count` tokens as rows of `context`, an equal number of rows from each lane, lane after lane."""
        inputs = np.empty(count, dtype=np.int64)
        targets = np.empty(count, dtype=np.int64)
        starts: list[int] = []
        after = []
        at = 0
        for lane, position in enumerate(positions):
            for _ in range(count // self.count // context):
                end = at + context
                while at < end:
                    row, aims, position = self._piece(lane, position, end - at)
                    inputs[at : at + len(row)] = row
                    targets[at : at + len(row)] = aims
                    if not self.own and starts and starts[-1] >= end - context and targets[at - 1] == IGNORED:
                        targets[at - 1] = row[0]  # Behind `<|endoftext|>`, within the row.
                    starts.append(at)
                    at += len(row)
            after.append(position)
        return Batch(inputs, targets, np.asarray(starts, dtype=np.int64), tuple(after))

    def _piece(self, lane: int, position: Position, room: int) -> tuple[Ints, Ints, Position]:
        """Inputs and targets of the next piece, at most `room` tokens of it, and the position behind."""
        members = self._members[lane]
        epoch, index = position.epoch, position.index
        if index == len(members):
            epoch, index = epoch + 1, 0
        unit = int(self._order(lane, epoch)[index])
        document = int(self._document[unit])
        stored = self.corpus.document(document)
        first = int(self._part[unit]) * self.part_tokens
        last = min(first + self.part_tokens, len(stored))
        begin = first + position.offset
        name = self.corpus.document_id(document) + (f":{begin}" if begin else "")
        used, ids = self._rearranged(epoch, name, stored[begin:last], room)
        if used == 0:  # Plain: what there is room for, and what follows it as the last target.
            used = min(last - begin, room)
            ids = np.append(stored[begin : begin + used].astype(np.int64), self.tokenizer.eot)
            if begin + used < len(stored):
                ids[-1] = stored[begin + used]
            elif used < room:
                ids = np.append(ids, IGNORED)  # `<|endoftext|>` is an input, too, and its target is not known.
        else:
            ids = np.append(ids, [self.tokenizer.eot, IGNORED])
        offset = position.offset + used
        after = Position(epoch, index + 1, 0) if first + offset == last else Position(epoch, index, offset)
        return ids[:-1], ids[1:], after

    def _rearranged(self, epoch: int, name: str, stored: Ints, room: int) -> tuple[int, Ints]:
        """How many stored tokens a rearranged piece takes up, and its ids without `<|endoftext|>`; 0 for none."""
        none = np.empty(0, dtype=np.int64)
        how = fim.order(seed=self.seed, epoch=epoch, doc_id=name, fim_rate=self.fim_rate, spm_rate=self.spm_rate)
        if how == "plain" or room < SMALLEST_REARRANGED:
            return 0, none
        used = min(len(stored), room - 4)  # Three sentinels and `<|endoftext|>`.
        while used > 0:
            try:
                text = self.tokenizer.decode_bytes(stored[:used].tolist()).decode("utf-8")
            except UnicodeDecodeError:
                if used == len(stored):
                    return 0, none  # Not the cut's fault: the document itself is not UTF-8.
                used -= 1  # The cut is inside a character.
                continue
            plan = fim.rearrange(
                text, seed=self.seed, epoch=epoch, doc_id=name, fim_rate=self.fim_rate, spm_rate=self.spm_rate
            )
            ids = fim.encode(plan, self.tokenizer)
            if len(ids) < room:
                return used, np.asarray(ids, dtype=np.int64)
            used -= len(ids) + 1 - room  # Cutting a token in two has made more of them than fit.
        return 0, none

    def _order(self, lane: int, epoch: int) -> Ints:
        """The lane's parts of documents, sorted by a hash of (seed, epoch, document, part)."""
        if self._orders[lane][0] != epoch:
            members = self._members[lane]
            keys = mix(self._keys[members], draw(self.seed, epoch, "order"))
            self._orders[lane] = (epoch, members[np.argsort(keys, kind="stable")])
        return self._orders[lane][1]


def lane_count(batch_tokens: int, contexts: Sequence[int], parts: int) -> int:
    """How many lanes: as many as a batch has sequences at the contexts' common multiple.

    Every lane then gives whole rows at every context. Fewer where there are fewer (parts of) documents than that.
    """
    most = batch_tokens // math.lcm(*contexts)
    return max(lanes for lanes in range(1, most + 1) if most % lanes == 0 and lanes <= max(parts, 1))
