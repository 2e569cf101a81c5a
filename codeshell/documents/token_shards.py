"""Token shards: the tokens of many documents in one memory-mapped file, and several such files as one corpus.

    header      256 bytes, see `HEADER`; the rest of the 256 is zero
    tokens      uint16, or uint32 where the vocabulary exceeds 65,536; zeros up to a multiple of 8 bytes
    boundaries  uint64 x (documents + 1): document i is tokens[boundaries[i] : boundaries[i + 1]]
    ids         16 bytes x documents: the MD5 that is the document's id
    lengths     uint64 x documents: bytes of the document's text in UTF-8
    trained     version 2 alone: a bit per token, the lowest bit of a byte first; set where a model learns the token

Version 1 has no `trained`: every token is learned, and `<|endoftext|>` follows each document. Version 2 is for
conversations, of which a model learns the answers alone; what ends them is among their tokens.

Every number is little-endian. The header has a CRC-32 of its own, checked whenever a shard is opened, together with
the file's size and the place of each section, so a shard cut short, of another kind or of another version is refused
at once. `verify` reads the whole file against the second CRC-32 (4 GB/s with zlib here; BLAKE2b gave 0.8); training
does so once, before its first step. The file keeps the hash of its tokenizer: tokens of one tokenizer are never read
with another. No end-of-text is stored.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from codeshell.engine.files import atomic_path
from codeshell.errors import UserError

MAGIC = b"\x89CSTOK\r\n"
"""A byte that is not ASCII and a line end, as in PNG: a file that went through a text conversion is recognised."""

VERSION = 1
MASKED_VERSION = 2
BYTE_ORDER = 0x0A0B0C0D
HEADERS = {VERSION: struct.Struct("<8s I I I I 3Q 32s 5Q I"), MASKED_VERSION: struct.Struct("<8s I I I I 3Q 32s 6Q I")}
HEADER = HEADERS[VERSION]
"""Magic; version, byte order, bytes per token, zero; vocabulary, documents, tokens; SHA-256 of the tokenizer; where
tokens, boundaries, ids, lengths (and, in version 2, `trained`) begin, size of the file; CRC-32 of everything after the
header. The CRC-32 of the 256 bytes before their last 4 is in those last 4."""

HEADER_BYTES = 256
MAPPED_SHARDS = 128
"""Shards that a corpus keeps mapped at once; each holds a file descriptor, and 1024 is a common limit."""

_REMEDY = "delete the run's tokens/ and run the tokens stage again"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The unsigned type that a shard stores ids below `vocab_size` in."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def _sections(n_documents: int, n_tokens: int, token_bytes: int, masked: bool = False) -> tuple[int, ...]:
    """Where tokens, boundaries, ids, lengths and the mask (if there is one) begin, and the size of the file."""
    # Tokens are padded to 8 bytes, so that every section after them is aligned for its type.
    boundaries = HEADER_BYTES + -(-n_tokens * token_bytes // 8) * 8
    ids = boundaries + 8 * (n_documents + 1)
    lengths = ids + 16 * n_documents
    end = lengths + 8 * n_documents
    sections = (HEADER_BYTES, boundaries, ids, lengths, end)
    return (*sections, end + -(-n_tokens // 8)) if masked else sections


class TokenShardWriter:
    """Writes one shard: `with TokenShardWriter(path, vocab_size=…, tokenizer_hash=…) as shard: shard.add(…)`.

    The file appears whole when the block ends well, and not at all when it does not. Tokens go to the disk as they
    come; 32 bytes per document stay in memory, and a byte per token of a shard with a mask.
    """

    def __init__(self, path: str | Path, *, vocab_size: int, tokenizer_hash: str, masked: bool = False) -> None:
        """Prepare a shard; `masked` if it says of each token whether it is learned."""
        if not 0 < vocab_size <= 1 << 32:
            raise ValueError(f"vocab_size: {vocab_size} is not between 1 and 2^32")
        self._hash = bytes.fromhex(tokenizer_hash)
        if len(self._hash) != 32:
            raise ValueError(f"tokenizer_hash: {tokenizer_hash!r} is not a SHA-256 in hexadecimal")
        self.path = Path(path)
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self.n_tokens = 0
        self.masked = masked
        self.n_trained = 0
        self._trained: list[npt.NDArray[np.bool_]] = []
        self._ends = [0]
        self._ids = bytearray()
        self._lengths: list[int] = []
        self._crc = 0
        self._stack = contextlib.ExitStack()
        self._file: BinaryIO | None = None

    @property
    def n_documents(self) -> int:
        return len(self._lengths)

    def add(
        self,
        doc_id: str,
        tokens: Sequence[int] | npt.NDArray[Any],
        n_bytes: int,
        trained: Sequence[bool] | npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Append a document.

        Args:
            doc_id: MD5 of its text, 32 hexadecimal digits.
            tokens: its ids, each below `vocab_size`; may be empty.
            n_bytes: length of its text in UTF-8.
            trained: of each token whether it is learned; a shard with a mask needs it, another takes none.
        """
        if self._file is None:
            raise RuntimeError("TokenShardWriter: add documents inside its with block")
        key = bytes.fromhex(doc_id)
        if len(key) != 16:
            raise ValueError(f"doc_id: {doc_id!r} is not an MD5 in hexadecimal")
        if not 0 <= n_bytes < 1 << 64:
            raise ValueError(f"n_bytes: {n_bytes} is not a size")
        # (tokens,) in a signed type, so that a negative id is seen before it wraps around.
        array = np.asarray(tokens, dtype=np.int64)
        if array.ndim != 1:
            raise ValueError(f"tokens: shape {array.shape}, expected one dimension")
        if array.size and (int(array.min()) < 0 or int(array.max()) >= self.vocab_size):
            raise ValueError(f"tokens: an id is outside the vocabulary of {self.vocab_size}")
        if (trained is not None) != self.masked:
            raise ValueError(f"trained: {'missing in' if self.masked else 'given to'} a shard made with {self.masked=}")
        if trained is not None:
            bits = np.array(trained, dtype=np.bool_)
            if bits.shape != array.shape:
                raise ValueError(f"trained: {bits.shape} flags for {array.shape} tokens")
            self._trained.append(bits)
            self.n_trained += int(bits.sum())
        self._write(array.astype(self.dtype).tobytes())
        self.n_tokens += array.size
        self._ends.append(self.n_tokens)
        self._ids += key
        self._lengths.append(n_bytes)

    def add_many(
        self,
        doc_ids: Sequence[str],
        tokens: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        n_bytes: Sequence[int],
    ) -> None:
        """Append documents whose tokens lie end to end; the same bytes as `add` of each.

        Args:
            doc_ids: (documents,), as in `add`.
            tokens: (tokens,) uint32.
            offsets: (documents + 1,): where the tokens of each begin.
            n_bytes: (documents,), as in `add`.
        """
        if self._file is None:
            raise RuntimeError("TokenShardWriter: add documents inside its with block")
        if self.masked:
            raise ValueError("trained: missing in a shard with a mask; add its documents one by one")
        if len(doc_ids) != len(offsets) - 1 or len(doc_ids) != len(n_bytes) or offsets[-1] != len(tokens):
            raise ValueError(f"offsets: {len(offsets)} do not fit {len(doc_ids)} documents of {len(tokens)} tokens")
        if offsets[0] != 0 or np.any(np.diff(offsets) < 0):
            raise ValueError("offsets: must begin at 0 and not fall")
        keys = bytes.fromhex("".join(doc_ids))
        if len(keys) != 16 * len(doc_ids) or any(len(doc_id) != 32 for doc_id in doc_ids):
            raise ValueError("doc_ids: one is not an MD5 in hexadecimal")
        if any(not 0 <= size < 1 << 64 for size in n_bytes):
            raise ValueError("n_bytes: one is not a size")
        if tokens.dtype != np.uint32 or (tokens.size and int(tokens.max()) >= self.vocab_size):
            raise ValueError(f"tokens: an id is outside the vocabulary of {self.vocab_size}, or they are no uint32")
        self._write(tokens.astype(self.dtype).tobytes())
        self._ends += (offsets[1:] + self.n_tokens).tolist()
        self.n_tokens += tokens.size
        self._ids += keys
        self._lengths += n_bytes

    def _write(self, data: bytes | bytearray) -> None:
        assert self._file is not None
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)

    def _finish(self) -> None:
        assert self._file is not None
        # The sections after the tokens, which are written already: padding, boundaries, ids, lengths, mask.
        sections = _sections(self.n_documents, self.n_tokens, self.dtype.itemsize, self.masked)
        self._write(b"\0" * (sections[1] - HEADER_BYTES - self.n_tokens * self.dtype.itemsize))
        self._write(np.array(self._ends, dtype="<u8").tobytes())
        self._write(self._ids)
        self._write(np.array(self._lengths, dtype="<u8").tobytes())
        if self.masked:
            bits = np.concatenate([np.zeros(0, np.bool_), *self._trained])
            self._write(np.packbits(bits, bitorder="little").tobytes())
        # The header comes last, because it holds the checksum of all the rest.
        version = MASKED_VERSION if self.masked else VERSION
        fields = (
            HEADERS[version]
            .pack(
                MAGIC,
                version,
                BYTE_ORDER,
                self.dtype.itemsize,
                0,
                self.vocab_size,
                self.n_documents,
                self.n_tokens,
                self._hash,
                *sections,
                self._crc,
            )
            .ljust(HEADER_BYTES - 4, b"\0")
        )
        self._file.seek(0)
        self._file.write(fields + struct.pack("<I", zlib.crc32(fields)))
        self._file.close()

    def __enter__(self) -> TokenShardWriter:
        temporary = self._stack.enter_context(atomic_path(self.path))
        try:
            self._file = self._stack.enter_context(open(temporary, "wb", buffering=1 << 20))
            self._file.write(b"\0" * HEADER_BYTES)  # the place of the header
        except BaseException:
            if not self._stack.__exit__(*sys.exc_info()):
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            if not self._stack.__exit__(*sys.exc_info()):
                raise
        else:
            self._stack.__exit__(kind, error, trace)
        finally:
            self._file = None


