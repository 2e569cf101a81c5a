"""Adapt a model of transformers to a folder of code by LoRA, and load the merged model without codeshell.

python examples/finetune_lora.py ~/models/Qwen2.5-Coder-0.5B ~/src/project

Without arguments a tiny random Starcoder2 learns the standard library's asyncio, which shows the way in half a minute
and teaches it nothing. `codeshell finetune BASE FOLDER -o runs/mine --lora 16` does the same from the command line.
"""

import asyncio
import sys
from pathlib import Path

import torch
import transformers

from codeshell import pipeline, recipe
from codeshell.tokenizer.train import train

FOLDER = Path(sys.argv[2]).expanduser() if len(sys.argv) > 2 else Path(asyncio.__file__).parent
RUN = Path("runs/lora")


def tiny_base() -> Path:
    """A Starcoder2 of 117,000 random weights, with a tokenizer of 400 tokens."""
    directory = Path("runs/tiny-starcoder2")
    tokenizer = train([[path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))]], 380)
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Starcoder2Config(
        vocab_size=tokenizer.vocab_size, num_key_value_heads=2, max_position_embeddings=256, **shape
    )
    torch.manual_seed(0)
    transformers.Starcoder2ForCausalLM(config).save_pretrained(directory)
    tokenizer.save(directory)
    return directory


def main() -> None:
    base = Path(sys.argv[1]).expanduser() if len(sys.argv) > 1 else tiny_base()
    settings = {
        "collect": {"inputs": [str(FOLDER)]},
        "rules": {"language_floor": 0},
        "split": {"unit": "file", "valid": 0.1, "test": 0.0},  # one repository alone cannot be split by repository
        "finetune": {"base": str(base), "method": "lora", "rank": 8, "alpha": 16.0},
        "train": {"steps": 20, "batch_tokens": 2048, "phases": [{"share": 1.0, "context": 256}], "lr": 5e-3},
    }
    pipeline.run(recipe.from_tree(settings, "finetune_lora.py"), RUN, workers=1, until="train")

    # In the base's own format: any program that loads the base loads this.
    model = transformers.AutoModelForCausalLM.from_pretrained(RUN / "model")
    print(
        f"{RUN / 'model'}: {type(model).__name__}, {model.num_parameters():,} weights; the adapter: {RUN / 'adapter'}"
    )


if __name__ == "__main__":
    main()
