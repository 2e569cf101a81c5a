"""Training rows: pieces of documents, each whole within its row, rearranged for fill-in-the-middle by a hash.

A row is one sequence of the context length. It is filled with the rest of a document, then with the next document,
and so on. A document that does not fit is cut, and continues in the next row as a separate piece. Rearranging a piece
and not the whole document keeps prefix, suffix and middle within one context (Bavarian et al. 2022 find this
"context-level" form the better one; in a document many times longer than the context, the middle would see neither).

A conversation (a document of a shard with a mask) is another thing: an answer that is cut from its question teaches
answers to nothing. So it is never rearranged, and never cut unless it is longer than a row: where it does not fit, the
row is filled with `<|endoftext|>` without targets. Only the tokens that its mask names are targets, and nothing is
added to it, because its own template wrote what begins and ends it.

Documents are dealt into lanes by a hash, so that a batch holds as many different files as it has lanes; very long
documents are dealt in parts. The stored tokens of a lane are consumed in order, each once per epoch, whatever the
context. So the place in a lane is a `Position` of three integers, and what follows it is a pure function of (seed,
corpus, recipe). That is what makes a resume exact.

Words and shapes in this file:

    part    at most `part_tokens` stored tokens of one document; the U parts of the corpus have numbers from 0
    lane    a list of parts; the L lanes share the parts evenly
    row     one sequence of `context` tokens in a batch, filled from one lane
    piece   what one row takes from one part: at most the rest of the part, at most the room left in the row
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codeshell.randomness import below, draw, mix
from codeshell.train import fim
from codeshell.train.batches import IGNORED, Batch, Ints, Position, Positions, document_keys

if TYPE_CHECKING:
    from codeshell.documents.token_shards import TokenCorpus
    from codeshell.tokenizer import Tokenizer

PART_CONTEXTS = 4
"""A document longer than this many contexts is dealt in parts of that length, so that a lane does not spend hundreds of
batches in one large file."""

SMALLEST_REARRANGED = 16
"""A room smaller than this at the end of a row is filled without rearranging: the sentinel tokens would take a quarter
of it."""


class Lanes:
    """A token corpus dealt into lanes.

    Args:
        corpus: the training documents.
        tokenizer: the one that encoded them.
        batch_tokens, contexts: the recipe's; they decide the number of lanes and the length of a part.
        seed, fim_rate, spm_rate, fim_lines, fim_tokens: the recipe's.
        isolated: pieces do not attend to one another; then nothing is predicted after `<|endoftext|>`.
        begin: a token that stands before each document, as some families have one; None for none. Conversations do not
            get it, because their template writes it.
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
        isolated: bool,
        begin: int | None = None,
        fim_lines: float = 0.0,
        fim_tokens: int = 0,
    ) -> None:
        self.begin = begin
        self.corpus, self.tokenizer, self.isolated = corpus, tokenizer, isolated
        # (vocab_size,): which ids are special tokens.
        self._special = np.zeros(tokenizer.vocab_size, np.bool_)
        self._special[list(tokenizer.specials.values())] = True
        self.seed, self.fim_rate, self.spm_rate, self.fim_lines = seed, fim_rate, spm_rate, fim_lines
        self.fim_tokens = fim_tokens
        self.part_tokens = PART_CONTEXTS * max(contexts)

        # Cut the documents into parts. Of each part (U,): its document, and which part of the document it is, from 0.
        counts = np.asarray(corpus.token_counts, dtype=np.int64)
        parts = -(-counts // self.part_tokens)  # per document, rounded up; 0 for an empty one, which is in no lane
        self._document = np.repeat(np.arange(len(counts), dtype=np.int64), parts)
        first = np.cumsum(parts) - parts
        self._part = np.arange(len(self._document), dtype=np.int64) - np.repeat(first, parts)

        # A hash of (document id, part), uint64 (U,). All orders come from it, so no shard layout can change them.
        self._keys = mix(np.repeat(document_keys(corpus), parts) ^ mix(self._part.astype(np.uint64)))

        # Deal the parts like cards, in an order hashed from the seed: lane 0, lane 1, …, lane L - 1, lane 0, …
        self.count = lane_count(batch_tokens, contexts, len(self._document))
        dealt = np.argsort(mix(self._keys, draw(seed, "lane")), kind="stable")
        self._members = [dealt[number :: self.count] for number in range(self.count)]
        # Epoch and order of each lane, remembered by `_order`; no epoch is -1.
        self._orders: list[tuple[int, Ints]] = [(-1, dealt)] * self.count

    def start(self) -> Positions:
        """The beginning of every lane."""
        return (Position(),) * self.count

    def take(self, positions: Positions, count: int, context: int, lanes: range | None = None) -> Batch:
        """The next tokens of all lanes as one batch, or the part of the batch that some lanes give.

        Args:
            positions: where each of the lanes is.
            count: tokens that they give together, a multiple of their number times `context`.
            context: tokens of a row. Each lane gives the same number of rows; they lie lane after lane.
            lanes: those that give; None is all L of them.
        """
        lanes = range(self.count) if lanes is None else lanes
        each = count // len(lanes)
        inputs = np.empty(count, dtype=np.int64)
        targets = np.empty(count, dtype=np.int64)
        starts: list[int] = []
        after = []
        at = 0  # tokens written so far
        open_end = False  # whether the last piece ends with a token from which the next piece may be predicted
        for lane, position in zip(lanes, positions, strict=True):
            for _ in range(each // context):
                # One row: pieces until it is full. The last piece is cut to fit.
                end = at + context
                while at < end:
                    ids, aims, position, text = self._piece(lane, position, end - at, context)
                    inputs[at : at + len(ids)] = ids
                    targets[at : at + len(ids)] = aims
                    # `<|endoftext|>` left without a target: if pieces see one another, it predicts the first token of
                    # the next piece, as long as both are in this row. Nothing predicts a question.
                    if not self.isolated and open_end and text and at > end - context and targets[at - 1] == IGNORED:
                        targets[at - 1] = ids[0]
                    starts.append(at)
                    at += len(ids)
                    open_end = text
            after.append(position)
        return Batch(inputs, targets, np.asarray(starts, dtype=np.int64), tuple(after), lanes.start * each)

    def _piece(self, lane: int, position: Position, room: int, context: int) -> tuple[Ints, Ints, Position, bool]:
        """Inputs and targets of the next piece, each (n,) with n <= `room`; the position after it; whether it is text,
        and no conversation or filler."""
        # The part that the position is in. After the last part of an epoch comes the first of the next epoch's order.
        members = self._members[lane]
        epoch, index = position.epoch, position.index
        if index == len(members):
            epoch, index = epoch + 1, 0
        unit = int(self._order(lane, epoch)[index])
        document = int(self._document[unit])
        stored = self.corpus.document(document)

        # The part is stored[first:last]; stored[begin:last] of it is left.
        first = int(self._part[unit]) * self.part_tokens
        last = min(first + self.part_tokens, len(stored))
        begin = first + position.offset
        trained = self.corpus.trained(document)
        if trained is not None:
            if last - begin > room and room < context:
                return np.full(room, self.tokenizer.eot), np.full(room, IGNORED), position, False
            used = min(last - begin, room)
            ids, aims = _conversation(stored, trained, begin, used)
            return ids, aims, self._after(Position(epoch, index, position.offset), used, last - first), False
        # What begins a document takes a place of the row. A row that has no other place left does without.
        head = [self.begin] if self.begin is not None and begin == 0 and room > 1 else []
        room -= len(head)
        # Each piece draws for itself whether it is rearranged, so what it hashes holds its place in the document.
        name = self.corpus.document_id(document) + (f":{begin}" if begin else "")
        used, ids = self._rearranged(epoch, name, stored[begin:last], room)
        # From here on `ids` is one longer than the piece: inputs are ids[:-1], their targets ids[1:].
        if used == 0:
            # Plain: as many tokens as there is room for, then what follows them as the last target.
            used = min(last - begin, room)
            ids = np.append(stored[begin : begin + used].astype(np.int64), self.tokenizer.eot)
            if begin + used < len(stored):
                ids[-1] = stored[begin + used]
            elif used < room:
                # The document ends and there is room: `<|endoftext|>` is an input, too, and its target is not known.
                ids = np.append(ids, IGNORED)
        else:
            # Rearranged: what follows in the document is no continuation of the middle, so the piece ends like one.
            ids = np.append(ids, [self.tokenizer.eot, IGNORED])
        if head:
            ids = np.concatenate([np.asarray(head, dtype=np.int64), ids])
        return ids[:-1], ids[1:], self._after(Position(epoch, index, position.offset), used, last - first), True

    @staticmethod
    def _after(position: Position, used: int, size: int) -> Position:
        """The position after `used` tokens of a part of `size`. Positions count stored tokens, not written ones:
        sentinels and a different split into tokens do not matter."""
        offset = position.offset + used
        if offset == size:
            return Position(position.epoch, position.index + 1, 0)
        return Position(position.epoch, position.index, offset)

    def _rearranged(self, epoch: int, name: str, stored: Ints, room: int) -> tuple[int, Ints]:
        """Try to rearrange the beginning of `stored` for fill-in-the-middle.

        Args:
            epoch, name: what the draw depends on, beside the seed.
            stored: the rest of the part.
            room: the most ids that may be returned, `<|endoftext|>` after them included.

        Returns:
            How many stored tokens the piece takes up, and its ids without `<|endoftext|>`. 0 if the draw or the lack
            of room says that the piece stays plain.
        """
        none = np.empty(0, dtype=np.int64)
        how = fim.order(seed=self.seed, epoch=epoch, doc_id=name, fim_rate=self.fim_rate, spm_rate=self.spm_rate)
        if how == "plain" or room < SMALLEST_REARRANGED:
            return 0, none
        # A commit, an issue or a notebook holds special tokens, which are no text that could be cut.
        if self._special[stored[:room]].any():
            return 0, none
        room = self._shortened(epoch, name, room)
        # Room for three sentinels and `<|endoftext|>`. The text is cut and encoded again, which can make more tokens
        # than were stored; so take fewer until the result fits. Each turn lowers `used`.
        used = min(len(stored), room - 4)
        while used > 0:
            try:
                text = self.tokenizer.decode_bytes(stored[:used].tolist()).decode("utf-8")
            except UnicodeDecodeError:
                # Either the cut is inside a character, or the document itself is not UTF-8 and stays plain.
                if used == len(stored):
                    return 0, none
                used -= 1
                continue
            plan = fim.rearrange(
                text,
                seed=self.seed,
                epoch=epoch,
                doc_id=name,
                fim_rate=self.fim_rate,
                spm_rate=self.spm_rate,
                fim_lines=self.fim_lines,
            )
            ids = fim.encode(plan, self.tokenizer)
            if len(ids) < room:
                return used, np.asarray(ids, dtype=np.int64)
            used -= len(ids) + 1 - room
        return 0, none

    def _shortened(self, epoch: int, name: str, room: int) -> int:
        """The room of a rearranged piece: all of it, or a half, a quarter, … of it, each of them as likely, as long as
        that is not less than `fim_tokens`. Integers alone, so that every machine has the same pieces."""
        least = max(self.fim_tokens, SMALLEST_REARRANGED)
        if not self.fim_tokens or room < 2 * least:
            return room
        halvings = (room // least).bit_length() - 1
        return room >> below(draw(self.seed, epoch, name, "fim tokens"), halvings + 1)

    def _order(self, lane: int, epoch: int) -> Ints:
        """The lane's parts of documents, sorted by a hash of (seed, epoch, document, part)."""
        if self._orders[lane][0] != epoch:
            members = self._members[lane]
            keys = mix(self._keys[members], draw(self.seed, epoch, "order"))
            self._orders[lane] = (epoch, members[np.argsort(keys, kind="stable")])
        return self._orders[lane][1]


def _conversation(stored: Ints, trained: NDArray[np.bool_], begin: int, used: int) -> tuple[Ints, Ints]:
    """Inputs and targets of `used` tokens of a conversation: the next token where it is learned."""
    inputs = stored[begin : begin + used].astype(np.int64)
    aims = np.full(used, IGNORED, dtype=np.int64)
    # The last token of all has nothing after it.
    follows = stored[begin + 1 : begin + used + 1].astype(np.int64)
    aims[: len(follows)] = np.where(trained[begin + 1 : begin + used + 1], follows, IGNORED)
    return inputs, aims


def lane_count(batch_tokens: int, contexts: Sequence[int], parts: int) -> int:
    """Number of lanes: as many as a batch has sequences at the contexts' least common multiple.

    Every lane then gives whole rows at every context. There are fewer lanes if there are fewer parts than that.

    Args:
        batch_tokens: a multiple of every context.
        contexts: context lengths of the phases.
        parts: parts that can be dealt.
    """
    most = batch_tokens // math.lcm(*contexts)
    # A divisor of the most, so that the rows of a batch still divide evenly.
    return max(lanes for lanes in range(1, most + 1) if most % lanes == 0 and lanes <= max(parts, 1))
