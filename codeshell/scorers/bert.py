"""BERT, RoBERTa and ModernBERT directories as encoders: a text becomes one vector, pooled over its tokens' states.

A directory holds what a model hub gives: config.json, model.safetensors (or its parts with their index) and
tokenizer.json. Only these are read: no pickle, no code from the directory, nothing from the network. A text is cut
into windows, because the models end at 512 positions or are slow beyond; a window may begin with the language's name.

The vector depends on the text alone. Windows are not padded, and the batch holds windows of one document, all of one
length; on the CPU one thread computes, so the bits do not depend on the machine's number of cores. A worker process
per core uses the cores better than threads do. transformers and torch are imported when an encoder is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell.engine.files import user_path
from codeshell.errors import UserError

TYPES = ("bert", "roberta", "xlm-roberta", "modernbert")
"""The `model_type` of the configurations that are loaded. CodeBERT, GraphCodeBERT and UniXcoder are RoBERTa; MiniLM,
StarEncoder and arctic-embed are BERT."""

OFFSET = ("roberta", "xlm-roberta")
"""In these the first position has the number `pad_token_id` + 1, so as many positions less are of use."""

WINDOW = 256
"""Tokens of a window, special tokens and prefix included."""

WINDOWS = 8
"""Windows of a text that are read at most. It bounds the cost of a document: what comes after is not looked at."""

MOST_PREFIX = 16
"""Tokens of the language's name at most: a column may hold any text."""

TOKEN_CHARACTERS = 16
"""Characters per token beyond which a text is cut before it is tokenized. Code has three or four."""


POOLINGS = {"mean": 1, "rich": 5}
"""How the states of all tokens become a vector, and its length in hidden sizes. `mean`: of the last layer. `rich`: the
means of the last three layers, and the deviation and the maximum of the last. A frozen MiniLM ranks better by `rich`
(Spearman 0.55 against 0.49 on 786 labels, docs/quality.md): what its last layer was trained for is not code."""


