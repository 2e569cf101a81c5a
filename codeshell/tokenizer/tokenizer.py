"""A byte-level BPE tokenizer whose text side cannot produce a special token.

The ids are those of Hugging Face `tokenizers` (codeshell/tokenizer/encoder.py makes them). The encoder is built from
the file's vocabulary, merges and pre-tokenizer alone. It gets no added tokens (which `tokenizers` would find inside the
text), and no post-processor, truncation, padding, dropout or unknown token, because each of them would change the ids
of a text. Code that means a special token places it by id. Decoding looks up the bytes of each id in a table, so it is
exact for every id list.

Tokenizers of other families load, too, if they are byte-level BPE (codeshell/tokenizer/families.py). Two things of
theirs do stay in the encoder. Qwen2's NFC normaliser, because its ids are those of the normalised text. And added
tokens that are text (neither special nor exempt from normalising, as DeepSeek-Coder's letters and GPT-NeoX's runs of
spaces), because there a text has no other ids.

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
from codeshell.tokenizer import families
from codeshell.tokenizer.encoder import BYTE_SYMBOLS, NativeEncoder, make_encoder

PAD_TO = 128
"""A model's embedding has a multiple of this many rows, so that the matrix units get whole tiles."""

MODEL_MAX_LENGTH = 8192
"""Context of the released model; Hugging Face tools warn about longer inputs."""


class Tokenizer:
    """Text to ids and back.

    Attributes:
        specials: id of each special token, in order of id.
        added_text: id of each added token that is ordinary text.
        normalizer: `"NFC"` if encoding normalises the text first, else None.
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
        self._origin = origin
        self.specials, self.added_text = _added(tree)
        _check_specials(self.specials, self.added_text, tree["model"], origin)
        core = _encoding_core(tree, origin)
        self.normalizer: str | None = core["normalizer"] and core["normalizer"]["type"]
        # With its own tokens in the vocabulary, because the library takes the id of an added token from there.
        vocabulary: dict[str, int] = core["model"]["vocab"]
        self._encoder = make_encoder(core, origin)
        # Ids may have holes; the embedding needs a row for each up to the highest.
        self.vocab_size = 1 + max([*vocabulary.values(), *self.specials.values()])
        symbols = vocabulary.keys() - self.added_text.keys()
        self.missing_bytes = bytes(sorted(byte for symbol, byte in BYTE_SYMBOLS.items() if symbol not in symbols))
        self.hash = _hash(core, self.specials)
        # Decoding: bytes by id, and the names of the ids that have none.
        self._table = _byte_table(vocabulary, self.added_text, self.vocab_size)
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
            raise UserError(f"{file}: {families.missing_file(file.parent)}")
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
        # One token has every role, but for the family's own start of a document; without it none is declared.
        end = families.first_of(families.ENDS_OF_DOCUMENT, self.specials)
        names: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), end) if end else {}
        if start := families.first_of(families.STARTS_OF_DOCUMENT, self.specials):
            names["bos_token"] = start
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
        """Id of the token that ends a document, by whatever name the tokenizer's family has for it."""
        return self.special_id(families.first_of(families.ENDS_OF_DOCUMENT, self.specials) or END_OF_TEXT)

    @property
    def bos(self) -> int | None:
        """Id of the token that the family puts before a document; None for those that put nothing there."""
        name = families.first_of(families.STARTS_OF_DOCUMENT, self.specials)
        return None if name is None else self.specials[name]

    @property
    def fim_prefix(self) -> int:
        return self.specials[self._fim.prefix]

    @property
    def fim_middle(self) -> int:
        return self.specials[self._fim.middle]

    @property
    def fim_suffix(self) -> int:
        return self.specials[self._fim.suffix]

    @property
    def fim_pad(self) -> int:
        return self.special_id(self._fim.pad or "<fim_pad>")

    @cached_property
    def _fim(self) -> families.Fim:
        found = families.fim_of(self.specials)
        if found is None:
            known = ", ".join(fim.family for fim in families.FIM)
            raise UserError(
                f"the tokenizer has no fill-in-the-middle tokens of a known family ({known}); use one of them, or one "
                "trained by `codeshell tokenizer train`, or train without (train.fim_rate = 0)"
            )
        return found

    def core(self) -> dict[str, Any]:
        """What decides the ids of a text, in the form of a `tokenizer.json`: made anew at each call."""
        return _encoding_core(_parse(self._source, self._origin), self._origin)

    @property
    def source(self) -> str:
        """The text of the `tokenizer.json`, as it was read."""
        return self._source

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
    if isinstance(model, dict) and isinstance(model.get("type"), str) and model["type"] != "BPE":
        families.check_model(model, origin)
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or "merges" not in model:
        raise UserError(f"{origin}: not a BPE tokenizer.json (no model with vocab and merges); give a byte-level BPE")
    families.check_model(model, origin)
    if not model["vocab"]:
        raise UserError(f"{origin}: the vocabulary is empty; give a byte-level BPE tokenizer")
    # Ids index the table of bytes, so they must be whole numbers.
    if any(not isinstance(index, int) or index < 0 for index in model["vocab"].values()):
        raise UserError(f"{origin}: an id of the vocabulary is not a whole number from 0; give a valid tokenizer.json")
    # Added tokens may be absent or null; from here on they are a list of objects with id and content.
    added = tree.setdefault("added_tokens", None) or []
    if not isinstance(added, list) or any(
        not isinstance(token, dict)
        or not isinstance(token.get("content"), str)
        or type(token.get("id")) is not int
        or token["id"] < 0
        for token in added
    ):
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


