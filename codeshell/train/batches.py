"""Batches: what a step takes, how it is folded into micro-batches, and the plain stream that validation reads.

`codeshell.train.rows` makes the batches of training; here is what both share.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    """The next token: `offset` stored tokens into the `index`-th document (or part of one) of `epoch`'s order."""

    epoch: int = 0
    index: int = 0
    offset: int = 0


Positions = tuple[Position, ...]
"""A place in every lane."""


@dataclass(frozen=True)
class Batch:
    """Tokens of one optimizer step.

    Attributes:
        inputs: int64, (batch_tokens,).
        targets: int64, (batch_tokens,): the next token, or `IGNORED`.
        starts: int64, ascending: where in `inputs` a document begins.
        after: the position behind the batch, of each lane.
    """

    inputs: Ints
    targets: Ints
    starts: Ints
    after: Positions


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes.

    Attributes:
        inputs, targets: int64, (sequences, context).
        cu_seqlens: int32, (pieces + 1,): ends of the pieces that attend to themselves alone, over the flattened
            tokens, from 0; a piece ends with its document or its sequence. None if documents may attend to others.
        max_seqlen: no piece is longer.
    """

    inputs: Ints
    targets: Ints
    cu_seqlens: NDArray[np.int32] | None
    max_seqlen: int


def document_keys(corpus: TokenCorpus) -> NDArray[np.uint64]:
    """A hash of each document's id, from which every order is made."""
    keys = (draw(corpus.document_id(index)) for index in range(len(corpus)))
    return np.fromiter(keys, dtype=np.uint64, count=len(corpus))


def fingerprint(corpus: TokenCorpus) -> str:
    """Hash of the set of documents and their number of tokens; the shards they lie in do not matter."""
    digest = hashlib.sha256(np.sort(document_keys(corpus)).tobytes())
    digest.update(str(corpus.n_tokens).encode())
    return digest.hexdigest()


class Documents:
    """A token corpus as it is, in an order hashed from its ids: what validation reads."""

    def __init__(self, corpus: TokenCorpus, tokenizer: Tokenizer, *, seed: int) -> None:
        self.corpus, self.tokenizer, self.seed = corpus, tokenizer, seed
        self._keys = document_keys(corpus)

    def __len__(self) -> int:
        return len(self.corpus)

    def order(self, epoch: int) -> Ints:
        """Indices of the corpus, sorted by a hash of (seed, epoch, document id)."""
        return np.argsort(mix(self._keys, draw(self.seed, epoch, "order")), kind="stable")

    def tokens(self, document: int) -> Ints:
        """A document with its `<|endoftext|>`; an empty one gives no token at all."""
        stored = self.corpus.document(document).astype(np.int64)
        return np.append(stored, self.tokenizer.eot) if len(stored) else stored


def take(documents: Documents, count: int, *, own: bool) -> Batch:
    """The first `count` tokens of all documents as one stream, in the order of epoch 0.

    Args:
        documents: they hold more than `count` tokens, `<|endoftext|>` included.
        own: documents do not attend to one another; then `<|endoftext|>` has no target, for what follows it is
            not to be known from it.
    """
    pieces: list[Ints] = []
    starts: list[int] = []
    filled = 0
    for document in documents.order(0).tolist():
        tokens = documents.tokens(document)
        if len(tokens):
            starts.append(filled)
            pieces.append(tokens)
            filled += len(tokens)
        if filled > count:
            break
    stream = np.concatenate(pieces)[: count + 1]
    targets = stream[1:].copy()
    begins = np.asarray(starts, dtype=np.int64)
    if own:
        targets[begins[(begins > 0) & (begins <= count)] - 1] = IGNORED
    return Batch(stream[:-1], targets, begins[begins < count], ())


def fold(batch: Batch, context: int, micro_tokens: int, *, own: bool) -> Iterator[MicroBatch]:
    """Fold a batch into sequences of `context` tokens and yield them `micro_tokens` at a time (at least a sequence).

    Args:
        batch: its number of tokens is a multiple of `context`.
        micro_tokens: 0 for the whole batch at once.
        own: give `cu_seqlens`, so that documents do not attend to one another.
    """
    total = len(batch.inputs)
    step = max(micro_tokens // context, 1) * context if micro_tokens else total
    for begin in range(0, total, step):
        end = min(begin + step, total)
        cuts = None
        if own:
            inside = batch.starts[(batch.starts > begin) & (batch.starts < end)] - begin
            rows = np.arange(0, end - begin + 1, context, dtype=np.int64)
            cuts = np.union1d(rows, inside).astype(np.int32)
        shape = (-1, context)
        yield MicroBatch(batch.inputs[begin:end].reshape(shape), batch.targets[begin:end].reshape(shape), cuts, context)


class Prefetch:
    """Makes the next batches in a thread while the device computes; what they hold does not change by it.

    Args:
        make: the batch of a step, from its number and the positions behind the batch before.
        done: steps done; the first batch is that of step `done + 1`.
        positions: where it begins.
        depth: batches that may wait.
        last: no batch is made for a later step; None is no end.
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
        while not self._closed.is_set() and (last is None or done < last):
            done += 1
            try:
                item = make(done, positions)
                positions = item.after
            except BaseException as error:  # Raised again where the batch is asked for.
                item = error
            while not self._closed.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return

    def next(self) -> Batch:
        """The next batch."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
