"""The model that fine-tuning begins with: where it lies, which of the two kinds it is, and what it must be.

A base is a model of codeshell (`CodeShellForCausalLM` computes it), or one of transformers of a type that
`codeshell.patch` serves (`codeshell.train.foreign` wraps it). Both are read from safetensors; no code of the model's
own is ever run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from codeshell.engine import hub
from codeshell.engine.downloads import read_downloaded_json
from codeshell.errors import UserError
from codeshell.integrations import ARCHITECTURES
from codeshell.model.config import MODEL_TYPES, CodeShellConfig
from codeshell.recipe import Recipe

if TYPE_CHECKING:
    from codeshell.tokenizer import Tokenizer

SERVED = tuple(kind for kind in ARCHITECTURES if kind != "mixtral")
"""Types of transformers that are trained. Mixtral keeps the experts of a layer in one tensor, which LoRA does not reach
and bf16 autocast does not round."""


@dataclass(frozen=True)
class Base:
    """A model to begin with.

    Attributes:
        name: as the recipe has it.
        directory: its files on this machine.
        kind: whose class computes it.
        model_type: of its config.json.
        context: tokens that it holds at once.
        vocabulary: rows of its embedding.
    """

    name: str
    directory: Path
    kind: Literal["codeshell", "transformers"]
    model_type: str
    context: int
    vocabulary: int

    @cached_property
    def hash(self) -> str:
        """A hash of its weights (`codeshell.engine.hub.fingerprint`)."""
        return hub.fingerprint(self.directory)


def read(name: str, *, served: Sequence[str] = SERVED, what: str = "fine-tuning", extra: str = "finetune") -> Base:
    """The base of a recipe, or another model that is asked for by name, from its config alone.

    Args:
        name: a model directory, or a name on the hub.
        served: types of transformers that are taken.
        what, extra: who asks, and its optional dependencies, for messages.

    Raises:
        UserError: there is no such model; it is of a type that is not served; transformers or peft is not installed.
    """
    directory = hub.model_directory(name)
    file = directory / "config.json"
    values = read_downloaded_json(file)
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind in MODEL_TYPES:
        config = CodeShellConfig.from_file(file)
        return Base(name, directory, "codeshell", str(kind), config.max_length, config.vocab_size)
    if kind not in served:
        raise UserError(
            f"{file}: model_type is {kind!r}, which is not served; {what} knows CodeShell "
            f"({', '.join(MODEL_TYPES)}) and, of transformers, {', '.join(served)}"
        )
    require("transformers", f"a {kind} model", extra)
    sizes = {}
    for key in ("max_position_embeddings", "vocab_size"):
        sizes[key] = values.get(key)
        if not isinstance(sizes[key], int) or isinstance(sizes[key], bool) or sizes[key] < 1:
            raise UserError(f"{file}: {key} is {sizes[key]!r}; take config.json from where the weights came from")
    return Base(name, directory, "transformers", str(kind), sizes["max_position_embeddings"], sizes["vocab_size"])


def require(library: Literal["transformers", "peft"], what: str, extra: str = "finetune") -> None:
    """Raise a `UserError` where an optional library is missing, or is of a version that does not work.

    Args:
        library: its name.
        what: needs it, for the message.
        extra: the optional dependencies of codeshell that have it.
    """
    import importlib

    try:
        importlib.import_module("codeshell.integrations.supported" if library == "transformers" else library)
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} needs {library}, {reason}; pip install 'codeshell[{extra}]'") from None


def check(recipe: Recipe, base: Base, tokenizer: Tokenizer) -> None:
    """Refuse settings of `[train]` that the base cannot be trained with.

    Raises:
        UserError: a context beyond the base's; FIM with a tokenizer that has no tokens for it; a tokenizer of more
            tokens than the embedding has rows; bf16 weights for LoRA.
    """
    train = recipe.train
    for phase in train.phases:
        if phase.context > base.context:
            raise UserError(
                f"train.phases: context {phase.context} is beyond the {base.context} tokens of {base.name}; "
                "shorten the context"
            )
    if tokenizer.vocab_size > base.vocabulary:
        raise UserError(
            f"{base.directory}: a tokenizer of {tokenizer.vocab_size} tokens, but the model has {base.vocabulary} "
            "rows; give the model's own tokenizer"
        )
    # Conversations are never rearranged, so a run of these alone needs no such tokens.
    if train.fim_rate > 0 and (recipe.collect.inputs or not recipe.finetune.instructions):
        _ = tokenizer.fim_prefix  # raises, with the families that are known
    if recipe.finetune.method == "lora":
        require("peft", "finetune.method lora")
        if train.optimizer != "adamw":
            raise UserError(
                f"train.optimizer {train.optimizer}: the factors of LoRA are trained with AdamW alone, because Muon "
                "makes a whole matrix's update orthogonal and not a factor's; set train.optimizer = adamw"
            )
        if train.weights != "fp32":
            raise UserError(
                f"train.weights {train.weights}: the factors of LoRA are few and stay fp32, and the frozen weights are "
                "kept in the precision of the products; leave out train.weights"
            )


def needs_one_process(recipe: Recipe, base: Base) -> str:
    """What of this training several processes cannot share so far, for a message; empty where they can."""
    if recipe.finetune.method == "lora":
        return "factors of LoRA"
    return "" if base.kind == "codeshell" else f"weights of a {base.model_type} of transformers"


def settled(recipe: Recipe, available: int) -> Recipe:
    """The recipe with the number of steps that `finetune.epochs` asks for.

    Args:
        recipe: unchanged where it says steps and no epochs.
        available: tokens of one epoch.
    """
    if not recipe.finetune.epochs:
        return recipe
    steps = max(1, round(recipe.finetune.epochs * available / recipe.train.batch_tokens))
    # A warm-up is a part of the run, and not all of it.
    train = msgspec.structs.replace(recipe.train, steps=steps, warmup_steps=min(recipe.train.warmup_steps, steps // 10))
    return msgspec.structs.replace(recipe, train=train)