def _added(tree: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Ids of the special tokens and of those that are text, each in order of id.

    A token is text if it is not special, takes part in normalising, and is no marker in angle brackets: some families
    leave `special` out for theirs (Qwen2.5-Coder for `<|fim_prefix|>`, DeepSeek-Coder for its own).
    """
    tokens = sorted(tree["added_tokens"], key=lambda token: token["id"])
    text = {token["content"]: token["id"] for token in tokens if _is_text(token)}
    return {token["content"]: token["id"] for token in tokens if token["content"] not in text}, text


def _is_text(token: dict[str, Any]) -> bool:
    content: str = token["content"]
    marker = content.startswith("<") and content.endswith(">")
    return token.get("special") is False and token.get("normalized") is True and not marker


def _check_specials(specials: dict[str, int], text: dict[str, int], model: dict[str, Any], origin: str) -> None:
    """Refuse a special token that a text could spell, and two tokens of one id."""
    vocabulary = model["vocab"]
    added = specials | text
    # An added token may be listed in the vocabulary, too, if it has the same id there (checked below).
    ids = [index for name, index in vocabulary.items() if name not in added] + list(added.values())
    if len(set(ids)) != len(ids):
        raise UserError(f"{origin}: two tokens share an id; give a consistent tokenizer.json")
    # What merging can produce. A special token among it would come out of an ordinary text.
    products = {first + second for first, second in model["merges"]}
    for name, index in added.items():
        if name in products and name in specials:
            raise UserError(f"{origin}: its merges spell the special token {name}, so text could inject it; retrain it")
        if vocabulary.get(name, index) != index:
            raise UserError(f"{origin}: two ids for {name}; give a consistent tokenizer.json")


def _encoding_core(tree: dict[str, Any], origin: str) -> dict[str, Any]:
    """The part of a `tokenizer.json` that decides the ids of a text, in one canonical form, ready to build from."""
    # Refuse what would make encoding lossy; drop the rest silently, because it does not change a text's ids.
    model = tree["model"]
    specials, text = _added(tree)
    kept = [
        {name: token.get(name, False) for name in ("id", "content", "single_word", "lstrip", "rstrip")}
        | {"normalized": True, "special": False}
        for token in tree["added_tokens"]
        if token["content"] in text
    ]
    # ByteLevel is what maps bytes to symbols: none would leave bytes out, two would map them twice.
    steps = _pre_tokenizer_steps(tree.get("pre_tokenizer"), origin)
    if sum(step["type"] == "ByteLevel" for step in steps) != 1:
        raise UserError(f"{origin}: the pre-tokenizer is not byte-level; give a byte-level BPE tokenizer")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(kept, key=lambda token: token["id"]),
        "normalizer": families.normalizer(tree.get("normalizer"), origin),
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
            "vocab": {name: index for name, index in model["vocab"].items() if name not in specials} | text,
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
    # Only where there are any, so that the hash of other tokenizers is what it always was.
    if core["normalizer"] is not None:
        parts["normalizer"] = core["normalizer"]
    if core["added_tokens"]:
        parts["added_tokens"] = core["added_tokens"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _byte_table(vocabulary: dict[str, int], text: dict[str, int], size: int) -> list[bytes | None]:
    """Bytes of each id; None for special tokens and for ids that no token has."""
    table: list[bytes | None] = [None] * size
    for token, index in vocabulary.items():
        if token in text:
            # An added token stands for the text that it is, also where its letters are symbols of bytes.
            table[index] = token.encode()
            continue
        try:
            table[index] = bytes([BYTE_SYMBOLS[symbol] for symbol in token])
        except KeyError:
            # Not written in the byte alphabet: the token stands for itself, as in tokenizers' ByteLevel decoder.
            table[index] = token.encode()
    return table
