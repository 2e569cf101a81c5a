"""The recipe's section `[finetune]`: from which model training starts, what of it is trained, and on which answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from codeshell.recipe_keys import Part, Redo, Settings


class Finetune(Settings, frozen=True, kw_only=True):
    """Training that begins with an existing model. Without a `base` the model is that of `[model]`, drawn anew."""

    base: Redo[str] = ""
    """A model directory, or a name on the hub (`OWNER/NAME`): a model of codeshell, the released CodeShell, or one of
    transformers of a type that `codeshell.patch` serves. Its shape and its tokenizer take the place of `[model]` and of
    `[tokenizer]`."""
    method: Redo[Literal["full", "lora"]] = "full"
    """`full` trains all weights. `lora` freezes them and trains the two thin factors of a change of each matrix (Hu et
    al. 2021), by the library peft."""
    rank: Redo[Annotated[int, msgspec.Meta(ge=1, le=2**12)]] = 16
    """Width of the factors."""
    alpha: Redo[Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]] = 32.0
    """The product of the factors counts alpha / rank times."""
    dropout: Redo[Part] = 0.0
    """Dropout on the input of the factors."""
    targets: Redo[tuple[str, ...]] = ()
    """Names of the matrices that get factors, such as `q_proj`; empty: every linear layer of the blocks."""
    epochs: Redo[Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]] = 0.0
    """Passes over the training tokens, from which the number of steps is reckoned; 0: `train.steps` says it."""
    instructions: Redo[tuple[str, ...]] = ()
    """Files of conversations (JSON Lines), of which the answers alone count in the loss."""
    template: Redo[str] = ""
    """The chat template that writes them: `codeshell`, or the file of one; empty: that of the base."""
