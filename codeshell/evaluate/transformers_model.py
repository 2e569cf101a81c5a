"""A causal language model of transformers and its tokenizer, with the few methods that `Subject.complete` calls.

Prompts are padded on the left and generated with the model's own key/value cache. Sampling is that of
`codeshell.model.generation`: one uniform number for each token, from a hash of the prompt's seed and the step.

Fill-in-the-middle is `PREFIX before SUFFIX after MIDDLE` with the tokens of the model's family, which are looked up in
its vocabulary.

Shapes in this file: R rows that still generate, S tokens of the longest prompt with its padding.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from codeshell.errors import UserError
from codeshell.evaluate.prompts import NotRunError
from codeshell.integrations import causal
from codeshell.model.generation import NotFiniteError, sample
from codeshell.model.precision import multiplies_bf16
from codeshell.randomness import draw
from codeshell.tokenizer.families import FIM, Fim, fim_of

ENDS = frozenset(
    {"\u2581<EOT>", "<file_sep>", "<|file_sep|>", "<|filename|>", "<filename>", "<reponame>", "<repo_name>"}
)
"""Tokens that end an answer although some tokenizers do not mark them as special."""

_MARKER = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)
"""What tokens look like that are no text, in the models whose tokenizers do not mark all of them as special."""


class TransformersTokenizer:
    """A tokenizer of transformers with the interface of `codeshell.tokenizer.Tokenizer`, as far as prompts need it.

    Attributes:
        specials: id of each token that ends an answer, by its text.
        vocab_size: one more than the highest id.
        before: ids that the tokenizer puts before a text, for example `<s>`.
        eot: id that fills the left of shorter prompts.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.vocab_size = 1 + max(vocabulary.values())
        special = {index for index in tokenizer.all_special_ids if index is not None}
        for index, token in tokenizer.added_tokens_decoder.items():
            if token.special or _MARKER.fullmatch(token.content):
                special.add(index)
        special.update(index for text, index in vocabulary.items() if text in ENDS)
        self.specials: dict[str, int] = {
            str(tokenizer.convert_ids_to_tokens(index)): index for index in sorted(special)
        }
        self.eot: int = next((i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None), 0)
        self._fim = fim_of(vocabulary)
        self._vocabulary = vocabulary
        # What is put before a text, and what follows it in some, is seen on a text with and without it.
        plain = self._ids("x")
        whole = [int(index) for index in tokenizer("x").input_ids]
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        self.before = whole[:at]
        # A newline is a token of its own, whatever follows it: a text after it is encoded, and decoded, as in the
        # middle of a text, where SentencePiece neither adds nor drops a blank.
        self._anchor = self._ids("\n")
        self._anchor_text = self._text(self._anchor)

    def add_end(self, index: int) -> None:
        """Let another id end an answer."""
        self.specials.setdefault(str(self._tokenizer.convert_ids_to_tokens(index)), index)

    def encode(self, text: str) -> list[int]:
        """Ids of a text at the start of a prompt, without special tokens around it."""
        return self._ids(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._ids(text) for text in texts]

    def encode_inside(self, text: str) -> list[int]:
        """Ids of a text that continues another one."""
        ids = self._ids("\n" + text)
        # Where the newline has joined what follows, there is no way to take it out.
        return ids[len(self._anchor) :] if ids[: len(self._anchor)] == self._anchor else self._ids(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that continue a prompt, blanks at its start included."""
        text = self._text([*self._anchor, *ids])
        return text[len(self._anchor_text) :] if text.startswith(self._anchor_text) else self._text(list(ids))

    @property
    def fim_prefix(self) -> int:
        return self._vocabulary[self._fill_in().prefix]

    @property
    def fim_suffix(self) -> int:
        return self._vocabulary[self._fill_in().suffix]

    @property
    def fim_middle(self) -> int:
        return self._vocabulary[self._fill_in().middle]

    def _fill_in(self) -> Fim:
        if self._fim is None:
            raise NotRunError(
                "the model's tokenizer has no fill-in-the-middle tokens of a known family "
                f"({', '.join(fim.family for fim in FIM)}); take a model that was trained to fill in the middle"
            )
        return self._fim

    def _ids(self, text: str) -> list[int]:
        return [int(index) for index in self._tokenizer(text, add_special_tokens=False).input_ids]

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


class TransformersModel:
    """A causal language model of transformers with the generation of `CodeShellForCausalLM`.

    Args:
        model: in evaluation mode, on its device.

    Attributes:
        revision: of a model of the hub; else empty.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        config = model.config.get_text_config()
        self.config = SimpleNamespace(vocab_size=int(config.vocab_size))
        self.revision: str = getattr(model.config, "_commit_hash", None) or ""
        self._takes = frozenset(inspect.signature(model.forward).parameters)

    def __call__(self, input_ids: torch.Tensor) -> Any:
        """An object with `.logits` (R, S, V) of ids (R, S) without padding on the left: what scoring asks for."""
        return self._model(input_ids, use_cache=False)

    def parameters(self) -> Iterator[torch.Tensor]:
        parameters: Iterator[torch.Tensor] = self._model.parameters()
        return parameters

    @torch.inference_mode()
    def generate(
        self,
        input_ids: torch.Tensor,
        *,
        attention_mask: torch.Tensor,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        stop_ids: Collection[int],
        stop: Callable[[int, list[int]], bool] | None,
        seed: Sequence[int],
        n_vocab_used: int,
    ) -> list[list[int]]:
        """New tokens of every row; see `codeshell.model.generation.generate`.

        Args:
            input_ids: (R, S) int64, padded on the left.
            attention_mask: (R, S) int64, 0 where a prompt is padding.
            seed: one for each row.

        Raises:
            NotFiniteError: the model's logits are not finite.
        """
        outputs: list[list[int]] = [[] for _ in seed]
        active = list(range(len(outputs)))
        ids, mask, cache = input_ids, attention_mask, None
        for step in range(max_new_tokens):
            scores, cache = self._forward(ids, mask, cache)
            draws = [(draw(seed[row], step) >> 11) * 2.0**-53 for row in active]
            try:
                chosen = sample(scores[:, :n_vocab_used].float(), temperature, 0, top_p, draws)
            except NotFiniteError as error:
                raise NotFiniteError(active[error.row], f"new token {step + 1}") from None
            # Take the tokens in, and note which rows of the cache continue.
            going = []
            for i, (row, token) in enumerate(zip(active, chosen, strict=True)):
                if token not in stop_ids:
                    outputs[row].append(token)
                    if stop is None or not stop(row, outputs[row]):
                        going.append(i)
            if not going or step + 1 == max_new_tokens:
                break
            # Rows that have ended leave the cache, so the next pass does not compute them.
            if len(going) < len(active):
                kept = torch.tensor(going, device=mask.device)
                cache.batch_select_indices(kept)
                mask, active = mask[kept], [active[i] for i in going]
            ids = torch.tensor([[outputs[row][-1]] for row in active], device=mask.device)
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
        return outputs

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Logits (R, V) of the token after the last one, and the cache with the new ids in it."""
        # A padded prompt's first token has position 0; models without position_ids count by the mask themselves.
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        wanted = {"attention_mask": mask, "position_ids": positions, "logits_to_keep": 1}
        given = {name: value for name, value in wanted.items() if name in self._takes}
        out = self._model(ids, past_key_values=cache, use_cache=True, **given)
        return out.logits[:, -1], out.past_key_values


def load(name: str) -> tuple[TransformersModel, TransformersTokenizer, int]:
    """A model by its directory or its name on the hub, with its tokenizer and the tokens that it holds at once.

    Weights are read from safetensors alone, and no code of the model's own is run.

    Raises:
        UserError: transformers is not installed, or the model cannot be loaded.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"--model {name}: not a model of codeshell, and transformers is not installed; "
            "pip install 'codeshell[transformers]' to evaluate other models"
        ) from None
    from codeshell.versions import require

    require("transformers", transformers.__version__)
    local = Path(name).is_dir()
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    cuda = torch.cuda.is_available()
    # As in `models.load_model`: a CPU computes in fp32, whatever the model was saved in.
    dtype = "auto" if cuda and multiplies_bf16(torch.device("cuda")) else torch.float32
    label = f"--model {name}"
    remedy = "give a directory with config.json, safetensors and a tokenizer, or a name on the hub"
    # Its errors are those of several libraries, as those of a model are.
    try:
        with causal.quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{label}: transformers cannot load its tokenizer ({reason}); {remedy}") from None
    model = causal.load(name, dtype, label=label, remedy=remedy, local=local)
    ours = TransformersTokenizer(tokenizer)
    for end in _ends(model):
        ours.add_end(end)
    return TransformersModel(model.to("cuda" if cuda else "cpu").eval()), ours, _context(model.config)


def _ends(model: Any) -> list[int]:
    """The ids that the model's own settings end a text with."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return [] if ends is None else [int(end) for end in (ends if isinstance(ends, list | tuple) else [ends])]


DEFAULT_CONTEXT = 2048
"""Tokens at once where a config does not say, as with ALiBi."""


def _context(config: Any) -> int:
    """Tokens that a model holds at once; the names differ by family."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return DEFAULT_CONTEXT
