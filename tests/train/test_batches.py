"""What a step takes: validation's stream, folding into micro-batches, making batches ahead."""

from __future__ import annotations

import numpy as np
import pytest

from codeshell.train.batches import IGNORED, Batch, Documents, Position, Prefetch, fingerprint, fold, take

TEXTS = ["import re\n", "x", "", "def f(a):\n    return a\n" * 3, "é = 'ü'\n", "y" * 90, "z = 1\n"]


@pytest.mark.parametrize("count", [1, 9, 10, 50, 150])
def test_validation_reads_whole_documents_one_after_another(memory_corpus, tokenizer, count):
    documents = Documents(memory_corpus(TEXTS), tokenizer, seed=0)
    stream, starts = [], []
    for document in documents.order(0):
        tokens = documents.tokens(int(document)).tolist()
        if tokens:
            starts.append(len(stream))
        stream += tokens
    batch = take(documents, count, isolated=False)
    assert batch.inputs.tolist() == stream[:count]
    assert batch.targets.tolist() == stream[1 : count + 1]
    assert batch.starts.tolist() == [start for start in starts if start < count]
    masked = take(documents, count, isolated=True).targets.tolist()
    assert masked == [IGNORED if at + 1 in starts else stream[at + 1] for at in range(count)]


def test_order_does_not_depend_on_how_the_shards_lie(memory_corpus, tokenizer):
    ids = [f"{index:032x}" for index in range(len(TEXTS))]
    turned = [(index * 3) % len(TEXTS) for index in range(len(TEXTS))]
    a, b = memory_corpus(TEXTS, ids), memory_corpus([TEXTS[i] for i in turned], [ids[i] for i in turned])
    batches = [take(Documents(corpus, tokenizer, seed=1), 100, isolated=True) for corpus in (a, b)]
    assert batches[0].inputs.tolist() == batches[1].inputs.tolist()
    assert fingerprint(a) == fingerprint(b)
    assert fingerprint(a) != fingerprint(memory_corpus(TEXTS[:-1], ids[:-1]))


def whole(count: int, starts: list[int]) -> Batch:
    """The batch whose inputs are 0, 1, 2 …"""
    inputs = np.arange(count, dtype=np.int64)
    return Batch(inputs, inputs + 1, np.asarray(starts, dtype=np.int64), ())


def test_fold_cuts_at_rows_and_documents():
    micro = list(fold(whole(16, [0, 3, 8, 13]), 4, 8, isolated=True))
    assert [m.inputs.tolist() for m in micro] == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9, 10, 11], [12, 13, 14, 15]]]
    assert [m.cu_seqlens.tolist() for m in micro] == [[0, 3, 4, 8], [0, 4, 5, 8]]
    assert all(m.cu_seqlens.dtype == np.int32 and m.max_seqlen == 4 for m in micro)
    assert all((m.targets == m.inputs + 1).all() for m in micro)


@pytest.mark.parametrize(("micro_tokens", "rows"), [(0, [4]), (4, [1, 1, 1, 1]), (1, [1, 1, 1, 1]), (13, [3, 1])])
def test_fold_sizes(micro_tokens, rows):
    micro = list(fold(whole(16, [0]), 4, micro_tokens, isolated=False))
    assert [m.inputs.shape for m in micro] == [(count, 4) for count in rows]
    assert np.concatenate([m.inputs.ravel() for m in micro]).tolist() == list(range(16))
    assert all(m.cu_seqlens is None for m in micro)


def counting(step: int, positions: tuple[Position, ...]) -> Batch:
    """A batch that says which step and place it is of."""
    here = np.asarray([step, positions[0].offset], dtype=np.int64)
    return Batch(here, here, here[:0], (Position(0, 0, positions[0].offset + 7),))


def test_prefetch_hands_each_step_its_place_and_ends_with_the_last():
    fetched = Prefetch(counting, 4, (Position(0, 0, 100),), last=9)
    assert [fetched.next().inputs.tolist() for _ in range(5)] == [[5 + at, 100 + 7 * at] for at in range(5)]
    fetched._thread.join(timeout=10)
    assert not fetched._thread.is_alive()
    fetched.close()


def test_prefetch_raises_what_the_maker_raised():
    def broken(step: int, positions: tuple[Position, ...]) -> Batch:
        raise RuntimeError("shard is gone")

    failing = Prefetch(broken, 0, (Position(),))
    with pytest.raises(RuntimeError, match="shard is gone"):
        failing.next()
    failing.close()
