"""The ablation: one model trained on several selections of one corpus, at equal tokens (Figure 3 of the report).

    plan        what is compared: arms x seeds, and the record that says whether an arm was made by these settings
    pool        the shared stages, once: documents, scores, tokenizer, tokens of all of them, held-out sets
    selection   what one arm takes of these tokens, by its scores
    evaluation  bits per byte, infilling and programs of one checkpoint
    training    one arm with one seed: select, train, evaluate at several points, keep the result
    summary     curves and paired differences with their intervals, of results alone
    ablation    the order of all this; what is done is not done again

An arm differs from another in its `[select]` alone. Tokenizer, held-out sets, model, steps, seeds and evaluation are
the same; so are the tokens that training reads, and the share that each language has of them.

    DIR/shared/               a run without a selection, up to its tokens
    DIR/held-out/NAME/        a further held-out set
    DIR/arms/ARM/seed-N/      selection.json, tokens/, train/, model/, points/step-N/, result.json
    DIR/ablation.json, ablation.svg, ablation.html

Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from codeshell.recipe import Recipe

__all__ = ["run"]


def run(recipe: Recipe, directory: Path, *, workers: int = 0) -> None:
    """Do what is not done yet of an ablation; see `codeshell.ablate.ablation`."""
    from codeshell.ablate.ablation import run as run_ablation

    run_ablation(recipe, directory, workers=workers)
