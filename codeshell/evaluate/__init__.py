"""Evaluation of a trained model on held-out files, each number with its interval and its baselines.

`run(recipe, directory, engine)` is the stage. It reads `model/`, `tokenizer/`, `curated/` and `train/checkpoints/`,
writes `evaluate/samples.json` and `evaluate/positions.json`, and returns the statistics:

    {
      "held_out": {"split": "test", "shards", "documents", "bytes"},         # what the samples were chosen from
      "not_run": {part: reason},              # a part that could not run is here, and null below; never a zero
      "bits_per_byte": {
        "files", "bytes", "window", "stride", "start", "not_roundtrip",       # sample and definition (scoring.py)
        "systems": {"model" | "byte_model" | "xz" | "xz_per_file": {"bits_per_byte", "interval": [low, high] | null}},
        "differences": {system: {"difference", "interval", "significant"}},  # model minus system, bits per byte
        "by_language": {name: {"files", "bytes", "systems", "differences"}},
        "end_of_text_bits_per_byte",                                        # not in the model's figure
        "byte_model_trained_on_bytes"
      },
      "infill": {
        "tasks", "files", "protocol",
        "groups": {"all" | "trivial" | "non_trivial": {
          "exact_match" | "exact_match_first_line" | "majority_line" | "copy_previous_line":
              {"count", "n", "share", "interval"},
          "against_majority_line" | "against_copy_previous_line": {"n", "difference", "p_value", "significant"}}},
        "by_language": {name: {"count", "n", "share", "interval"}}
      },
      "functions": {
        "headers", "files", "with_docstring", "protocol",
        "systems": {"model" | "untrained" | "byte_model": {"parses": {"count", "n", "share", "interval"}, "finished",
                                                           "finished_and_parses", "verdicts": {verdict: count}}},
        "differences": {system: {"n", "difference", "p_value", "significant"}}
      },
      "positions": {
        "sequences", "context",
        "pairs": [{"step", "context_before", "context_after",
                   "within" | "beyond": {"before", "after", "difference": {"mean", "se"}, "interval", "significant"}}]
      },
      "claims": [str]                         # plain sentences made of these numbers; what the report may say
    }

`positions.json` is the `positions` part with `"buckets": [{"start", "end", "before", "after", "difference"}]` in each
pair, every value `{"mean", "se"}` in nats a token. `samples.json` is
`{"infill": [{id, path, language, line, before, target, after, answer, exact_match, trivial}],
"functions": [{id, path, line, header, body, verdict, finished, untrained, byte_model}]}`.

Importing this module does not import torch; `run` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.engine import Engine
    from codeshell.recipe import Recipe

__all__ = ["run"]


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Evaluate the model of the run in `directory`; see the module's text for what is written and returned."""
    from codeshell.evaluate.evaluate_run import run as run_stage

    return run_stage(recipe, directory, engine)
