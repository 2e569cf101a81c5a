"""A byte-level BPE tokenizer whose text side cannot produce a special token.

The ids are those of Hugging Face `tokenizers` (codeshell/tokenizer/encoder.py makes them). The encoder is built from
the file's vocabulary, merges and pre-tokenizer alone. It gets no added tokens (which `tokenizers` would find inside the
text), and no post-processor, truncation, padding, dropout or unknown token, because each of them would change the ids
of a text. Code that means a special token places it by id. Decoding looks up the bytes of each id in a table, so it is
exact for every id list.

A tokenizer whose vocabulary has no symbol for some byte drops that byte (the released CodeShell tokenizer lacks 42 of
256). `missing_bytes` names these bytes, `lost_bytes` counts them in a text, and `encode` warns once when it drops one.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codeshell.documents.templates import END_OF_TEXT
from codeshell.documents.texts import TextBuffers
from codeshell.engine.downloads import fault, read_downloaded_text
from codeshell.engine.files import make_directory, write_json, write_text
from codeshell.errors import UserError
from codeshell.tokenizer.encoder import BYTE_SYMBOLS as BYTE_SYMBOLS
from codeshell.tokenizer.encoder import NativeEncoder, make_encoder
from codeshell.tokenizer.encoder import tokenizer_threads as tokenizer_threads

PAD_TO = 128
"""A model's embedding has a multiple of this many rows, so that the matrix units get whole tiles."""

MODEL_MAX_LENGTH = 8192
"""Context of the released model; Hugging Face tools warn about longer inputs."""


