"""`codeshell train RECIPE --plan`: the memory that each GPU needs, on any machine, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from codeshell.errors import UserError

if TYPE_CHECKING:
    from codeshell.recipe import Recipe


def show(recipe: Recipe, directory: Path, gpus: int | None, memory: str | None) -> int:
    """Print the plan; the exit code is 2 where it cannot fit.

    Args:
        recipe: its sections `model`, `tokenizer`, `train` and `finetune` are used.
        directory: the run's directory; its tokenizer, if there is one, says how many rows the embedding has.
        gpus: how many; None takes those of this machine, or one.
        memory: of each, as "80GB"; None takes this machine's, or gives no verdict.
    """
    from codeshell.cli.sizes import parse_size
    from codeshell.gpus import machine
    from codeshell.train import base as bases
    from codeshell.train.memory import plan, shape_of_recipe

    here = machine().gpus
    base = bases.read(recipe.finetune.base) if recipe.finetune.base else None
    alone = bases.needs_one_process(recipe, base) if base is not None else ""
    count = gpus if gpus is not None else 1 if alone else max(len(here), 1)
    if count < 1:
        raise UserError(f"--gpus: {count} GPUs train nothing; give 1 or more")
    if alone and count > 1:
        raise UserError(f"--gpus {count}: {alone} are trained by one process so far; give --gpus 1")
    # All GPUs do the same work, so the smallest one decides.
    each = parse_size(memory, "--memory") if memory else min((gpu.memory_bytes for gpu in here), default=None)
    precision: Literal["fp32", "bf16"] = "fp32" if recipe.train.precision == "fp32" else "bf16"
    if base is None:
        shape = shape_of_recipe(recipe.model, _rows(recipe, directory))
    else:
        from codeshell.tokenizer import Tokenizer
        from codeshell.train.base_memory import shape_of_base

        bases.check(recipe, base, Tokenizer.load(base.directory))
        shape = shape_of_base(recipe, base, precision)
    found = plan(shape, recipe.train, count, each, precision=precision)
    print("\n".join(found.lines()))
    _check_share(recipe, count)
    refusal = found.refusal()
    if refusal is not None:
        raise UserError(refusal)
    if each is None:
        print("memory: no GPU here; --memory 80GB says whether it fits")
    return 0


def _rows(recipe: Recipe, directory: Path) -> int:
    """Rows of the embedding: the tokenizer's, where the run or the recipe has one, else those that it will get."""
    from codeshell.tokenizer import SPECIAL_TOKENS, Tokenizer
    from codeshell.tokenizer.tokenizer import PAD_TO

    made = directory / "tokenizer"
    if (made / "tokenizer.json").exists() or recipe.tokenizer.path:
        return Tokenizer.load(made if (made / "tokenizer.json").exists() else recipe.tokenizer.path).padded_vocab_size
    return -(-(recipe.tokenizer.base_vocab_size + len(SPECIAL_TOKENS)) // PAD_TO) * PAD_TO


def _check_share(recipe: Recipe, gpus: int) -> None:
    """Refuse a number of GPUs that cannot share a batch, as training does."""
    import math

    sequences = recipe.train.batch_tokens // math.lcm(*(phase.context for phase in recipe.train.phases))
    if sequences % gpus:
        divisors = [count for count in range(1, sequences + 1) if sequences % count == 0]
        raise UserError(
            f"--gpus {gpus}: a batch has {sequences} sequences of the longest context, which {gpus} GPUs do not share "
            f"evenly; take {', '.join(map(str, divisors))}"
        )