class Encoder:
    """An encoder from a local directory.

    Args:
        directory: has config.json, safetensors and tokenizer.json.
        window: tokens of a window.
        windows: windows of a text at most.
        pooling: see `POOLINGS`.
        prefix: begin each window with the language's name.

    Attributes:
        identity: SHA-256 over the files that decide the vectors, as hexadecimal digits.
        dimension: length of a vector.

    Raises:
        UserError: the directory is none of these, is incomplete, or a window is longer than the model's positions.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        window: int = WINDOW,
        windows: int = WINDOWS,
        pooling: str = "rich",
        prefix: bool = False,
    ) -> None:
        self.directory = user_path(str(directory))
        self.window, self.windows, self.pooling, self.prefix = window, windows, pooling, prefix
        assert pooling in POOLINGS, pooling
        config = read_config(self.directory)
        # Everything that the directory itself can get wrong is said before the weights are read.
        weights = weight_files(self.directory)
        tokenizer_file = _required(self.directory, "tokenizer.json")
        if windows < 1:
            raise UserError(f"windows: {windows} is below 1; read at least one window")
        self._tokenizer = _tokenizer(tokenizer_file)
        self._before, self._after = _special_ids(self._tokenizer, tokenizer_file)
        positions = usable_positions(config)
        least = len(self._before) + len(self._after) + MOST_PREFIX + 16
        if not least <= window <= positions:
            raise UserError(f"window: {window} is not in {least} … {positions}, what {self.directory} can read")
        vocabulary = int(config.get("vocab_size", 0))
        if self._tokenizer.get_vocab_size() > vocabulary:
            raise UserError(
                f"{tokenizer_file}: has {self._tokenizer.get_vocab_size()} tokens, but the model has {vocabulary}; "
                "take tokenizer.json and model.safetensors from one place"
            )
        self.identity = fingerprint([self.directory / "config.json", tokenizer_file, *weights])
        self.model = load_model(self.directory, str(config["model_type"]))
        self.dimension = POOLINGS[pooling] * int(self.model.config.hidden_size)

    def cut(self, text: str, language: str) -> list[list[int]]:
        """The windows of a text as token ids: special tokens, the language's name if asked for, a piece of the text.

        An empty text has one window.
        """
        name = language[: MOST_PREFIX * TOKEN_CHARACTERS] if self.prefix else ""
        prefix = self._ids(name)[:MOST_PREFIX]
        room = self.window - len(self._before) - len(self._after) - len(prefix)
        # The tokenizer takes a second for a megabyte: no more of a text is tokenized than may be read.
        ids = self._ids(text[: self.windows * room * TOKEN_CHARACTERS])[: self.windows * room]
        starts = range(0, max(len(ids), 1), room)
        return [[*self._before, *prefix, *ids[start : start + room], *self._after] for start in starts]

    def embed(self, texts: Sequence[str], languages: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of texts, (n, dimension), pooled over all tokens of all their windows."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        import torch

        with one_thread(), torch.no_grad():
            for place, (text, language) in enumerate(zip(texts, languages, strict=True)):
                vectors[place] = self.pooled(self.cut(text, language)).cpu().numpy()
        return vectors

    def pooled(self, windows: list[list[int]]) -> Any:
        """The vector of one document's windows as a float32 tensor, (dimension,), with its gradient if it has one."""
        import torch

        rich = self.pooling == "rich"
        # The full windows are one batch, and the last one, which is shorter, another: nothing is padded.
        full = [window for window in windows if len(window) == len(windows[0])]
        sums: list[Any] = []  # of the layers' states, and of the squares of the last
        highest: Any = None
        for batch in (full, windows[len(full) :]):
            if not batch:
                continue
            out = self.model(input_ids=torch.tensor(batch), output_hidden_states=rich)
            last = out.last_hidden_state
            layers = [last]
            if rich:
                # The embeddings are the first of the hidden states, so a model of one layer has two.
                states = out.hidden_states
                layers += [states[-2], states[max(len(states) - 3, 0)]]
            parts = [layer.double().sum((0, 1)) for layer in layers]
            if rich:
                parts.append((last.double() ** 2).sum((0, 1)))
                most = last.amax((0, 1)).double()
                highest = most if highest is None else torch.maximum(highest, most)
            sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        tokens = sum(map(len, windows))
        means = [total / tokens for total in sums]
        if rich:
            squares = means.pop()
            means += [(squares - means[0] ** 2).clamp(min=0.0).sqrt(), highest]
        return torch.cat(means).float()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(_without_surrogates(text), add_special_tokens=False).ids
        return ids


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of an encoder's directory.

    Raises:
        UserError: it is not there, not JSON, or not of one of `TYPES`.
    """
    if not directory.is_dir():
        raise UserError(
            f"{directory}: no such directory; an encoder is a directory with config.json, model.safetensors "
            "and tokenizer.json"
        )
    path = _required(directory, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(f"{path}: not a model's configuration; fetch the directory again") from None
    if kind not in TYPES:
        raise UserError(f"{path}: model_type {kind!r} is no encoder that is known; give one of {', '.join(TYPES)}")
    return dict(config)


def usable_positions(config: dict[str, Any]) -> int:
    """Tokens that the model can read at once."""
    positions = int(config.get("max_position_embeddings", 512))
    if config["model_type"] in OFFSET:
        positions -= int(config.get("pad_token_id", 1)) + 1
    return positions


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory, in order.

    Raises:
        UserError: there are none; where the weights are a pickle, it says how to convert them.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{index}: not an index of safetensors; fetch the directory again") from None
        # A name with a directory in it would lead out of this one.
        if any(Path(name).name != name for name in names):
            raise UserError(f"{index}: names files outside of its directory; fetch the directory again")
        return [_required(directory, name) for name in names]
    if not (directory / "model.safetensors").is_file() and (directory / "pytorch_model.bin").is_file():
        raise UserError(
            f"{directory}: has pytorch_model.bin, a pickle, which may run foreign code and is not read; convert it to "
            "model.safetensors (safetensors.torch.save_file) where you trust it"
        )
    return [_required(directory, "model.safetensors")]


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_model(directory: Path, kind: str) -> Any:
    """The transformers model of a directory, in float32 and in evaluation mode.

    Raises:
        UserError: transformers is not there, or the weights are not those of the configuration.
    """
    try:
        import transformers
    except ImportError:
        raise UserError("transformers is not installed; pip install 'codeshell[transformers]' for encoders") from None
    import torch
    from safetensors import SafetensorError

    # ModernBERT has no pooling layer; in the others nothing here reads it, and many directories lack its weights.
    extra = {} if kind == "modernbert" else {"add_pooling_layer": False}
    try:
        with _quiet(transformers):
            model, loaded = transformers.AutoModel.from_pretrained(
                str(directory),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **extra,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{directory}: cannot be loaded as a {kind} model ({first}); fetch it again") from None
    # transformers fills what is missing with random numbers, and would score by them in silence.
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise UserError(f"{directory}: the weights lack {len(missing)} tensors, {missing[0]} first; fetch it again")
    return model.eval()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within the block torch computes in one thread: sums are then in one order, whatever the number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No bars and no warnings about heads that are not used."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _required(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.is_file():
        raise UserError(
            f"{directory}: has no {name}; fetch the whole directory, with config.json, model.safetensors and "
            "tokenizer.json"
        )
    return path


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    # The library raises bare exceptions for all that is wrong with a file.
    except Exception as error:
        raise UserError(f"{path}: not a tokenizer ({' '.join(str(error).split())[:120]}); fetch it again") from None
    # Some directories cut at 128 tokens and pad. We cut ourselves.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # `[SEP]` or `</s>` in a document is text like any other.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _special_ids(tokenizer: Any, path: Path) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    encoded = tokenizer.encode("x", add_special_tokens=True)
    places = [place for place, special in enumerate(encoded.special_tokens_mask) if not special]
    if not places:
        raise UserError(f"{path}: gives no token for a text; fetch it again")
    return encoded.ids[: places[0]], encoded.ids[places[-1] + 1 :]


def _without_surrogates(text: str) -> str:
    """The text with a question mark for what has no UTF-8, which the tokenizer would refuse."""
    return text.encode("utf-8", "replace").decode()
