"""Train a tiny code model on a folder, from Python, and let it complete a line.

python examples/train_tiny.py ~/src/project

The job is that of `codeshell run`: collect, filter, deduplicate, tokenize, train. A second call resumes where the
first one stopped, and does nothing if it was finished. A minute of training teaches the model the shape of code, not
its meaning: `recipes/demo.toml` takes ten minutes, and real models take days on GPUs.
"""

import asyncio
import sys
from pathlib import Path

from codeshell import pipeline, recipe
from codeshell.model import CodeShellForCausalLM
from codeshell.model.generation import complete
from codeshell.tokenizer import Tokenizer

# Without an argument: the standard library's asyncio, about half a megabyte of Python.
FOLDER = Path(sys.argv[1]).expanduser() if len(sys.argv) > 1 else Path(asyncio.__file__).parent
RUN = Path("runs/tiny")

# The same keys as in recipes/*.toml; codeshell/recipe.py says what each of them means.
SETTINGS = {
    "collect": {"inputs": [str(FOLDER)]},
    "rules": {"language_floor": 0},  # keep every language, however little there is of it
    "split": {"valid": 0.0, "test": 0.0},  # one repository alone cannot be split by repository
    "tokenizer": {"base_vocab_size": 1024},
    "model": {"n_layer": 2, "n_embd": 64, "n_head": 4, "num_query_groups": 2, "n_positions": 128},
    "train": {
        "steps": 60,
        "batch_tokens": 2048,
        "phases": [{"share": 1.0, "context": 128}],
        "lr": 5e-3,
        "warmup_steps": 10,
        "log_every": 10,
    },
}


def main() -> None:
    settings = recipe.from_tree(SETTINGS, "train_tiny.py")
    pipeline.run(settings, RUN, workers=1, until="train")  # progress goes to standard error

    model = CodeShellForCausalLM.from_pretrained(RUN / "model")
    tokenizer = Tokenizer.load(RUN / "tokenizer")
    prefix = "class Server:\n    def __init__(self, loop):\n        self."
    print(prefix + complete(model, tokenizer, prefix, max_new_tokens=16))


if __name__ == "__main__":
    main()
