"""Batches: what a step takes, how it is folded into micro-batches, and the plain stream that validation reads.

`codeshell.train.rows` makes the batches of training; this file holds what training and validation share.

Shapes in this file: N tokens of a batch, C tokens of a sequence (the context), D documents that begin in the batch.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codeshell.randomness import draw, mix

if TYPE_CHECKING:
    from codeshell.documents.token_shards import TokenCorpus
    from codeshell.tokenizer import Tokenizer

IGNORED = -100
"""Target that does not count in the loss, as in torch's cross entropy."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Position:
    """Where the next token of a lane is: `offset` stored tokens into the `index`-th part of `epoch`'s order."""

    epoch: int = 0
    index: int = 0
    offset: int = 0


Positions = tuple[Position, ...]
"""One position per lane."""


@dataclass(frozen=True)
class Batch:
    """Tokens of one optimizer step.

    Attributes:
        inputs: int64 (N,).
        targets: int64 (N,): the next token, or `IGNORED`.
        starts: int64 (D,), ascending: where in `inputs` a document begins.
        after: the position of each lane after the batch.
        first: place of its first token in the whole batch, of which several ranks have a part each.
        whole: bool (D,): the documents that `aligned` does not cut, which are conversations; None if there are none.
    """

    inputs: Ints
    targets: Ints
    starts: Ints
    after: Positions
    first: int = 0
    whole: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes.

    Attributes:
        inputs, targets: int64 (sequences, C).
        cu_seqlens: int32 (pieces + 1,), offsets over the flattened tokens, from 0: tokens attend within their piece
            only, and a piece ends with its document or its sequence. None if documents may attend to one another.
        max_seqlen: no piece is longer.
        first: place of its first token in the whole batch.
    """

    inputs: Ints
    targets: Ints
    cu_seqlens: NDArray[np.int32] | None
    max_seqlen: int
    first: int = 0


def document_keys(corpus: TokenCorpus) -> NDArray[np.uint64]:
    """A hash of each document's id, uint64 (documents,), from which every order is made."""
    keys = (draw(corpus.document_id(index)) for index in range(len(corpus)))
    return np.fromiter(keys, dtype=np.uint64, count=len(corpus))


def fingerprint(corpus: TokenCorpus) -> str:
    """Hash of the set of documents and their number of tokens; the shards they lie in do not matter."""
    # Sorted, so that shards and the order in them do not matter.
    digest = hashlib.sha256(np.sort(document_keys(corpus)).tobytes())
    digest.update(str(corpus.n_tokens).encode())
    # The same conversations by another template may have as many tokens.
    if corpus.masked:
        digest.update(f",{corpus.n_trained}".encode())
    return digest.hexdigest()


class Documents:
    """A token corpus in an order hashed from its ids, nothing rearranged: what validation reads."""

    def __init__(self, corpus: TokenCorpus, tokenizer: Tokenizer, *, seed: int, begin: int | None = None) -> None:
        self.corpus, self.tokenizer, self.seed, self.begin = corpus, tokenizer, seed, begin
        self._keys = document_keys(corpus)

    def __len__(self) -> int:
        return len(self.corpus)

    def order(self, epoch: int) -> Ints:
        """Indices of the corpus's documents, sorted by a hash of (seed, epoch, document id)."""
        return np.argsort(mix(self._keys, draw(self.seed, epoch, "order")), kind="stable")

    def tokens(self, document: int) -> Ints:
        """A document followed by `<|endoftext|>`, and after `begin` if there is one; a conversation as it is. An empty
        one gives no token at all."""
        stored = self.corpus.document(document).astype(np.int64)
        if not len(stored) or self.corpus.trained(document) is not None:
            return stored
        head = [] if self.begin is None else [self.begin]
        return np.concatenate([np.asarray(head, dtype=np.int64), stored, [self.tokenizer.eot]])

    def added(self) -> int:
        """Tokens that all documents have more than the corpus stores."""
        texts = sum(
            self.corpus.trained(index) is None for index in range(len(self)) if len(self.corpus.document(index))
        )
        return texts * (1 if self.begin is None else 2)


def take(documents: Documents, count: int, *, isolated: bool) -> Batch:
    """The first `count` tokens of all documents as one stream, in the order of epoch 0.

    Args:
        documents: they hold more than `count` tokens, `<|endoftext|>` included.
        count: tokens of the batch, its N.
        isolated: documents do not attend to one another; then `<|endoftext|>` has no target, because nothing before
            it tells which document follows.
    """
    # One token more than `count` is needed: the target of the last one.
    pieces: list[Ints] = []
    learned: list[NDArray[np.bool_]] = []  # of each token whether it is predicted
    starts: list[int] = []
    whole: list[bool] = []
    filled = 0
    # Whole documents until there are enough; the last one is cut below.
    for document in documents.order(0).tolist():
        tokens = documents.tokens(document)
        if len(tokens):
            trained = documents.corpus.trained(document)
            flags = np.ones(len(tokens), np.bool_) if trained is None else trained.copy()
            # The token before it ends another document. Nothing predicts a question, and an answer predicts no text.
            if isolated or trained is not None or (whole and whole[-1]):
                flags[0] = False
            whole.append(trained is not None)
            starts.append(filled)
            pieces.append(tokens)
            learned.append(flags)
            filled += len(tokens)
        if filled > count:
            break
    stream = np.concatenate(pieces)[: count + 1]
    targets = np.where(np.concatenate(learned)[1 : count + 1], stream[1:], IGNORED)
    begins = np.asarray(starts, dtype=np.int64)
    kept = begins < count
    return Batch(stream[:-1], targets, begins[kept], (), whole=np.asarray(whole)[kept] if any(whole) else None)


