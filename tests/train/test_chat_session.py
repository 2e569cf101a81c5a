"""A tiny model that was trained on conversations: it answers what it was taught, and then it stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from helpers.tiny_run import byte_tokenizer, tiny_recipe

from codeshell.data import instructions
from codeshell.model import CodeShellForCausalLM
from codeshell.model.generation import generate
from codeshell.tokenizer.chat import ChatTemplate
from codeshell.train.train_run import run

TOKENIZER = byte_tokenizer()

ANSWERS = {"a": "list", "b": "def f", "c": "x = 1", "d": "12"}


def test_a_session(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer")
    template = ChatTemplate.load(tmp_path, TOKENIZER, "codeshell")
    assert template is not None
    rows: list[dict[str, Any]] = [{"instruction": f"{one}?", "output": answer} for one, answer in ANSWERS.items()]
    # A second question in the same conversation, so that a session has a past.
    pairs = list(ANSWERS.items())
    for (first, answer), (second, other) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
        turns = [("human", f"{first}?"), ("gpt", answer), ("human", f"{second}?"), ("gpt", other)]
        rows.append({"conversations": [{"from": who, "value": what} for who, what in turns]})
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = instructions.write(
        [str(path)], tmp_path / "tokens", TOKENIZER, template, max_tokens=128, valid=0.0, seed=0
    )
    assert counts["train"]["documents"] == len(rows)
    recipe = tiny_recipe(
        dropout=0.0, steps=110, batch_tokens=384, micro_batch_tokens=384, lr=1e-2, weight_decay=0.0, valid_every=0,
        phases=[{"share": 1.0, "context": 128}], checkpoint_every=0,
    )  # fmt: skip
    run(recipe, tmp_path, None)  # type: ignore[arg-type]

    model = CodeShellForCausalLM.from_pretrained(tmp_path / "model").eval()
    messages: list[dict[str, str]] = []

    def ask(question: str) -> str:
        """The answer of the model, which stops by itself."""
        messages.append({"role": "user", "content": question})
        prompt = torch.tensor([template.prompt_ids(messages, TOKENIZER)])

        def stop(row: int, new: list[int]) -> bool:
            return any(end in TOKENIZER.decode(new) for end in template.stop)

        (new,) = generate(model, prompt, max_new_tokens=24, stop_ids=template.stop_ids, stop=stop)
        assert len(new) < 24, TOKENIZER.decode(new)
        text = TOKENIZER.decode(new)
        for end in template.stop:
            text = text.split(end)[0]
        messages.append({"role": "assistant", "content": text.strip()})
        return text.strip()

    # One question after another, and those of a conversation that it has seen.
    for question, answer in ANSWERS.items():
        messages.clear()
        assert ask(f"{question}?") == answer
    messages.clear()
    assert [ask("a?"), ask("b?")] == [ANSWERS["a"], ANSWERS["b"]]
