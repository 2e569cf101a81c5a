"""Training rows: every token of every document once an epoch, whatever is cut, rearranged, dealt or resumed."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.train import fim
from codeshell.train.batches import IGNORED, Batch, Position
from codeshell.train.rows import PART_CONTEXTS, SMALLEST_REARRANGED, Lanes, lane_count

TEXTS = ["import re\n", "x", "", "def f(a):\n    return a\n" * 3, "é = 'ü'\n", "y" * 900, "z = 1\n", "äöü€" * 60]


def make(
    corpus, tokenizer, *, batch_tokens=256, contexts=(32, 64), seed=3, rate=0.5, isolated=True, fim_tokens=0
) -> Lanes:
    return Lanes(
        corpus,
        tokenizer,
        batch_tokens=batch_tokens,
        contexts=contexts,
        seed=seed,
        fim_rate=rate,
        spm_rate=0.5,
        isolated=isolated,
        fim_tokens=fim_tokens,
    )


def pieces(batch: Batch, context: int) -> list[tuple[list[int], list[int]]]:
    """(inputs, targets) of each piece; every row begins one."""
    assert set(range(0, len(batch.inputs), context)) <= set(batch.starts.tolist())
    ends = [*batch.starts[1:].tolist(), len(batch.inputs)]
    return [
        (batch.inputs[start:end].tolist(), batch.targets[start:end].tolist())
        for start, end in zip(batch.starts.tolist(), ends, strict=True)
    ]


def original(ids: list[int], tokenizer) -> bytes:
    """The bytes a piece stands for, its rearrangement undone."""
    if ids[0] != tokenizer.fim_prefix:
        return tokenizer.decode_bytes([token for token in ids if token != tokenizer.eot])
    assert ids[-1] == tokenizer.eot and ids.count(tokenizer.eot) == 1
    suffix, middle = ids.index(tokenizer.fim_suffix), ids.index(tokenizer.fim_middle)
    before, after = ids[suffix + 1 : middle], ids[middle + 1 : -1]
    if suffix > 1:  # PSM with a prefix
        return tokenizer.decode_bytes(ids[1:suffix]) + tokenizer.decode_bytes(after) + tokenizer.decode_bytes(before)
    return tokenizer.decode_bytes(after) + tokenizer.decode_bytes(before)  # SPM, or PSM without a prefix


def expected(lanes: Lanes, lane: int, epochs: int) -> bytes:
    """The lane's bytes, part by part, by its own order."""
    data = b""
    for epoch in range(epochs):
        for unit in lanes._order(lane, epoch):
            document, first = int(lanes._document[unit]), int(lanes._part[unit]) * lanes.part_tokens
            data += lanes.tokenizer.decode_bytes(
                lanes.corpus.document(document)[first : first + lanes.part_tokens].tolist()
            )
    return data


def test_a_document_with_special_tokens_is_never_rearranged(memory_corpus, tokenizer):
    # A commit: its tokens are no text, and would be lost where it is cut and encoded again.
    marks = [tokenizer.specials[name] for name in ("<commit_before>", "<commit_msg>", "<commit_after>")]
    words = [tokenizer.encode(text) for text in ("x = 1\n" * 5, "Say why", "x = 2\n" * 5)]
    ids = [token for mark, part in zip(marks, words, strict=True) for token in (mark, *part)]
    lanes = make(memory_corpus(TEXTS), tokenizer, rate=1.0)
    plain = np.asarray([token for token in ids if token not in marks], np.uint32)
    assert lanes._rearranged(0, "name", plain, 200)[0] == len(plain)
    assert lanes._rearranged(0, "name", np.asarray(ids, np.uint32), 200)[0] == 0


@settings(max_examples=25, deadline=None)
@given(
    contexts=st.lists(st.sampled_from([32, 64]), min_size=1, max_size=12),
    seed=st.integers(0, 5),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    fim_tokens=st.sampled_from([0, 1, 20]),
)
def test_every_byte_once_in_order_whatever_the_context(memory_corpus, tokenizer, contexts, seed, rate, fim_tokens):
    lanes = make(memory_corpus(TEXTS), tokenizer, seed=seed, rate=rate, fim_tokens=fim_tokens)
    positions = lanes.start()
    seen = [b""] * lanes.count
    for context in contexts:
        batch = lanes.take(positions, 256, context)
        assert len(batch.inputs) == 256
        found = pieces(batch, context)
        starts = batch.starts.tolist()
        for start, (ids, targets) in zip(starts, found, strict=True):
            lane = start // (256 // lanes.count)
            seen[lane] += original(ids, tokenizer)
            assert targets[:-1] == ids[1:]
            if ids[-1] == tokenizer.eot:
                assert targets[-1] == IGNORED
            else:  # Cut: the next token of the document is known, or its end.
                assert 0 <= targets[-1] < tokenizer.vocab_size
        positions = batch.after
    for lane in range(lanes.count):
        assert expected(lanes, lane, 30).startswith(seen[lane])
        assert seen[lane]