class Tokenizer:
    """Text to ids and back.

    Attributes:
        specials: id of each special token, in order of id.
        vocab_size: number of ids, those of special tokens included: one more than the highest. What a model's config
            calls `vocab_size` is `padded_vocab_size`; `base_vocab_size` leaves the special tokens out.
        missing_bytes: bytes without a symbol in the vocabulary; `encode` cannot represent them.
        hash: SHA-256 (hexadecimal) of everything that decides which ids a text gets, and of the special tokens.
    """

    def __init__(self, source: str, origin: str = "tokenizer") -> None:
        """Build from the text of a `tokenizer.json`; `origin` names it in errors.

        Raises:
            UserError: not JSON, not byte-level BPE, or something in it makes encoding lossy or ambiguous.
        """
        # `_source` is written back by `save` as it was read; the encoder is built from a reduced copy.
        tree = _parse(source, origin)
        self._source = source
        self.specials: dict[str, int] = dict(
            sorted(((token["content"], token["id"]) for token in tree["added_tokens"]), key=lambda item: item[1])
        )
        _check_specials(self.specials, tree["model"], origin)
        core = _encoding_core(tree, origin)
        vocabulary: dict[str, int] = core["model"]["vocab"]
        self._encoder = make_encoder(core, origin)
        # Ids may have holes; the embedding needs a row for each up to the highest.
        self.vocab_size = 1 + max([*vocabulary.values(), *self.specials.values()])
        self.missing_bytes = bytes(sorted(byte for symbol, byte in BYTE_SYMBOLS.items() if symbol not in vocabulary))
        self.hash = _hash(core, self.specials)
        # Decoding: bytes by id, and the names of the ids that have none.
        self._table = _byte_table(vocabulary, self.vocab_size)
        self._special_names = {index: name for name, index in self.specials.items()}
        self._warned = False

    @staticmethod
    def load(path: str | Path) -> Tokenizer:
        """Read a `tokenizer.json`, or the one in a directory.

        Raises:
            UserError: no such file, or not a byte-level BPE tokenizer.
        """
        if not str(path):
            raise UserError("tokenizer: an empty name; give a tokenizer.json, or a directory that holds one")
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.exists():
            raise UserError(f"{file}: no such tokenizer; give a tokenizer.json, or a directory that holds one")
        source = read_downloaded_text(file)
        # What begins like no JSON object may be a pointer or a web page in its place.
        if not source.lstrip().startswith("{") and (wrong := fault(file)):
            raise UserError(f"{file}: {wrong}")
        return Tokenizer(source, str(file))

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and the two files that Hugging Face tools read beside it.

        `tokenizer.json` is written last: a directory that has it is complete. The declared class is the generic fast
        tokenizer, because transformers' GPT2Tokenizer (which the released files declare) replaces the pre-tokenizer
        by GPT-2's and so joins digits.
        """
        directory = make_directory(directory)
        # One token has every role; a tokenizer without it declares none.
        roles = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END_OF_TEXT)
        names: dict[str, Any] = dict(roles) if END_OF_TEXT in self.specials else {}
        names["additional_special_tokens"] = list(self.specials)
        config = names | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            # Both would change text: a space before the first word; spaces before punctuation removed.
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": MODEL_MAX_LENGTH,
        }
        write_json(directory / "special_tokens_map.json", names)
        write_json(directory / "tokenizer_config.json", config)
        write_text(directory / "tokenizer.json", self._source)

    def encode(self, text: str) -> list[int]:
        """Ids of a text: never a special one, and nothing added before or after.

        Raises:
            ValueError: the text holds a lone surrogate, which has no UTF-8 form.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on as many threads as `tokenizer_threads` allows."""
        ids, offsets = self.encode_buffers(_buffers(texts))
        found = ids.tolist()
        return [found[begin:end] for begin, end in pairwise(offsets.tolist())]

    def encode_buffers(self, texts: TextBuffers) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """`encode` of texts that lie in one buffer, without a Python object for any of them.

        Returns:
            The ids of all texts end to end, (ids,), and where those of each text begin: (texts + 1,).

        Raises:
            ValueError: a text that is not UTF-8.
        """
        # Counting is a pass over the text, so it ends with the warning.
        if self.missing_bytes and not self._warned:
            first, last = int(texts.offsets[0]), int(texts.offsets[-1])
            lost = last - first - len(bytes(texts.data[first:last]).translate(None, self.missing_bytes))
            if lost:
                self._warned = True
                warnings.warn(
                    f"the tokenizer has no symbol for {len(self.missing_bytes)} of the 256 bytes and drops them: "
                    f"{lost} in this text (said once; Tokenizer.lost_bytes counts them)",
                    stacklevel=2,
                )
        return self._encoder.encode(texts)

    @property
    def native(self) -> bool:
        """Whether the C++ of this package encodes, and not the `tokenizers` library."""
        return isinstance(self._encoder, NativeEncoder)

    def decode(self, ids: Iterable[int], *, specials: bool = True) -> str:
        """Text of an id list. Bytes that are not UTF-8 become U+FFFD, and no space is ever removed.

        Args:
            ids: token ids.
            specials: whether special tokens are written out or skipped.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        return self._join(ids, specials).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of an id list; special tokens are skipped.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        return self._join(ids, False)

    def _join(self, ids: Iterable[int], specials: bool) -> bytes:
        """The bytes of an id list, with the names of special tokens or without them."""
        parts = []
        for index in ids:
            # Negative ids would index the table from its end.
            part = self._table[index] if 0 <= index < self.vocab_size else None
            if part is None:
                name = self._special_names.get(int(index))
                if name is None:
                    raise ValueError(f"ids: {index} is not in the vocabulary of {self.vocab_size} tokens")
                part = name.encode() if specials else b""
            parts.append(part)
        return b"".join(parts)

    def lost_bytes(self, text: str) -> int:
        """How many bytes of a text `encode` drops; always 0 for a tokenizer without `missing_bytes`."""
        if not self.missing_bytes:
            return 0
        # Lone surrogates, which `encode` refuses, count as their replacement here.
        data = text.encode("utf-8", errors="replace")
        return len(data) - len(data.translate(None, self.missing_bytes))

    def fim_prompt(self, prefix: str, suffix: str, mode: Literal["psm", "spm"] = "psm") -> list[int]:
        """Ids of a prompt for the middle between two texts, in StarCoder's formats.

        `psm` is `<fim_prefix>prefix<fim_suffix>suffix<fim_middle>`; `spm` (variant 2 of Bavarian et al. 2022) is
        `<fim_prefix><fim_suffix>suffix<fim_middle>prefix`.
        """
        # Encoded separately, as in training: no token spans the cursor.
        before, after = self.encode_batch([prefix, suffix])
        if mode == "psm":
            return [self.fim_prefix, *before, self.fim_suffix, *after, self.fim_middle]
        if mode == "spm":
            return [self.fim_prefix, self.fim_suffix, *after, self.fim_middle, *before]
        raise ValueError(f"mode: {mode!r} is neither 'psm' nor 'spm'")

    def special_id(self, name: str) -> int:
        """Id of a special token; a `UserError` where this tokenizer has none of that name."""
        try:
            return self.specials[name]
        except KeyError:
            raise UserError(
                f"{name}: the tokenizer has no such special token; use one trained by `codeshell tokenizer train`"
            ) from None

    @property
    def eot(self) -> int:
        return self.special_id(END_OF_TEXT)

    @property
    def fim_prefix(self) -> int:
        return self.special_id("<fim_prefix>")

    @property
    def fim_middle(self) -> int:
        return self.special_id("<fim_middle>")

    @property
    def fim_suffix(self) -> int:
        return self.special_id("<fim_suffix>")

    @property
    def fim_pad(self) -> int:
        return self.special_id("<fim_pad>")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of a model's embedding, its config's `vocab_size`: our `vocab_size` rounded up to a multiple of 128."""
        return -(-self.vocab_size // PAD_TO) * PAD_TO

    @cached_property
    def base_vocab_size(self) -> int:
        """Number of tokens that text can yield: the vocabulary without the special tokens."""
        return sum(part is not None for part in self._table)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str]]:
        return Tokenizer, (self._source,)


def _buffers(texts: Sequence[str]) -> TextBuffers:
    """The texts in one buffer.

    Raises:
        ValueError: a lone surrogate.
    """
    try:
        parts = [str.encode(text) for text in texts]
    except UnicodeEncodeError as error:
        raise ValueError(f"texts: {error.reason} at {error.start}; replace lone surrogates first") from None
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return TextBuffers(b"".join(parts), offsets)


def _parse(source: str, origin: str) -> dict[str, Any]:
    """Parse a `tokenizer.json`, and check the parts that everything below relies on."""
    # The model: BPE with a vocabulary of ids.
    try:
        tree: dict[str, Any] = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: not valid JSON ({error}); give a tokenizer.json, or download it again") from None
    model: Any = tree.get("model") if type(tree) is dict else None  # JSON may also be a list or a number
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or "merges" not in model:
        raise UserError(f"{origin}: not a BPE tokenizer.json (no model with vocab and merges); give a byte-level BPE")
    if model.get("type", "BPE") != "BPE" or not model["vocab"]:
        raise UserError(f"{origin}: the model is {model.get('type')}, or empty; give a byte-level BPE tokenizer")
    # Ids index the table of bytes, so they must be whole numbers.
    if any(not isinstance(index, int) or index < 0 for index in model["vocab"].values()):
        raise UserError(f"{origin}: an id of the vocabulary is not a whole number from 0; give a valid tokenizer.json")
    # Added tokens may be absent or null; from here on they are a list of objects with id and content.
    added = tree.setdefault("added_tokens", None) or []
    if any(not isinstance(token, dict) or {"id", "content"} - set(token) for token in added):
        raise UserError(f"{origin}: added_tokens without id or content; give a valid tokenizer.json")
    tree["added_tokens"] = added
    # Merges in one form, pairs.
    try:
        model["merges"] = [_merge_pair(merge) for merge in model["merges"]]
    except (TypeError, ValueError):
        raise UserError(f"{origin}: a merge is not a pair of tokens; give a valid tokenizer.json") from None
    return tree


def _merge_pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge is `"a b"` in older files and `["a", "b"]` in newer ones."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second


def _check_specials(specials: dict[str, int], model: dict[str, Any], origin: str) -> None:
    """Refuse a special token that a text could spell, and two tokens of one id."""
    vocabulary = model["vocab"]
    # A special token may be listed in the vocabulary, too, if it has the same id there (checked below).
    ids = [index for name, index in vocabulary.items() if name not in specials] + list(specials.values())
    if len(set(ids)) != len(ids):
        raise UserError(f"{origin}: two tokens share an id; give a consistent tokenizer.json")
    # What merging can produce. A special token among it would come out of an ordinary text.
    products = {first + second for first, second in model["merges"]}
    for name, index in specials.items():
        if name in products:
            raise UserError(f"{origin}: its merges spell the special token {name}, so text could inject it; retrain it")
        if vocabulary.get(name, index) != index:
            raise UserError(f"{origin}: two ids for {name}; give a consistent tokenizer.json")


def _encoding_core(tree: dict[str, Any], origin: str) -> dict[str, Any]:
    """The part of a `tokenizer.json` that decides the ids of a text, in one canonical form, ready to build from."""
    # Refuse what would make encoding lossy; drop the rest silently, because it does not change a text's ids.
    model = tree["model"]
    if tree.get("normalizer") is not None:
        raise UserError(f"{origin}: has a normaliser, so text would not survive encoding; use a tokenizer without one")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise UserError(f"{origin}: marks subwords with affixes; give a byte-level BPE tokenizer")
    # ByteLevel is what maps bytes to symbols: none would leave bytes out, two would map them twice.
    specials = {token["content"] for token in tree["added_tokens"]}
    steps = _pre_tokenizer_steps(tree.get("pre_tokenizer"), origin)
    if sum(step["type"] == "ByteLevel" for step in steps) != 1:
        raise UserError(f"{origin}: the pre-tokenizer is not byte-level; give a byte-level BPE tokenizer")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": bool(model.get("ignore_merges", False)),
            # Some files list special tokens in the vocabulary too; text must not find them there.
            "vocab": {name: index for name, index in model["vocab"].items() if name not in specials},
            "merges": model["merges"],
        },
    }


def _pre_tokenizer_steps(tree: Any, origin: str) -> list[dict[str, Any]]:
    """The pre-tokenizer as a flat list, reduced to the fields that change where text is cut.

    Only steps that keep every character are accepted: they cut text, and no more.
    """
    kind = tree.get("type") if isinstance(tree, dict) else None
    if kind == "Sequence":
        return [step for part in tree.get("pretokenizers", []) for step in _pre_tokenizer_steps(part, origin)]
    if kind == "Digits":
        return [{"type": kind, "individual_digits": bool(tree.get("individual_digits", False))}]
    # With add_prefix_space it would insert a space, and a Split that is "Removed" drops what it matches.
    if kind == "ByteLevel" and not tree.get("add_prefix_space", True):
        # trim_offsets concerns offsets only; it is fixed so that equal encoders have equal hashes.
        use_regex = bool(tree.get("use_regex", True))
        return [{"type": kind, "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}]
    if kind == "Split" and tree.get("behavior") != "Removed":
        return [{"type": kind} | {name: tree.get(name) for name in ("pattern", "behavior", "invert")}]
    raise UserError(
        f"{origin}: pre-tokenizer {kind} adds, drops or changes text, so decoding would not give it back; "
        "use a byte-level BPE tokenizer without add_prefix_space"
    )


def _hash(core: dict[str, Any], specials: dict[str, int]) -> str:
    """SHA-256 over the canonical form: the order and layout of the file do not matter, every id does."""
    model = core["model"]
    parts = {
        "vocabulary": sorted((index, name) for name, index in model["vocab"].items()),
        # In the file's order, which is the order of application.
        "merges": model["merges"],
        "ignore_merges": model["ignore_merges"],
        "pre_tokenizer": core["pre_tokenizer"]["pretokenizers"],
        "specials": sorted((index, name) for name, index in specials.items()),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _byte_table(vocabulary: dict[str, int], size: int) -> list[bytes | None]:
    """Bytes of each id; None for special tokens and for ids that no token has."""
    table: list[bytes | None] = [None] * size
    for token, index in vocabulary.items():
        try:
            table[index] = bytes([BYTE_SYMBOLS[symbol] for symbol in token])
        except KeyError:
            # Not written in the byte alphabet: the token stands for itself, as in tokenizers' ByteLevel decoder.
            table[index] = token.encode()
    return table