class TokenShard:
    """One shard, mapped read-only on first use.

    Args:
        path: the file.
        tokenizer_hash: refuse a shard of another tokenizer.
        verify: check the whole file's checksum now, not only the header's.

    Raises:
        UserError: missing, cut short, foreign, of another version, damaged, or of another tokenizer.

    Attributes:
        n_documents, n_tokens, vocab_size: counts.
        dtype: of the tokens, uint16 or uint32.
        tokenizer_hash: SHA-256 in hexadecimal.
        masked: whether it says of each token if a model learns it.
    """

    def __init__(self, path: str | Path, *, tokenizer_hash: str | None = None, verify: bool = False) -> None:
        self.path = Path(path)
        # Only the header is read now; a corpus of many shards opens quickly.
        try:
            with open(self.path, "rb") as file:
                head = file.read(HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such token shard; run the tokens stage first") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error}); give a readable token shard") from None
        self._read_header(head, size)
        if tokenizer_hash is not None and tokenizer_hash != self.tokenizer_hash:
            raise UserError(
                f"{self.path}: made with tokenizer {self.tokenizer_hash[:12]}, not {tokenizer_hash[:12]}; "
                "run the tokens stage again with this tokenizer, or use the one it was made with"
            )
        self._map: tuple[npt.NDArray[Any], ...] | None = None
        if verify:
            self.verify()

    def _read_header(self, head: bytes, size: int) -> None:
        if head[:8] != MAGIC[: len(head)] or not head:
            raise UserError(f"{self.path}: not a token shard of codeshell; {_REMEDY}")
        if len(head) < HEADER_BYTES:
            raise UserError(f"{self.path}: cut short at {size} bytes, within its header; {_REMEDY}")
        # The version comes before the checksum, so that a later format may move everything after it.
        version = struct.unpack_from("<I", head, 8)[0]
        if version not in HEADERS:
            known = " and ".join(map(str, HEADERS))
            raise UserError(f"{self.path}: token shard version {version}, this codeshell reads {known}; {_REMEDY}")
        if struct.unpack_from("<I", head, HEADER_BYTES - 4)[0] != zlib.crc32(head[: HEADER_BYTES - 4]):
            raise UserError(f"{self.path}: its header is damaged (checksum); {_REMEDY}")
        # From here on the header is what was written; its numbers must still agree with one another and the file.
        fields = HEADERS[version].unpack_from(head)
        self.masked: bool = version == MASKED_VERSION
        order, token_bytes = fields[2:4]
        self.vocab_size: int = fields[5]
        self.n_documents: int = fields[6]
        self.n_tokens: int = fields[7]
        self.tokenizer_hash: str = fields[8].hex()
        self._sections: tuple[int, ...] = fields[9:-1]
        self._crc: int = fields[-1]
        self.dtype = token_dtype(self.vocab_size)
        consistent = _sections(self.n_documents, self.n_tokens, token_bytes, self.masked)
        if order != BYTE_ORDER or token_bytes != self.dtype.itemsize or self._sections != consistent:
            raise UserError(f"{self.path}: its header contradicts itself; {_REMEDY}")
        if size != self._sections[-1]:
            problem = "cut short" if size < self._sections[-1] else "too long"
            raise UserError(f"{self.path}: {problem}, {size} bytes where {self._sections[-1]} belong; {_REMEDY}")

    def _mapped(self) -> tuple[npt.NDArray[Any], ...]:
        """Tokens, boundaries, ids, lengths and the bits of the mask (none without one) as read-only views of the
        file."""
        if self._map is None:
            try:
                with open(self.path, "rb") as file:
                    data = mmap.mmap(file.fileno(), self._sections[-1], access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise UserError(f"{self.path}: changed or gone since it was opened ({error}); {_REMEDY}") from None
            # Views share the mapping, which lives as long as any of them.
            tokens, boundaries, ids, lengths, end = self._sections[:5]
            views = (
                np.frombuffer(data, self.dtype, self.n_tokens, tokens),
                np.frombuffer(data, "<u8", self.n_documents + 1, boundaries),
                np.frombuffer(data, "V16", self.n_documents, ids),
                np.frombuffer(data, "<u8", self.n_documents, lengths),
                np.frombuffer(data, np.uint8, self._sections[-1] - end, end),
            )
            # A cheap check of the ends; `document` checks each pair when it is used.
            if int(views[1][0]) != 0 or int(views[1][-1]) != self.n_tokens:
                raise UserError(f"{self.path}: its document boundaries are damaged; {_REMEDY}")
            self._map = views
        return self._map

    def release(self) -> None:
        """Forget the mapping; views handed out stay valid, and the next use maps the file again."""
        self._map = None

    def verify(self) -> None:
        """Read the whole file and compare its checksum; a `UserError` if a bit differs, or a token is none."""
        crc = 0
        try:
            with open(self.path, "rb") as file:
                file.seek(HEADER_BYTES)
                while block := file.read(1 << 22):
                    crc = zlib.crc32(block, crc)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error}); {_REMEDY}") from None
        if crc != self._crc:
            raise UserError(f"{self.path}: its content is damaged (checksum); {_REMEDY}")
        # A file that was written wrong has the right checksum too.
        if np.any(np.diff(self.boundaries.astype(np.int64)) < 0):
            raise UserError(f"{self.path}: its document boundaries are damaged; {_REMEDY}")
        if self.n_tokens and (largest := int(self.tokens.max())) >= self.vocab_size:
            raise UserError(f"{self.path}: token {largest} is outside its vocabulary of {self.vocab_size}; {_REMEDY}")

    @property
    def tokens(self) -> npt.NDArray[Any]:
        """All tokens, documents end to end: a read-only view of `n_tokens` ids."""
        return self._mapped()[0]

    @property
    def boundaries(self) -> npt.NDArray[np.uint64]:
        """`n_documents + 1` positions in `tokens`."""
        return self._mapped()[1]

    @property
    def byte_counts(self) -> npt.NDArray[np.uint64]:
        """Bytes of each document's text."""
        return self._mapped()[3]

    @property
    def token_counts(self) -> npt.NDArray[np.int64]:
        """Tokens of each document."""
        ends = self.boundaries.astype(np.int64)
        return ends[1:] - ends[:-1]

    def _check(self, index: int) -> int:
        if not 0 <= index < self.n_documents:
            raise IndexError(f"document {index} of {self.n_documents}")
        return index

    def document(self, index: int) -> npt.NDArray[Any]:
        """Tokens of one document, a read-only view."""
        # Damaged boundaries must not become a view of other memory.
        boundaries = self._mapped()[1]
        start, end = int(boundaries[self._check(index)]), int(boundaries[index + 1])
        if not start <= end <= self.n_tokens:
            raise UserError(f"{self.path}: its document boundaries are damaged; {_REMEDY}")
        return self._mapped()[0][start:end]

    def document_id(self, index: int) -> str:
        """MD5 of one document's text, in hexadecimal."""
        return bytes(self._mapped()[2][self._check(index)]).hex()

    def document_bytes(self, index: int) -> int:
        """Length of one document's text in UTF-8."""
        return int(self._mapped()[3][self._check(index)])

    def trained(self, index: int) -> npt.NDArray[np.bool_] | None:
        """Of each token of one document whether a model learns it, (tokens,); None where it learns all of them."""
        if not self.masked:
            return None
        size = len(self.document(index))
        start = int(self.boundaries[index])
        # The bits of whole bytes, of which the first few may be those of the document before.
        bits = np.unpackbits(self._mapped()[4][start // 8 : -(-(start + size) // 8)], bitorder="little")
        return bits[start % 8 : start % 8 + size].astype(np.bool_)

    @property
    def n_trained(self) -> int:
        """Tokens that a model learns."""
        return int(np.unpackbits(self._mapped()[4], bitorder="little").sum()) if self.masked else self.n_tokens

    def __len__(self) -> int:
        return self.n_documents

    def __reduce__(self) -> tuple[type[TokenShard], tuple[Path]]:
        return TokenShard, (self.path,)


class TokenCorpus:
    """Several shards as one sequence of documents, in the order of `paths`.

    Raises:
        UserError: no shard, a shard that cannot be read, or shards of different tokenizers.
    """

    def __init__(self, paths: Sequence[str | Path], tokenizer_hash: str | None = None) -> None:
        if not paths:
            raise UserError("token shards: none given; run the tokens stage first")
        self.shards: list[TokenShard] = []
        # Every shard must be of the first one's tokenizer, if none is asked for.
        for path in paths:
            self.shards.append(TokenShard(path, tokenizer_hash=tokenizer_hash))
            tokenizer_hash = self.shards[0].tokenizer_hash
        self.tokenizer_hash = self.shards[0].tokenizer_hash
        self.vocab_size = self.shards[0].vocab_size
        for shard in self.shards:
            if shard.vocab_size != self.vocab_size:
                raise UserError(
                    f"{shard.path}: a vocabulary of {shard.vocab_size}, but {self.shards[0].path} has one of "
                    f"{self.vocab_size}; {_REMEDY}"
                )
        # (shards + 1,): the number of the first document of each shard.
        self._starts = [0]
        for shard in self.shards:
            self._starts.append(self._starts[-1] + shard.n_documents)
        self.n_documents = self._starts[-1]
        self.n_tokens = sum(shard.n_tokens for shard in self.shards)
        self.masked = any(shard.masked for shard in self.shards)
        self._recent: OrderedDict[int, TokenShard] = OrderedDict()

    def _find(self, index: int) -> tuple[TokenShard, int]:
        if not 0 <= index < self.n_documents:
            raise IndexError(f"document {index} of {self.n_documents}")
        number = bisect_right(self._starts, index) - 1
        self._use(number)
        return self.shards[number], index - self._starts[number]

    def _use(self, number: int) -> None:
        # The mapping that was used longest ago goes first.
        self._recent[number] = self.shards[number]
        self._recent.move_to_end(number)
        if len(self._recent) > MAPPED_SHARDS:
            self._recent.popitem(last=False)[1].release()

    def document(self, index: int) -> npt.NDArray[Any]:
        """Tokens of one document, a read-only view."""
        shard, local = self._find(index)
        return shard.document(local)

    def document_id(self, index: int) -> str:
        """MD5 of one document's text, in hexadecimal."""
        shard, local = self._find(index)
        return shard.document_id(local)

    def document_bytes(self, index: int) -> int:
        """Length of one document's text in UTF-8."""
        shard, local = self._find(index)
        return shard.document_bytes(local)

    def trained(self, index: int) -> npt.NDArray[np.bool_] | None:
        """Of each token of one document whether a model learns it, (tokens,); None where it learns all of them."""
        shard, local = self._find(index)
        return shard.trained(local)

    @property
    def n_trained(self) -> int:
        """Tokens that a model learns; the `<|endoftext|>` after documents without a mask are not counted."""
        return sum(shard.n_trained for shard in self.shards)

    @property
    def token_counts(self) -> npt.NDArray[np.int64]:
        """Tokens of each document of the corpus."""
        parts = []
        for number, shard in enumerate(self.shards):
            self._use(number)
            parts.append(shard.token_counts)
        return np.concatenate(parts)

    def __len__(self) -> int:
        return self.n_documents

    def __reduce__(self) -> tuple[type[TokenCorpus], tuple[list[Path], str]]:
        return TokenCorpus, ([shard.path for shard in self.shards], self.tokenizer_hash)