def test_a_cut_plain_piece_predicts_the_next_token_of_its_document(memory_corpus, tokenizer):
    lanes = make(memory_corpus(["abcdefghij" * 10]), tokenizer, batch_tokens=64, contexts=(16,), rate=0.0)
    batch = lanes.take(lanes.start(), 64, 16)
    stored = lanes.corpus.document(0).tolist()
    begin = int(lanes._part[lanes._order(0, 0)[0]]) * lanes.part_tokens
    following = [*stored, tokenizer.eot][begin + 1 :]
    length = min(len(following), 16)
    assert batch.targets[:length].tolist() == following[:length]


def test_without_isolation_the_end_of_text_predicts_what_follows_in_the_row(memory_corpus, tokenizer):
    corpus = memory_corpus(TEXTS)
    isolated, every = (
        make(corpus, tokenizer, isolated=flag).take((Position(),) * 4, 256, 64) for flag in (True, False)
    )
    assert isolated.inputs.tolist() == every.inputs.tolist()
    ends = np.flatnonzero(isolated.inputs == tokenizer.eot)
    assert len(ends)
    for end in ends:
        assert isolated.targets[end] == IGNORED
        assert every.targets[end] == (IGNORED if end % 64 == 63 else isolated.inputs[end + 1])


def test_short_documents_are_rearranged_whole_as_planned(memory_corpus, tokenizer):
    texts = [f"def f{index}(x):\n    return x + {index}\n" for index in range(20)]
    corpus = memory_corpus(texts)
    lanes = make(corpus, tokenizer, batch_tokens=128, contexts=(128,), seed=5)
    assert lanes.count == 1
    (first, *_), order = pieces(lanes.take(lanes.start(), 128, 128), 128), lanes._order(0, 0)
    document = int(lanes._document[order[0]])
    plan = fim.rearrange(
        texts[document], seed=5, epoch=0, doc_id=corpus.document_id(document), fim_rate=0.5, spm_rate=0.5
    )
    assert first[0] == [*fim.encode(plan, tokenizer), tokenizer.eot]


def test_rearranged_pieces_are_whole_in_their_rows(memory_corpus, tokenizer):
    lanes = make(memory_corpus(["word " * 400]), tokenizer, batch_tokens=512, contexts=(64,), rate=1.0)
    found = pieces(lanes.take(lanes.start(), 512, 64), 64)
    rearranged = [ids for ids, _ in found if ids[0] == tokenizer.fim_prefix]
    assert len(rearranged) >= 8
    sentinels = (tokenizer.fim_prefix, tokenizer.fim_suffix, tokenizer.fim_middle, tokenizer.eot)
    assert all(ids.count(token) == 1 for ids in rearranged for token in sentinels)


def test_short_pieces_put_more_gaps_into_a_row(memory_corpus, tokenizer):
    def gaps(fim_tokens: int) -> int:
        lanes = make(memory_corpus(["word " * 2000]), tokenizer, rate=1.0, fim_tokens=fim_tokens, contexts=(256,))
        batch = lanes.take(lanes.start(), 4096, 256)
        assert all(ids.count(tokenizer.fim_middle) == 1 for ids, _ in pieces(batch, 256) if len(ids) >= 20)
        return batch.inputs.tolist().count(tokenizer.fim_middle)

    # A row of 256 has one piece, or on average more than two of 256, 128, 64 and 32 tokens.
    assert gaps(0) == gaps(129) >= 16
    assert gaps(32) > 2 * gaps(0)


def test_a_rearranged_piece_has_each_of_its_lengths_as_often(memory_corpus, tokenizer):
    lanes = make(memory_corpus(TEXTS), tokenizer, fim_tokens=64)
    lengths = [lanes._shortened(0, str(name), 300) for name in range(3_000)]
    for length in (300, 150, 75):
        assert abs(lengths.count(length) - 1_000) < 5 * (3_000 * 2 / 9) ** 0.5
    assert set(lengths) == {300, 150, 75}
    # A room that has no half of 64 tokens is filled, and so is every room without the key.
    assert {lanes._shortened(0, str(name), 127) for name in range(50)} == {127}
    assert {make(memory_corpus(TEXTS), tokenizer)._shortened(0, str(name), 300) for name in range(50)} == {300}
    # No piece is so short that it cannot be rearranged.
    shortest = make(memory_corpus(TEXTS), tokenizer, fim_tokens=1)
    assert min(shortest._shortened(0, str(name), 300) for name in range(200)) == 300 >> 4 >= SMALLEST_REARRANGED


