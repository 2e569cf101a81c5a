"""The search over shards against its definition, and all that must not change its outcome."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers.dedup_search import answer, by_definition, cut, run, variants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeshell.dedup import candidates, search
from codeshell.dedup.in_memory import search_texts
from codeshell.dedup.parameters import Parameters

# Single rows in many bands: any pair at the threshold is a candidate (missed with probability 0.3^200), and sketches
# hide one in 30,000 of those exactly at it. So the outcome is the definition's.
CERTAIN = Parameters(bands=200, rows=1)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    mixed = [*variants(60, 200, seed=3), "", "  ", "", "short one", "short one", "一 二 三"]
    random.Random(1).shuffle(mixed)
    return mixed


@pytest.fixture(scope="module")
def expected(texts: list[str]) -> dict[int, tuple[int, float]]:
    blank = {"", "  "}
    known = by_definition([text for text in texts if text not in blank], 0.7)
    places = [i for i, text in enumerate(texts) if text not in blank]
    result = {places[d]: (places[k], j) for d, (k, j) in known.items()}
    first: dict[str, int] = {}
    for i, text in enumerate(texts):  # texts without tokens are alike only if their bytes are
        if text in blank and first.setdefault(text, i) != i:
            result[i] = (first[text], 1.0)
    return result


def test_the_outcome_is_the_definition(
    texts: list[str], expected: dict[int, tuple[int, float]], tmp_path: Path
) -> None:
    assert len(expected) > 60
    found = run(tmp_path, [texts], CERTAIN)
    assert answer(found) == expected
    assert found.documents == len(texts)
    assert found.counts["documents"] == len(texts)
    assert found.counts["bytes"] == sum(len(text.encode()) for text in texts)
    assert found.counts["verified_pairs"] <= found.counts["candidate_pairs"]


def test_in_memory_is_the_same(texts: list[str], expected: dict[int, tuple[int, float]]) -> None:
    seen: list[int] = []
    column = pa.chunked_array([texts[:31], texts[31:]], pa.large_string())
    dropped, kept, jaccard = search_texts(column, CERTAIN, threads=2, progress=seen.append)
    assert {int(d): (int(k), float(j)) for d, k, j in zip(dropped, kept, jaccard, strict=True)} == expected
    assert seen[-1] == len(texts)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bounds=st.lists(st.integers(0, 266), max_size=6), memory=st.sampled_from([1 << 14, 1 << 20, 1 << 30]))
def test_shards_and_memory_change_nothing(
    bounds: list[int],
    memory: int,
    texts: list[str],
    expected: dict[int, tuple[int, float]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bounds = [bound for bound in bounds if bound <= len(texts)]
    found = run(tmp_path_factory.mktemp("search"), cut(texts, bounds), CERTAIN, memory=memory)
    assert answer(found) == expected


@pytest.mark.parametrize("method", ["bands", "cpsjoin"])
def test_workers_change_nothing(method: str, texts: list[str], tmp_path: Path) -> None:
    parameters = Parameters(method=method)
    shards = cut(texts, [50, 51, 140])
    one, two = (run(tmp_path / str(n), shards, parameters, workers=n) for n in (1, 2))
    assert answer(one) == answer(two)
    assert one.counts == two.counts
    assert len(answer(one)) > 60


def test_chunks_of_the_decision_change_nothing(
    texts: list[str], expected: dict[int, tuple[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codeshell.dedup import decide

    for module in (candidates, decide):
        monkeypatch.setattr(module, "CHUNK", 10)
    assert answer(run(tmp_path, cut(texts, [100]), CERTAIN)) == expected


def test_a_killed_search_goes_on(
    texts: list[str],
    expected: dict[int, tuple[int, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = cut(texts, [60, 120, 180])
    steps = ((search, "sign_shard"), (candidates, "same_range"), (candidates, "edges_range"), (search, "sets_shard"))
    for module, name in steps:
        real, calls = getattr(module, name), []

        def dies(task, real=real, calls=calls):
            calls.append(task)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(task)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, dies)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, shards, CERTAIN, memory=1 << 14)
        done = len(list(tmp_path.glob("*.json")))
        with monkeypatch.context() as patch:
            calls.clear()
            patch.setattr(module, name, lambda task, real=real, calls=calls: (calls.append(task), real(task))[1])
            if name == "sets_shard":
                found = run(tmp_path, shards, CERTAIN, memory=1 << 14)
                assert len(calls) == 2  # the first two shards are not read again
                assert answer(found) == expected
        assert done


def test_another_memory_does_not_take_the_other_cut_for_done(
    texts: list[str], expected: dict[int, tuple[int, float]], tmp_path: Path
) -> None:
    for memory in (1 << 14, 1 << 13, 1 << 30):
        assert answer(run(tmp_path, [texts], CERTAIN, memory=memory)) == expected


def test_longest_first(texts: list[str], tmp_path: Path) -> None:
    wordy = [text for text in texts if text.split()]
    order = sorted(range(len(wordy)), key=lambda i: -len(wordy[i].encode()))
    found = run(tmp_path, cut(wordy, [70]), Parameters(bands=200, rows=1, keep_order="longest"))
    assert answer(found) == by_definition(wordy, 0.7, order)


@pytest.mark.parametrize("descending", [False, True])
def test_order_by_a_column(descending: bool, texts: list[str], tmp_path: Path) -> None:
    wordy = [text for text in texts if text.split()]
    choice = random.Random(2)
    values = [None if choice.random() < 0.1 else choice.randrange(30) for _ in wordy]
    sign = -1 if descending else 1
    order = sorted(range(len(wordy)), key=lambda i: (values[i] is None, sign * (values[i] or 0)))
    parameters = Parameters(bands=200, rows=1, keep_order="column:stars" + ":desc" * descending)
    found = run(tmp_path, cut(list(zip(wordy, values, strict=True)), [33, 90]), parameters)
    assert answer(found) == by_definition(wordy, 0.7, order)


def test_ties_go_by_id(tmp_path: Path) -> None:
    texts = variants(5, 40, seed=9)
    rows = [(text, 1) for text in texts]
    ids = [f"id{hash(text) & 0xFFFF}" for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (ids[i], i))
    found = run(tmp_path, [rows], Parameters(bands=200, rows=1, keep_order="column:same"), ids=True)
    assert answer(found) == by_definition(texts, 0.7, order)


def test_components_keep_one_of_each(texts: list[str], tmp_path: Path) -> None:
    from helpers.dedup_search import shingle_set

    wordy = [text for text in texts if text.split()]
    sets = [shingle_set(text) for text in wordy]
    label = list(range(len(wordy)))

    def root(i: int) -> int:
        while label[i] != i:
            i = label[i]
        return i

    for a in range(len(wordy)):
        for b in range(a):
            shared = len(sets[a] & sets[b])
            if shared / (len(sets[a]) + len(sets[b]) - shared) >= 0.7:
                x, y = sorted((root(a), root(b)))
                label[y] = x
    found = answer(run(tmp_path, cut(wordy, [99]), Parameters(bands=200, rows=1, cluster="components")))
    assert {d: k for d, (k, _) in found.items()} == {i: root(i) for i in range(len(wordy)) if root(i) != i}
    for document, (kept, jaccard) in found.items():
        shared = len(sets[document] & sets[kept])
        assert jaccard == pytest.approx(shared / (len(sets[document]) + len(sets[kept]) - shared))


def test_signature_and_no_verification(texts: list[str], tmp_path: Path) -> None:
    estimated = answer(run(tmp_path / "a", [texts], Parameters(verify="signature")))
    exact = answer(run(tmp_path / "b", [texts], Parameters()))
    assert len(set(estimated) ^ set(exact)) < 0.2 * len(exact)
    assert all(jaccard >= 0.7 for _, jaccard in estimated.values())
    unverified = run(tmp_path / "c", [texts], Parameters(verify="none"))
    assert len(answer(unverified)) > 0.8 * len(exact)
    same = np.isnan(unverified.decisions.jaccard)
    assert same.any()
    assert set(unverified.decisions.jaccard[~same]) <= {1.0}


def test_a_million_equal_documents_are_one(tmp_path: Path) -> None:
    column = pa.chunked_array([pa.array(["the same words again and again"] * 1_000_000, pa.large_string())])
    dropped, kept, jaccard = search_texts(column, Parameters())
    assert len(dropped) == 999_999
    assert not kept.any()
    assert (jaccard == 1.0).all()


def test_nothing_to_search(tmp_path: Path) -> None:
    assert answer(run(tmp_path / "a", [[], []], Parameters())) == {}
    assert answer(run(tmp_path / "b", [["", "x"]], Parameters())) == {}
    assert len(search_texts(pa.chunked_array([], pa.large_string()), Parameters()).dropped) == 0


def test_partitions_of_all_sizes() -> None:
    from codeshell.dedup.sign import ranges

    sizes = np.array([5, 0, 7, 20, 1, 1, 0])
    assert ranges(sizes, 10) == [(0, 2), (2, 3), (3, 4), (4, 7)]
    assert ranges(sizes, 1000) == [(0, 7)]
    assert ranges(np.zeros(4, np.int64), 1) == [(0, 4)]
