"""The model under test, with all that a task may ask of it: generation, scoring, documents, settings, baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codeshell.engine.progress import Progress
from codeshell.environment import usable_memory
from codeshell.errors import UserError
from codeshell.evaluate import scoring
from codeshell.evaluate.byte_model import ByteModel
from codeshell.evaluate.corpus import Corpus, Document
from codeshell.evaluate.execution import Execution
from codeshell.evaluate.generation import generate
from codeshell.evaluate.models import load_any, load_model
from codeshell.evaluate.prompts import Completion, NotFiniteError, NotRunError, Prompt, Sampling, prompt_ids
from codeshell.evaluate.search import most_likely
from codeshell.model import CodeShellForCausalLM, generation
from codeshell.model.infill import Order
from codeshell.randomness import draw
from codeshell.recipe import Evaluate, Train

BASELINE_BYTES = 16_777_216
"""Training text that the byte model and the most common lines are counted on, chosen by hash. It is of the order of
what a small run trains on, and an order-3 model gains little from more."""

UNTRAINED_PARAMETERS = 2_000_000_000
"""No untrained twin of a larger model is made: its answer is known (nothing parses) and it would double the memory."""

FEWEST_PROMPT_TOKENS = 8
"""A prompt that is cut to fewer tokens asks nothing."""

SCORED_AT_ONCE = 64
"""Files between two lines of progress."""


@dataclass(frozen=True)
class PhaseEnd:
    """The end of a training phase: its last step, its context in tokens, and the checkpoint that was kept there."""

    step: int
    context: int
    checkpoint: Path


@dataclass(frozen=True)
class Subject:
    """One model beside the documents that it is measured on.

    Args:
        model: a `CodeShellForCausalLM` in evaluation mode, on its device, or a `TransformersModel`, which can complete
            prompts but not score text.
        tokenizer: its `codeshell.tokenizer.Tokenizer`, or a `TransformersTokenizer`.
        held_out: documents that it has not been trained on; an empty corpus for tasks with `needs_documents = False`.
        train: documents that it was trained on, for the baselines; None leaves the baselines out.
        settings: sample sizes.
        seed: decides every choice and the sampling.
        context: tokens that it was trained on at once.
        start: what stood before a document in training (see `scoring`).
        phase_ends: ends of the earlier training phases; empty where the model is not that of a run.
        before: ids before every prompt; None is what `start` says.
        order: of the texts around a gap in a prompt.
        execution: how functional tasks run.
        origin: what names the model in results: its path or name, and a hash.
        base: the directory of the model that training began with; None where its weights were drawn.
        weights: how its weights are held; those of phase ends are held alike.
    """

    model: Any
    tokenizer: Any
    held_out: Corpus
    train: Corpus | None
    settings: Evaluate
    seed: int
    context: int
    start: scoring.Start
    phase_ends: Sequence[PhaseEnd] = field(default=())
    before: Sequence[int] | None = None
    order: Order = "psm"
    execution: Execution = field(default_factory=Execution)
    origin: Mapping[str, Any] = field(default_factory=dict)
    base: Path | None = None
    weights: str = "auto"

    @property
    def before_text(self) -> list[int]:
        """The ids before every document."""
        if self.before is not None:
            return list(self.before)
        return [self.tokenizer.eot] if self.start == "eot" else []

    # The baselines are made when the first task asks for them, and all but the untrained model once for all tasks.

    @cached_property
    def training_sample(self) -> list[Document]:
        """Documents that the baselines learn from; none without a training split."""
        return [] if self.train is None else self.train.choose(self.seed, "baseline", max_bytes=BASELINE_BYTES)

    @cached_property
    def byte_model(self) -> ByteModel | None:
        """The byte model of order 3, counted on the training sample; None without one."""
        return ByteModel(document.data for document in self.training_sample) if self.training_sample else None

    @property
    def untrained(self) -> Any | None:
        """The model before training: the base (see `tuned_from`), or one of random weights (see `untrained`), which is
        None for a model of more than `UNTRAINED_PARAMETERS`.

        It takes as much memory as the model, so it is made anew each time and not kept for later tasks.
        """
        if self.base is not None:
            return self.tuned_from
        # Counted before the twin is made.
        return None if self._parameters > UNTRAINED_PARAMETERS else untrained(self.model, self.seed)

    @property
    def tuned_from(self) -> Any | None:
        """The base, for before and after, made anew each time; None where the weights were drawn, and where two models
        of this size do not fit into the memory."""
        if self.base is None:
            return None
        if torch.cuda.is_available():
            room: int | None = torch.cuda.mem_get_info()[0]
        else:
            # Both models, and a fifth of one for what they compute.
            memory = usable_memory()
            room = None if memory is None else memory - int(1.2 * self._bytes)
        return load_any(self.base) if room is None or self._bytes < room else None

    @property
    def _parameters(self) -> int:
        own = getattr(self.model, "num_parameters", None)
        return int(own()) if own else sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def _bytes(self) -> int:
        """Bytes of the model's weights."""
        each = next(iter(self.model.parameters()), torch.empty(0)).element_size()
        return self._parameters * each

    def room(self, max_new_tokens: int) -> int:
        """Tokens of a prompt that leave room for an answer in the context."""
        return self.context - max_new_tokens - len(self.before_text)

    def complete(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        purpose: str,
        model: Any = None,
        keys: Sequence[str] | None = None,
    ) -> list[Completion]:
        """What the model writes after each prompt, in their order.

        Args:
            prompts: a prompt that is too long for the context is cut far from where the model writes.
            purpose: names the random numbers; those of a prompt depend on the seed, this and its key.
            keys: one per prompt; by default its place in the list.
            model: another model of the same shape, for example `untrained`.

        Raises:
            NotRunError: the context has no room for a prompt and an answer, or the model's logits are not finite.
            UserError: a setting of the sampling is out of range.
        """
        try:
            generation.check_settings(
                temperature=sampling.temperature, top_p=sampling.top_p, max_new_tokens=sampling.max_new_tokens
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"task {purpose}: its sampling's {error}") from None
        limit, enough = sampling.max_new_tokens, sampling.enough
        asked = self._asked(prompts, limit)
        try:
            tokens = generate(
                self.model if model is None else model,
                asked,
                max_new_tokens=limit,
                stop_ids=self._stop_ids,
                pad=self.tokenizer.eot,
                vocabulary=self._vocabulary,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=self.seed,
                purpose=purpose,
                stop=None if enough is None else lambda ids: enough(self.tokenizer.decode(ids)),
                keys=keys,
            )
        except generation.NotFiniteError as error:
            raise NotFiniteError(f"the model's logits are not finite at {error.cause}") from None
        # An answer that reached the limit was cut there; any other one ended by a token or by `enough`.
        return [Completion(self.tokenizer.decode(ids), ended=len(ids) < limit) for ids in tokens]

    def _asked(self, prompts: Sequence[Prompt], limit: int) -> list[list[int]]:
        """The ids of prompts that leave room for `limit` new tokens.

        Raises:
            NotRunError: the context has no room for both, or there is a gap and no token to ask for it with.
        """
        if self.room(limit) < FEWEST_PROMPT_TOKENS:
            raise NotRunError(f"a context of {self.context} tokens holds no prompt and {limit} new tokens")
        return [
            prompt_ids(
                prompt,
                self.tokenizer,
                context=self.context,
                max_new_tokens=limit,
                start=self.before_text,
                order=self.order,
            )
            for prompt in prompts
        ]

    @property
    def _stop_ids(self) -> frozenset[int]:
        """What ends an answer: every special token, not only the end of text."""
        return frozenset(self.tokenizer.specials.values())

    @property
    def _vocabulary(self) -> int:
        """Ids at or above it are padding of the embedding, which no tokenizer knows."""
        return min(int(self.tokenizer.vocab_size), int(self.model.config.vocab_size))

    def most_likely(
        self, prompts: Sequence[Prompt], *, width: int, max_new_tokens: int, counts: Callable[[str], bool]
    ) -> list[str] | None:
        """The most likely answer as a whole to each prompt, by a beam search (`search.most_likely`).

        Args:
            prompts: as for `complete`.
            width: rows of the beam.
            max_new_tokens: tokens of an answer at most.
            counts: says of a text whether it is an answer at all.

        Returns:
            None for a model of transformers, which is asked greedily alone.

        Raises:
            NotRunError: the context has no room for a prompt and an answer.
        """
        if not isinstance(self.model, CodeShellForCausalLM):
            return None
        asked = self._asked(prompts, max_new_tokens)
        answers: list[str] = []
        with Progress("search", total=len(asked), unit="prompts") as progress:
            for ids in asked:
                found = most_likely(
                    self.model,
                    ids,
                    width=width,
                    max_new_tokens=max_new_tokens,
                    stop_ids=self._stop_ids,
                    vocabulary=self._vocabulary,
                    counts=lambda answer: counts(self.tokenizer.decode(answer)),
                )
                answers.append(self.tokenizer.decode(found))
                progress.advance(1)
        return answers

    def score(
        self, files: Sequence[Sequence[int]], *, stride: int, title: str, model: Any = None
    ) -> list[npt.NDArray[np.float64]]:
        """Nats of every token of every file and of the end of its text (`scoring.score`), in windows of the context.

        Args:
            files: token ids of each file, without special tokens.
            stride: tokens that the window moves on by.
            title: of the progress line.
            model: another one with the same tokenizer, for example `tuned_from`.

        Raises:
            NotRunError: the model's loss is not finite.
        """
        model = self.model if model is None else model
        # In parts, so that a long evaluation shows its progress.
        nats: list[npt.NDArray[np.float64]] = []
        with Progress(title, total=len(files), unit="files") as progress:
            for at in range(0, len(files), SCORED_AT_ONCE):
                part = files[at : at + SCORED_AT_ONCE]
                nats += scoring.score(
                    model, part, eot=self.tokenizer.eot, window=self.context, stride=stride, start=self.start
                )
                progress.advance(len(part))
                _check_finite(nats[at:])
        return nats

    def losses(self, sequences: npt.NDArray[np.int64], checkpoint: Path | None = None) -> npt.NDArray[np.float64]:
        """Nats of every token but the first of each sequence, under the model or under that of a checkpoint.

        Args:
            sequences: int64 (sequences, length).

        Returns:
            float64 (sequences, length - 1).

        Raises:
            NotRunError: the model's loss is not finite.
        """
        nats = scoring.losses(self.model if checkpoint is None else load_model(checkpoint, self.weights), sequences)
        _check_finite(nats, "" if checkpoint is None else f" of {checkpoint.name}")
        return nats