@pytest.mark.parametrize("data", [b"caf\xc3", b"\xff\xfe", b"ok \x80 ok"])
def test_a_document_that_is_not_utf8_stays_as_it_is(memory_corpus, tokenizer, data):
    lanes = make(memory_corpus([data]), tokenizer, batch_tokens=64, contexts=(64,), rate=1.0)
    (ids, _), *_ = pieces(lanes.take(lanes.start(), 64, 64), 64)
    assert ids == [*data, tokenizer.eot]


def test_plain_documents_are_not_decoded(memory_corpus, tokenizer, monkeypatch):
    lanes = make(memory_corpus(TEXTS), tokenizer, rate=0.0)
    monkeypatch.setattr(type(tokenizer), "decode_bytes", lambda *_: pytest.fail("decoded"))
    lanes.take(lanes.start(), 256, 64)


def test_positions_alone_resume_exactly(memory_corpus, tokenizer):
    lanes = make(memory_corpus(TEXTS), tokenizer)
    positions = lanes.start()
    for context in (32, 32, 64, 32, 64, 64, 32, 64, 64, 64, 64, 64):
        batch = lanes.take(positions, 256, context)
        fresh = make(memory_corpus(TEXTS), tokenizer)
        again = fresh.take(tuple(Position(**asdict(position)) for position in positions), 256, context)
        assert batch.inputs.tolist() == again.inputs.tolist()
        assert batch.targets.tolist() == again.targets.tolist()
        assert batch.starts.tolist() == again.starts.tolist()
        assert batch.after == again.after
        positions = batch.after
    assert max(position.epoch for position in positions) >= 1


def test_how_the_shards_lie_does_not_matter(memory_corpus, tokenizer):
    ids = [f"{index:032x}" for index in range(len(TEXTS))]
    turned = [(index * 3) % len(TEXTS) for index in range(len(TEXTS))]
    a = make(memory_corpus(TEXTS, ids), tokenizer)
    b = make(memory_corpus([TEXTS[i] for i in turned], [ids[i] for i in turned]), tokenizer)
    assert a.count == b.count > 1
    for context in (32, 64):
        assert a.take(a.start(), 256, context).inputs.tolist() == b.take(b.start(), 256, context).inputs.tolist()


def test_an_epoch_deals_every_part_once_and_in_another_order(memory_corpus, tokenizer):
    texts = [str(index) for index in range(300)] + ["long " * 2000, ""]
    lanes = make(memory_corpus(texts), tokenizer, batch_tokens=1024, contexts=(64, 256))
    assert lanes.count == 4
    counts = np.bincount(lanes._document, minlength=len(texts))
    assert counts[-1] == 0 and set(counts[:300]) == {1}
    assert counts[300] == -(-len(lanes.corpus.document(300)) // (PART_CONTEXTS * 256)) > 1
    for epoch in (0, 1):
        orders = [lanes._order(lane, epoch).tolist() for lane in range(4)]
        assert sorted(itertools.chain(*orders)) == list(range(len(lanes._document)))
        assert max(map(len, orders)) - min(map(len, orders)) <= 1
    assert lanes._order(0, 1).tolist() != lanes._order(0, 2).tolist()
    assert (
        make(memory_corpus(texts), tokenizer, seed=9, batch_tokens=1024, contexts=(64, 256))._order(0, 0).tolist()
        != make(memory_corpus(texts), tokenizer, batch_tokens=1024, contexts=(64, 256))._order(0, 0).tolist()
    )


@pytest.mark.parametrize(
    ("batch_tokens", "contexts", "parts", "lanes"),
    [
        (8192, (256, 1024), 10_000, 8),
        (8192, (256, 1024), 5, 4),  # 5 does not divide 8 sequences.
        (8192, (256, 1024), 0, 1),
        (4_194_304, (2048, 8192), 10**9, 512),
        (96, (32, 48), 10, 1),
        (64, (64,), 10, 1),
    ],
)
def test_lanes_give_whole_rows_at_every_context(batch_tokens, contexts, parts, lanes):
    assert lane_count(batch_tokens, contexts, parts) == lanes
    assert all(batch_tokens // lanes % context == 0 for context in contexts)
