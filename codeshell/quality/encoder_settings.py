"""How an encoder is trained, and the schedule that its parts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codeshell.recipe import Phase, Train
from codeshell.scorers.bert import WINDOW, WINDOWS


@dataclass(frozen=True)
class Settings:
    """How an encoder is trained.

    Attributes:
        window, windows: see `scorers.bert.Encoder`.
        head: `ridge`, or `mlp` for one hidden layer.
        finetune: train the encoder as well; the head is then linear.
        epochs, lr, batch: of fine-tuning; documents per step.
        seed: decides the order of the documents and the first weights.
    """

    window: int = WINDOW
    windows: int = WINDOWS
    head: Literal["ridge", "mlp"] = "ridge"
    finetune: bool = False
    epochs: int = 3
    lr: float = 3e-5
    batch: int = 16
    seed: int = 0


def schedule(steps: int, lr: float) -> Train:
    """The trainer's schedule for a short training: a tenth of the steps warms up, then a cosine to nothing."""
    return Train(
        steps=steps,
        lr=lr,
        min_lr_ratio=0.0,
        warmup_steps=max(1, steps // 10),
        phases=(Phase(share=1.0, context=512),),
        beta2=0.98,
    )