def _check_finite(nats: Sequence[npt.NDArray[np.float64]] | npt.NDArray[np.float64], which: str = "") -> None:
    """Refuse scores with a NaN or an infinity among them: no mean of them says anything."""
    bad = sum(not np.isfinite(one).all() for one in nats)
    if bad:
        raise NotFiniteError(f"the loss of the model{which} is NaN or infinity in {bad} of {len(nats)} texts")


def phase_ends(train: Train, directory: Path) -> list[PhaseEnd]:
    """The end of every phase but the last, rounded as the trainer does; empty phases are left out.

    Args:
        train: the run's settings.
        directory: of the run.
    """
    ends: list[PhaseEnd] = []
    # The last step of a phase is the rounded sum of the shares so far, so that rounding never adds up.
    share, before = 0.0, 0
    for phase in train.phases[:-1]:
        share += phase.share
        last = round(min(share, 1.0) * train.steps)
        # A phase that rounds to no step has trained nothing.
        if last > before:
            checkpoint = directory / "train" / "checkpoints" / f"step-{last:06d}"
            ends.append(PhaseEnd(last, phase.context, checkpoint))
        before = last
    return ends


def start_of(train: Train) -> scoring.Start:
    """What stands before a document of a run: nothing, unless documents attend to one another."""
    return "eot" if train.document_attention == "all" else "none"


def longest_context(train: Train) -> int:
    """The longest context that a run trains, in tokens."""
    return max(phase.context for phase in train.phases)


def untrained(model: Any, seed: int) -> Any:
    """A model of the same shape with fresh random weights, a function of the seed.

    The state of torch's global generator stays as it was.
    """
    # The twin is made on the CPU, so that a GPU does not change its weights, and moved afterwards.
    parameter = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(seed, "untrained") >> 1)
        twin = type(model)(model.config)
    return twin.to(device=parameter.device, dtype=parameter.dtype).eval()
