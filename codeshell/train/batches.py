"""Batches: documents in a hashed order, as streams of tokens side by side, cut into sequences.

The documents are dealt into lanes by a hash. A lane's stream is every document of it in an epoch (rearranged for
fill-in-the-middle where the hash says so), each followed by `<|endoftext|>`, epoch after epoch. A batch is the next
tokens of every lane, and one more as the last target. So a batch holds pieces of as many documents as it has
sequences, not a few long documents whole; and the context length only decides how a batch is folded into rows: it
can change from one batch to the next without a token lost or repeated. A place in a stream is a `Position` of a few
integers; what follows it is a pure function of (seed, corpus, recipe), which is what makes a resume exact.
"""

from __future__ import annotations

import copy
import hashlib
import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codeshell.randomness import draw, mix
from codeshell.train import fim

if TYPE_CHECKING:
    from codeshell.data.token_shards import TokenCorpus
    from codeshell.tokenizer import Tokenizer

IGNORED = -100
"""Target that does not count in the loss, as in torch's cross entropy."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Position:
    """The next token of the stream: `offset` tokens into the `index`-th document of `epoch`'s order."""

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


class Documents:
    """A token corpus, or a part of one, in the order of each epoch, with fill-in-the-middle applied."""

    def __init__(
        self, corpus: TokenCorpus, tokenizer: Tokenizer, *, seed: int, fim_rate: float = 0.0, spm_rate: float = 0.0
    ) -> None:
        self.corpus, self.tokenizer, self.seed = corpus, tokenizer, seed
        self.fim_rate, self.spm_rate = fim_rate, spm_rate
        ids = (draw(corpus.document_id(index)) for index in range(len(corpus)))
        self._keys = np.fromiter(ids, dtype=np.uint64, count=len(corpus))
        self._take_part(np.arange(len(corpus), dtype=np.int64))

    def _take_part(self, members: Ints) -> None:
        self._members = members
        self._order: tuple[int, Ints] = (-1, np.empty(0, np.int64))
        self._last: tuple[tuple[int, int], Ints] = ((-1, -1), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self._members)

    @property
    def filled(self) -> int:
        """Documents that are not empty."""
        return int((np.asarray(self.corpus.token_counts)[self._members] > 0).sum())

    def deal(self, count: int) -> list[Documents]:
        """Deal the documents that are not empty into `count` parts, at random but the same in every epoch."""
        filled = self._members[np.asarray(self.corpus.token_counts)[self._members] > 0]
        dealt = filled[np.argsort(mix(self._keys[filled], draw(self.seed, "lane")), kind="stable")]
        parts = [copy.copy(self) for _ in range(count)]
        for number, part in enumerate(parts):
            part._take_part(dealt[number::count])
        return parts

    @property
    def fingerprint(self) -> str:
        """Hash of the set of documents and their number of tokens; the shards they lie in do not matter."""
        digest = hashlib.sha256(np.sort(self._keys).tobytes())
        digest.update(str(self.corpus.n_tokens).encode())
        return digest.hexdigest()

    def order(self, epoch: int) -> Ints:
        """Indices of the corpus, sorted by a hash of (seed, epoch, document id)."""
        if self._order[0] != epoch:
            keys = mix(self._keys[self._members], draw(self.seed, epoch, "order"))
            self._order = (epoch, self._members[np.argsort(keys, kind="stable")])
        return self._order[1]

    def tokens(self, epoch: int, index: int) -> Ints:
        """The `index`-th document of an epoch with its `<|endoftext|>`; an empty document gives no token at all."""
        if self._last[0] != (epoch, index):  # A document longer than a batch is asked for again and again.
            document = int(self.order(epoch)[index])
            ids = self._rearranged(epoch, document)
            if len(ids):
                ids = np.append(ids, self.tokenizer.eot)
            self._last = ((epoch, index), np.asarray(ids, dtype=np.int64))
        return self._last[1]

    def _rearranged(self, epoch: int, document: int) -> NDArray[Any]:
        stored = self.corpus.document(document)
        draws: dict[str, Any] = {
            "seed": self.seed,
            "epoch": epoch,
            "doc_id": self.corpus.document_id(document),
            "fim_rate": self.fim_rate,
            "spm_rate": self.spm_rate,
        }
        if fim.order(**draws) == "plain":
            return stored
        data = self.tokenizer.decode_bytes(stored.tolist())
        if len(data) != self.corpus.document_bytes(document):
            return stored  # The tokenizer has lost bytes: what we would cut is not the document.
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return stored
        return np.asarray(fim.encode(fim.rearrange(text, **draws), self.tokenizer), dtype=np.int64)


def lane_count(batch_tokens: int, contexts: Sequence[int], documents: int) -> int:
    """How many lanes: as many as a batch has sequences at the contexts' common multiple.

    Every lane then gives whole sequences at every context. Fewer where there are fewer documents than that.
    """
    most = batch_tokens // math.lcm(*contexts)
    return max(lanes for lanes in range(1, most + 1) if most % lanes == 0 and lanes <= max(documents, 1))


def take_lanes(lanes: Sequence[Documents], positions: Sequence[Position], count: int, *, own: bool) -> Batch:
    """The next `count` tokens, an equal part from each lane, lane after lane; see `take`."""
    part = count // len(lanes)
    batches = [take(lane, position, part, own=own) for lane, position in zip(lanes, positions, strict=True)]
    return Batch(
        np.concatenate([batch.inputs for batch in batches]),
        np.concatenate([batch.targets for batch in batches]),
        np.concatenate([batch.starts + number * part for number, batch in enumerate(batches)]),
        tuple(batch.after[0] for batch in batches),
    )


def take(documents: Documents, position: Position, count: int, *, own: bool) -> Batch:
    """The `count` tokens of one stream from `position` on.

    Args:
        documents: at least one of them is not empty.
        own: documents do not attend to one another; then `<|endoftext|>` has no target, for what follows it is
            not to be known from it.
    """
    pieces: list[Ints] = []
    starts: list[int] = []
    filled, epoch, index, offset = 0, position.epoch, position.index, position.offset
    while True:
        if index == len(documents):
            epoch, index = epoch + 1, 0
        tokens = documents.tokens(epoch, index)
        if offset == 0 and len(tokens):
            starts.append(filled)
        piece = tokens[offset : offset + count + 1 - filled]
        pieces.append(piece)
        filled += len(piece)
        if filled == count + 1:  # The last token of `piece` is a target here and the first input of the next batch.
            after = Position(epoch, index, offset + len(piece) - 1)
            break
        index, offset = index + 1, 0
    stream = np.concatenate(pieces)
    targets = stream[1:].copy()
    begins = np.asarray(starts, dtype=np.int64)
    if own:
        targets[begins[begins > 0] - 1] = IGNORED
    return Batch(stream[:-1], targets, begins[begins < count], (after,))


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
    """Makes the next batches in a thread while the device computes; what they hold does not change by it."""

    def __init__(self, make: Callable[[Positions], Batch], positions: Positions, depth: int = 2) -> None:
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(make, positions), daemon=True, name="batches")
        self._thread.start()

    def _work(self, make: Callable[[Positions], Batch], positions: Positions) -> None:
        item: Batch | BaseException
        while not self._closed.is_set():
            try:
                item = make(positions)
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
        """The next batch of the stream."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