def aligned(batch: Batch, context: int, filler: int) -> Batch:
    """Fill rows so that the last one is full and no conversation is cut that a row can hold.

    Args:
        batch: of `take`.
        context: tokens of a row.
        filler: a token. Pieces of it are documents of their own, so isolated documents do not see them, and nothing is
            predicted from them.
    """
    size = len(batch.inputs)
    bounds = [*batch.starts.tolist(), size]
    whole = [False] * len(batch.starts) if batch.whole is None else batch.whole.tolist()
    # Where filler goes: before a document, and how much of it.
    gaps: list[tuple[int, int]] = []
    put = 0
    for (begin, end), fixed in zip(pairwise(bounds), whole, strict=True):
        place = begin + put
        if fixed and end - begin <= context < place % context + end - begin:
            gaps.append((begin, -place % context))
            put += -place % context
    if missing := -(size + put) % context:
        gaps.append((size, missing))
    if not gaps:
        return batch
    places = np.repeat([at for at, _ in gaps], [count for _, count in gaps])
    # A gap is a document that begins where the one after it would have begun.
    shift = np.zeros(len(batch.starts), dtype=np.int64)
    for at, count in gaps:
        shift[batch.starts >= at] += count
    moved = sorted({*(batch.starts + shift).tolist(), *_gap_starts(gaps)})
    return replace(
        batch,
        inputs=np.insert(batch.inputs, places, filler),
        targets=np.insert(batch.targets, places, IGNORED),
        starts=np.asarray(moved, dtype=np.int64),
        whole=None,
    )


def _gap_starts(gaps: list[tuple[int, int]]) -> Iterator[int]:
    """Where each gap begins, those before it filled."""
    put = 0
    for at, count in gaps:
        yield at + put
        put += count


def fold(batch: Batch, context: int, micro_tokens: int, *, isolated: bool) -> Iterator[MicroBatch]:
    """Fold a batch into sequences of `context` tokens and yield them `micro_tokens` at a time (at least a sequence).

    Args:
        batch: its number of tokens is a multiple of `context`.
        context: tokens of a sequence.
        micro_tokens: the most tokens of a micro-batch; 0 is the whole batch at once.
        isolated: give `cu_seqlens`, so that documents do not attend to one another.
    """
    # Whole sequences, at least one: `micro_tokens` rounded down to a multiple of the context.
    total = len(batch.inputs)
    step = max(micro_tokens // context, 1) * context if micro_tokens else total
    for begin in range(0, total, step):
        end = min(begin + step, total)
        cuts = None
        if isolated:
            # Pieces begin where a sequence or a document does. The beginnings of sequences end with the total, which
            # closes the last piece.
            inside = batch.starts[(batch.starts > begin) & (batch.starts < end)] - begin
            rows = np.arange(0, end - begin + 1, context, dtype=np.int64)
            cuts = np.union1d(rows, inside).astype(np.int32)
        inputs, targets = (tokens[begin:end].reshape(-1, context) for tokens in (batch.inputs, batch.targets))
        yield MicroBatch(inputs, targets, cuts, context, batch.first + begin)


class Prefetch:
    """Makes the next batches in a thread while the device computes. Their contents are the same as without it.

    Args:
        make: makes the batch of a step from the step's number and the positions after the previous batch.
        done: steps done; the first batch is that of step `done + 1`.
        positions: where the first batch begins.
        depth: the most batches that wait.
        last: no batch is made for a later step; None sets no limit.
    """

    def __init__(
        self,
        make: Callable[[int, Positions], Batch],
        done: int,
        positions: Positions,
        *,
        depth: int = 2,
        last: int | None = None,
    ) -> None:
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        arguments = (make, done, positions, last)
        self._thread = threading.Thread(target=self._work, args=arguments, daemon=True, name="batches")
        self._thread.start()

    def _work(self, make: Callable[[int, Positions], Batch], done: int, positions: Positions, last: int | None) -> None:
        item: Batch | BaseException
        # Each batch begins where the one before it ended, so they are made in order, by one thread.
        while not self._closed.is_set() and (last is None or done < last):
            done += 1
            try:
                item = make(done, positions)
                positions = item.after
            except BaseException as error:  # raised again by `next`
                item = error
            # A plain put could wait for ever on a full queue; wake up to see whether the run has ended.
            while not self._closed.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return

    def next(self) -> Batch:
        """The next batch; an error from making it is raised here."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the thread; batches that wait are lost."""
        self._closed.set()
        self._thread.join()
