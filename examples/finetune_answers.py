"""Teach a model to answer, from a file of questions and answers, and ask it one.

python examples/finetune_answers.py MODEL

MODEL is a directory with a model of codeshell that `codeshell finetune` takes. Only the answers and their ends count in
the loss. Without MODEL a tiny one is made that has never learned anything. It learns the 24 conversations of
answers.jsonl by heart, which shows that it is taught, not that it can program.
"""

import json
import sys
from pathlib import Path

import torch

from codeshell import pipeline, recipe
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.generation import generate
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.chat import ChatTemplate
from codeshell.tokenizer.train import train

ANSWERS = Path(__file__).with_name("answers.jsonl")
RUN = Path("runs/answers")
QUESTION = "Write a function that says whether a number is even."


def small_model(directory: Path) -> Path:
    """A model of 150,000 parameters, drawn at random, with a tokenizer of the answers' words."""
    tokenizer = train([ANSWERS.read_text(encoding="utf-8").splitlines()], 512)
    torch.manual_seed(0)
    shape = CodeShellConfig(
        vocab_size=tokenizer.padded_vocab_size, n_layer=2, n_embd=64, n_head=4, num_query_groups=2, n_positions=256
    )
    CodeShellForCausalLM(shape).save_pretrained(directory)
    tokenizer.save(directory)
    return directory


def main() -> None:
    base = Path(sys.argv[1]) if len(sys.argv) > 1 else small_model(RUN / "base")
    # The keys of recipes/*.toml. A large model needs a rate of 2e-5, or method = "lora", and more examples than these.
    tree = {
        "finetune": {"base": str(base), "instructions": [str(ANSWERS)], "template": "plain", "epochs": 45.0},
        "split": {"valid": 0.0},
        "train": {"batch_tokens": 1024, "phases": [{"share": 1.0, "context": 256}], "lr": 6e-3, "threads": 1},
    }
    pipeline.run(recipe.from_tree(tree, "finetune_answers.py"), RUN, until="train")
    counts = json.loads((RUN / "tokens" / "instructions.json").read_text())["train"]
    print(f"{counts['documents']} conversations: {counts['tokens']} tokens, of which {counts['trained']} are learned")

    model, tokenizer = CodeShellForCausalLM.from_pretrained(RUN / "model"), Tokenizer.load(RUN / "model")
    chat = ChatTemplate.load(RUN / "model", tokenizer)
    prompt = torch.tensor([chat.prompt_ids([{"role": "user", "content": QUESTION}], tokenizer)])
    (new,) = generate(model, prompt, max_new_tokens=64, stop_ids=chat.stop_ids)
    print(f"{QUESTION}\n\n{tokenizer.decode(new)}")


if __name__ == "__main__":
    main()
