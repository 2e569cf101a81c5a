"""Token shards: what is written is read back; anything else is refused or found by `verify`, never misread."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeshell.documents import token_shards
from codeshell.documents.token_shards import HEADER, HEADER_BYTES, MAGIC, TokenCorpus, TokenShard, TokenShardWriter
from codeshell.errors import UserError

HASH = hashlib.sha256(b"tokenizer").hexdigest()
Documents = list[tuple[str, list[int], int]]


def md5(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def write(path: Path, documents: Documents, vocab_size: int = 1000, tokenizer_hash: str = HASH) -> Path:
    with TokenShardWriter(path, vocab_size=vocab_size, tokenizer_hash=tokenizer_hash) as writer:
        for name, tokens, n_bytes in documents:
            writer.add(name, tokens, n_bytes)
    return path


def read(shard: TokenShard | TokenCorpus) -> Documents:
    return [
        (shard.document_id(i), shard.document(i).tolist(), shard.document_bytes(i)) for i in range(shard.n_documents)
    ]


EXAMPLE: Documents = [(md5(0), [1, 2, 999], 11), (md5(1), [], 0), (md5(2), [7] * 50, 2**40), (md5(3), [0], 1)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), vocab_size=st.sampled_from([1, 300, 65_536, 65_537, 70_020, 2**32]))
def test_documents_come_back(tmp_path: Path, data: st.DataObject, vocab_size: int) -> None:
    tokens = st.lists(st.integers(0, vocab_size - 1), max_size=9)
    lists = data.draw(st.lists(st.tuples(tokens, st.integers(0, 2**63)), max_size=6))
    documents = [(md5(i), ids, n_bytes) for i, (ids, n_bytes) in enumerate(lists)]
    shard = TokenShard(write(tmp_path / "a.tokens", documents, vocab_size), tokenizer_hash=HASH, verify=True)
    assert read(shard) == documents
    assert (len(shard), shard.vocab_size, shard.tokenizer_hash) == (len(documents), vocab_size, HASH)
    assert shard.n_tokens == sum(len(ids) for _, ids, _ in documents) == len(shard.tokens)
    assert shard.token_counts.tolist() == [len(ids) for _, ids, _ in documents]
    assert shard.byte_counts.tolist() == [n_bytes for _, _, n_bytes in documents]
    assert shard.dtype.itemsize == (2 if vocab_size <= 65_536 else 4)


def test_the_file_is_the_documented_layout(tmp_path: Path) -> None:
    # Read with struct alone, from the description at the top of the module.
    data = write(tmp_path / "a.tokens", EXAMPLE).read_bytes()
    fields = struct.unpack_from("<8sIIIIQQQ32sQQQQQI", data)
    assert fields[0] == b"\x89CSTOK\r\n"
    assert fields[1:5] == (1, 0x0A0B0C0D, 2, 0)
    assert fields[5:8] == (1000, 4, 54)
    assert fields[8].hex() == HASH
    assert fields[9:14] == (256, 368, 408, 472, 504)
    assert len(data) == 504
    assert struct.unpack_from("<54H", data, 256) == (1, 2, 999, *[7] * 50, 0)
    assert struct.unpack_from("<5Q", data, 368) == (0, 3, 3, 53, 54)
    assert data[408:472] == b"".join(bytes.fromhex(name) for name, _, _ in EXAMPLE)
    assert struct.unpack_from("<4Q", data, 472) == (11, 0, 2**40, 1)
    assert fields[14] == zlib.crc32(data[256:])
    assert struct.unpack_from("<I", data, 252)[0] == zlib.crc32(data[:252])


def test_an_empty_shard(tmp_path: Path) -> None:
    shard = TokenShard(write(tmp_path / "a.tokens", []), verify=True)
    assert (len(shard), shard.n_tokens, read(shard)) == (0, 0, [])
    assert shard.tokens.shape == (0,)
    with pytest.raises(IndexError):
        shard.document(0)


def test_views_are_read_only_and_outlive_the_mapping(tmp_path: Path) -> None:
    shard = TokenShard(write(tmp_path / "a.tokens", EXAMPLE))
    view = shard.document(2)
    assert view.base is not None
    assert not view.flags.writeable
    shard.release()
    del shard
    assert view.tolist() == [7] * 50


def test_equal_documents_give_equal_files(tmp_path: Path) -> None:
    one = write(tmp_path / "a.tokens", EXAMPLE).read_bytes()
    arrays = [(name, np.array(ids, dtype=np.uint32), n_bytes) for name, ids, n_bytes in EXAMPLE]
    assert write(tmp_path / "b.tokens", arrays).read_bytes() == one  # type: ignore[arg-type]


@pytest.mark.parametrize("position", range(HEADER_BYTES))
def test_every_flipped_header_byte_is_refused(position: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", EXAMPLE)
    good = path.read_bytes()
    for mask in (0x01, 0x80, 0xFF):
        data = bytearray(good)
        data[position] ^= mask
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            TokenShard(path)
        assert str(path) in str(caught.value) and "again" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_or_grown_to_any_length_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", EXAMPLE)
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(UserError, match="cut short" if length else "not a token shard"):
            TokenShard(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(UserError, match="too long"):
        TokenShard(path)


def test_every_flipped_payload_byte_is_found_by_verify_and_never_crashes_a_reader(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", EXAMPLE)
    good = path.read_bytes()
    for position in range(HEADER_BYTES, len(good)):
        data = bytearray(good)
        data[position] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            TokenShard(path, verify=True)
        shard = TokenShard(path)
        for i in range(len(shard)):
            try:
                assert len(shard.document(i)) <= shard.n_tokens
            except UserError as error:
                assert "damaged" in str(error)


def test_a_boundary_that_goes_back_is_refused_on_use(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", EXAMPLE)
    data = bytearray(path.read_bytes())
    data[368 + 8 + 1] = 0xFF  # the end of document 0 is now beyond all tokens
    path.write_bytes(data)
    shard = TokenShard(path)
    for i in (0, 1):
        with pytest.raises(UserError, match="boundaries are damaged"):
            shard.document(i)
    assert shard.document(2).tolist() == [7] * 50


def header(**changes: int) -> bytes:
    """A header with a valid checksum around fields that contradict the file."""
    names = ["magic", "version", "order", "token_bytes", "zero", "vocab_size", "documents", "tokens", "hash"]
    names += ["at_tokens", "at_boundaries", "at_ids", "at_lengths", "size", "crc"]
    values: dict[str, object] = dict(
        zip(names, (MAGIC, 1, 0x0A0B0C0D, 2, 0, 9, 0, 0, b"\0" * 32, 256, 256, 264, 264, 264, 0), strict=True)
    )
    fields = HEADER.pack(*(values | changes).values()).ljust(HEADER_BYTES - 4, b"\0")
    return fields + struct.pack("<I", zlib.crc32(fields)) + b"\0" * 8


def test_headers_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    path.write_bytes(header())
    assert len(TokenShard(path)) == 0
    huge = 2**64 - 1
    cases = [{"tokens": 1}, {"tokens": huge}, {"documents": 1}, {"documents": huge}, {"at_ids": 0}, {"size": huge}]
    cases += [{"token_bytes": 4}, {"token_bytes": 0}, {"order": 0x0D0C0B0A}, {"vocab_size": 70_000}]
    for case in cases:
        path.write_bytes(header(**case))
        with pytest.raises(UserError, match=r"contradicts|cut short"):
            TokenShard(path)
    path.write_bytes(header(version=3))
    with pytest.raises(UserError, match="version 3, this codeshell reads 1 and 2"):
        TokenShard(path)


def test_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    for data in (b"PAR1" + b"\0" * 600, b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 600):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(UserError, match="not a token shard"):
            TokenShard(tmp_path / "x")
    with pytest.raises(UserError, match="no such token shard"):
        TokenShard(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        TokenShard(tmp_path)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", EXAMPLE)
    other = write(tmp_path / "b.tokens", EXAMPLE, tokenizer_hash="ab" * 32)
    for make in (lambda: TokenShard(other, tokenizer_hash=HASH), lambda: TokenCorpus([path, other])):
        with pytest.raises(UserError, match=r"b\.tokens: made with tokenizer abababababab"):
            make()


def test_a_shard_that_is_gone_or_shorter_when_first_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", EXAMPLE)
    shard = TokenShard(path)
    os.truncate(path, 300)
    with pytest.raises(UserError, match="changed or gone"):
        shard.document(0)
    path.unlink()
    with pytest.raises(UserError, match="changed or gone"):
        shard.document(0)


def test_the_writer_refuses_what_it_cannot_store(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    bad: list[tuple[str, list[int], int]] = [
        (md5(0), [1000], 1),
        (md5(0), [-1], 1),
        (md5(0), [1], -1),
        (md5(0), [1], 2**64),
        ("abcd", [1], 1),
        ("not hexadecimal", [1], 1),
        (md5(0), [[1]], 1),  # type: ignore[list-item]
    ]
    for case in bad:
        with pytest.raises(ValueError):
            write(path, [case])
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="tokenizer_hash"):
        TokenShardWriter(path, vocab_size=5, tokenizer_hash="abcd")
    with pytest.raises(ValueError, match="vocab_size"):
        TokenShardWriter(path, vocab_size=0, tokenizer_hash=HASH)
    with pytest.raises(RuntimeError, match="with block"):
        TokenShardWriter(path, vocab_size=5, tokenizer_hash=HASH).add(md5(0), [1], 1)


def test_many_documents_at_once_are_the_same_file(tmp_path: Path) -> None:
    one = write(tmp_path / "one.tokens", EXAMPLE)
    with TokenShardWriter(tmp_path / "many.tokens", vocab_size=1000, tokenizer_hash=HASH) as shard:
        for part in (EXAMPLE[:2], [], EXAMPLE[2:]):
            keys, tokens, sizes = ([case[i] for case in part] for i in range(3))
            ids = np.array([token for document in tokens for token in document], np.uint32)
            shard.add_many(keys, ids, np.cumsum([0, *map(len, tokens)]), sizes)
    assert (tmp_path / "many.tokens").read_bytes() == one.read_bytes()


def test_what_does_not_fit_is_refused_in_many_documents(tmp_path: Path) -> None:
    good: dict[str, Any] = {"doc_ids": [md5(0), md5(1)], "tokens": np.array([1, 2, 3], np.uint32)}
    good |= {"offsets": np.array([0, 1, 3]), "n_bytes": [4, 5]}
    for name, value in [
        ("tokens", np.array([1, 2, 1000], np.uint32)),
        ("tokens", np.array([1, 2, 3], np.int64)),
        ("offsets", np.array([0, 1, 2])),
        ("offsets", np.array([0, 3])),
        ("offsets", np.array([0, 4, 3])),
        ("offsets", np.array([1, 2, 3])),
        ("doc_ids", [md5(0), md5(1)[:30]]),
        ("doc_ids", [md5(0), "z" * 32]),
        ("n_bytes", [4, -1]),
        ("n_bytes", [4]),
    ]:
        with (
            pytest.raises(ValueError),
            TokenShardWriter(tmp_path / "a.tokens", vocab_size=1000, tokenizer_hash=HASH) as shard,
        ):
            shard.add_many(**(good | {name: value}))
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="with block"):
        TokenShardWriter(tmp_path / "a.tokens", vocab_size=1000, tokenizer_hash=HASH).add_many(**good)


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", EXAMPLE)
    good = path.read_bytes()
    with (
        pytest.raises(RuntimeError, match="stop"),
        TokenShardWriter(path, vocab_size=5, tokenizer_hash=HASH) as writer,
    ):
        writer.add(md5(0), [1], 1)
        raise RuntimeError("stop")
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("when", [1, 3])
def test_a_full_disk_is_a_user_error(when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count(1)
    original = TokenShardWriter._write

    def write_until_full(self: TokenShardWriter, data: bytes) -> None:
        if next(calls) >= when:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, data)

    # Documents 1 and 2 are the first two writes; the third is the padding that `_finish` writes.
    monkeypatch.setattr(TokenShardWriter, "_write", write_until_full)
    with pytest.raises(UserError, match="disk is full"):
        write(tmp_path / "a.tokens", EXAMPLE[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a part of this path is a file"):
        write(tmp_path / "file" / "a.tokens", EXAMPLE)


def test_more_than_two_to_the_31_tokens(tmp_path: Path) -> None:
    # A sparse file: 5 GB of zeros in length, a few kB on the disk.
    n_tokens = 2**31 + 5
    sections = token_shards._sections(2, n_tokens, 2)
    fields = HEADER.pack(MAGIC, 1, token_shards.BYTE_ORDER, 2, 0, 300, 2, n_tokens, bytes.fromhex(HASH), *sections, 0)
    fields = fields.ljust(HEADER_BYTES - 4, b"\0")
    path = tmp_path / "a.tokens"
    with open(path, "wb") as file:
        file.write(fields + struct.pack("<I", zlib.crc32(fields)))
        file.seek(HEADER_BYTES + 2 * (n_tokens - 2))
        file.write(struct.pack("<2H", 17, 23))
        file.seek(sections[1])
        file.write(struct.pack("<3Q", 0, n_tokens - 2, n_tokens))
        file.write(bytes.fromhex(md5(0) + md5(1)))
        file.write(struct.pack("<2Q", 2**33, 2**34))
    shard = TokenShard(path)
    assert shard.document(1).tolist() == [17, 23]
    assert len(shard.document(0)) == n_tokens - 2
    assert shard.token_counts.tolist() == [n_tokens - 2, 2]
    assert (shard.document_id(1), shard.document_bytes(1)) == (md5(1), 2**34)


def test_a_corpus_is_its_shards_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_shards, "MAPPED_SHARDS", 2)
    documents = [(md5(i), [i] * (i % 4), i) for i in range(20)]
    cuts = [0, 3, 3, 10, 11, 20]  # the second shard is empty
    parts = [documents[a:b] for a, b in itertools.pairwise(cuts)]
    paths = [write(tmp_path / f"{i}.tokens", part) for i, part in enumerate(parts)]
    corpus = TokenCorpus(paths, HASH)
    assert read(corpus) == documents
    assert [read(corpus)[i] for i in (19, 0, 10, 4)] == [documents[i] for i in (19, 0, 10, 4)]
    assert (len(corpus), corpus.n_tokens) == (20, sum(len(ids) for _, ids, _ in documents))
    assert corpus.token_counts.tolist() == [len(ids) for _, ids, _ in documents]
    assert (corpus.vocab_size, corpus.tokenizer_hash) == (1000, HASH)
    assert sum(shard._map is not None for shard in corpus.shards) <= 2
    for bad in (-1, 20):
        with pytest.raises(IndexError):
            corpus.document(bad)
    assert read(pickle.loads(pickle.dumps(corpus))) == documents


def test_a_corpus_needs_a_shard_but_no_documents(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none given"):
        TokenCorpus([])
    corpus = TokenCorpus([write(tmp_path / "a.tokens", [])])
    assert (len(corpus), corpus.n_tokens, corpus.token_counts.tolist()) == (0, 0, [])


def test_many_shards_need_few_descriptors(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = write(tmp_path / "0.tokens", EXAMPLE)
    paths = [path]
    for i in range(1, 300):
        paths.append(Path(shutil.copy(path, tmp_path / f"{i}.tokens")))
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + token_shards.MAPPED_SHARDS + 20, hard))
    try:
        corpus = TokenCorpus(paths)
        assert all(corpus.document_id(i * 4) == md5(0) for i in range(300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_token_outside_the_vocabulary_is_found_though_the_checksum_is_right(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tokens", EXAMPLE)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES : HEADER_BYTES + 2] = struct.pack("<H", 1000)
    fields = list(HEADER.unpack_from(data))
    fields[14] = zlib.crc32(data[HEADER_BYTES:])
    head = HEADER.pack(*fields).ljust(HEADER_BYTES - 4, b"\0")
    path.write_bytes(head + struct.pack("<I", zlib.crc32(head)) + data[HEADER_BYTES:])
    with pytest.raises(UserError, match=r"a\.tokens: token 1000 is outside its vocabulary of 1000"):
        TokenShard(path, verify=True)


def test_shards_of_two_vocabularies_are_no_corpus(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{size}.tokens", EXAMPLE, size) for size in (1000, 2000)]
    with pytest.raises(UserError, match=r"2000\.tokens: a vocabulary of 2000, but .*1000\.tokens has one of 1000"):
        TokenCorpus(paths)


def test_a_shard_that_goes_away_is_one_line(tmp_path: Path) -> None:
    shard = TokenShard(write(tmp_path / "a.tokens", EXAMPLE))
    shard.path.unlink()
    with pytest.raises(UserError, match=r"a\.tokens: cannot be read"):
        shard.verify()
