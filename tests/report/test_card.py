"""The model card of a run: what it says is in the run, and nothing in it is more than text."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import pytest
from helpers.synthetic_run import HOSTILE

from codeshell.cli import card as command
from codeshell.errors import UserError
from codeshell.report import card

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed: a parser did NOT read a card")


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(words))


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A run of this test alone, with a model."""
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    (directory / "model").mkdir()
    shape = {"model_type": "kclgpt", "n_layer": 4, "n_embd": 256, "n_head": 4, "num_query_groups": 2, "n_inner": 1024}
    (directory / "model" / "config.json").write_text(json.dumps(shape | {"n_positions": 1024, "vocab_size": 4224}))
    return directory


def section(text: str, name: str) -> str:
    return text.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


def test_counts_settings_losses_and_intervals(own: Path) -> None:
    text = card.render(own)
    stats = {stage: json.loads((own / stage / "stats.json").read_text()) for stage in ("collect", "filter", "train")}
    data = section(text, "Data")
    for rule, amount in stats["filter"]["dropped"].items():
        if amount["documents"]:
            assert f"| Filter: {rule} | {amount['documents']:,} |" in data
    assert f"**{stats['filter']['kept']['documents']:,}**" in data
    assert "codeshell does not record the licences of documents." in data
    assert "| layers | 4 |" in section(text, "Model") and "4,263,168" in section(text, "Model")
    training = section(text, "Training")
    assert "1.973" in training and "2.082" in training and "| 1,024 | 327,680 |" in training
    evaluation = section(text, "Evaluation")
    assert "| the model | 2.070 | [1.990, 2.160] |  |" in evaluation
    assert "- The model needs 1.21 bits per byte less" in evaluation and "Not run:" in evaluation
    limits = section(text, "Limits")
    assert "0.77 tokens per parameter, where about 20" in limits and "7.0 % of 200 held-out lines" in limits
    assert "1,024 tokens of context" in limits and "No licence was chosen" in limits


def test_hostile_text_is_text(own: Path) -> None:
    text = card.render(own, name=f"x\n---\n# {HOSTILE}")
    assert "\u202e" not in text and "<script" not in text and "<img" not in text
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    body = text.split("\n---\n", 1)[1]
    found = parser.parse(body)
    kinds = {child.type for token in found for child in [token, *(token.children or [])]}
    assert not kinds & {"html_inline", "html_block", "image", "link_open"}
    headings = [
        found[index + 1].content for index, token in enumerate(found) if token.tag == "h1" and token.nesting == 1
    ]
    assert len(headings) == 1
    # As a language, in the tables of the data and of the evaluation.
    texts = "\n".join(child.content for token in found for child in token.children or [] if child.type == "text")
    assert texts.count("alert('x')") >= 3
    header = text.split("---\n")[1]
    assert all(re.match(r"[a-z_]+: ", line) for line in header.strip().splitlines())


def test_a_run_in_progress_and_damage(own: Path) -> None:
    (own / "recipe.toml").write_text("no toml [")
    shutil.rmtree(own / "evaluate")
    text = card.render(own)
    assert "The model was not evaluated." in text and "4.26 M parameters" in text
    (own / "train" / "stats.json").unlink()
    with pytest.raises(UserError, match="has not trained, so there is no model to describe"):
        card.render(own)


def test_local_paths_and_secrets_of_urls_are_not_published(own: Path) -> None:
    inputs = ["/home/someone/secret-place/code", "{stdlib}", "https://user:password@host.example/d.jsonl?token=abc"]
    (own / "recipe.toml").write_text(f"[collect]\ninputs = {json.dumps(inputs)}\n")
    data = section(card.render(own), "Data")
    assert "| code | not recorded |" in data and "| {stdlib} | PSF-2.0" in data and "host.example/d.jsonl" in data
    assert not re.search(r"someone|secret-place|:password|token=|user:", card.render(own))


def test_a_fine_tuned_model_names_its_base(own: Path) -> None:
    (own / "recipe.toml").write_text(
        '[finetune]\nbase = "/models/Qwen2.5-Coder-1.5B"\nmethod = "lora"\nrank = 16\ninstructions = ["a.jsonl"]\n'
    )
    (own / "model" / "config.json").write_text(json.dumps({"model_type": "qwen2", "num_hidden_layers": 28}))
    text = card.render(own)
    assert "fine-tuned from Qwen2.5-Coder-1.5B (LoRA of rank 16, merged)" in " ".join(text.split())
    assert "in that type's own format: transformers loads it" in " ".join(text.split())
    assert "codeshell export" not in text
    assert "| layers | 28 |" in text and "that of the base, qwen2" in text
    assert "tuned to follow instructions" not in text and "tokens per parameter" not in text


def test_the_same_run_gives_the_same_card_and_the_report_writes_it(own: Path) -> None:
    from codeshell.engine import LocalEngine
    from codeshell.recipe import Recipe
    from codeshell.report import run_page

    (own / "model-starcoder2").mkdir()
    (own / "model-starcoder2" / "config.json").write_text("{}")
    with LocalEngine(1) as engine:
        run_page.run(Recipe(), own, engine)
    text = (own / "model" / "README.md").read_text(encoding="utf-8")
    assert text == card.render(own)
    other = (own / "model-starcoder2" / "README.md").read_text(encoding="utf-8")
    assert other == text.replace('library_name: "codeshell"', 'library_name: "transformers"') != text


def test_the_command(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(str(own), "--name", "mine", "--license", "apache-2.0") == 0
    assert capsys.readouterr().out == f"{own / 'model' / 'README.md'}\n"
    text = (own / "model" / "README.md").read_text(encoding="utf-8")
    assert '\nlicense: "apache-2.0"\n' in text and "\n# mine\n" in text and "No licence" not in text
    assert call(str(own), "-o", str(tmp_path / "there" / "card.md")) == 0
    with pytest.raises(UserError, match="no such directory"):
        call(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="is a directory; give a file name"):
        call(str(own), "-o", str(tmp_path))
    shutil.rmtree(own / "model")
    with pytest.raises(UserError, match="has no model/ to put the card into; give -o FILE"):
        call(str(own))
