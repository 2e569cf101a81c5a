"""The recipe: what is read is what is written, and what is wrong is named."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from codeshell import recipe
from codeshell.cli.dedup import add_arguments
from codeshell.dedup.parameters import Parameters
from codeshell.errors import UserError
from codeshell.pipeline import STAGES, stage_settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_shipped_recipes_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    settings = recipe.load(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(recipe.to_toml(settings))
    assert recipe.load(copy) == settings


def test_report_values_are_the_defaults() -> None:
    defaults = recipe.Recipe()
    assert (defaults.model.n_layer, defaults.model.n_embd, defaults.model.n_head) == (42, 4096, 32)
    assert (defaults.train.lr, defaults.train.min_lr_ratio, defaults.train.warmup_steps) == (3e-4, 0.1, 1000)
    assert [phase.context for phase in defaults.train.phases] == [2048, 8192]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.stepz=3", "unknown key train.stepz; did you mean steps?"),
        ("nonsense=1", "unknown key nonsense; known keys: name, seed"),
        ("train.steps=1.5", "train.steps: expected int, got float"),
        ("train.steps=0", "train.steps: expected int >= 1"),
        ("split.test=2.0", "split.test: expected float <= 1.0"),
        ("train.precision=fp8", "train.precision"),
        ("train.phases=[{share=0.5,context=256}]", "shares add up to 0.5"),
        ("train.phases=[{share=1.0,context=9000}]", "beyond model.n_positions 8192"),
        ("train.phases=[{share=1.0,contexts=256}]", "did you mean context?"),
        ("train.batch_tokens=1000", "not a multiple of the context 2048"),
        ("train.weights=bf16", "train.weights"),
        ("train.replicate=0", "train.replicate: expected int >= 1"),
        ("train={weights='bf16-masters', precision='fp32'}", "does not go with train.precision fp32"),
        ("train={gather='bf16', precision='fp32'}", "does not go with train.precision fp32"),
        ("train={gather='bf16', weights='bf16-stochastic'}", "leave out train.gather"),
        ("near_dedup.threshold=0.0", "near_dedup.threshold"),
        ("train", "write section.key=value"),
        ("seed.x=1", "seed is a value, not a section"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, override: str, complaint: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("seed = 1\n")
    with pytest.raises(UserError) as caught:
        recipe.load(path, [override])
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such recipe"):
        recipe.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(UserError, match="not valid TOML"):
        recipe.load(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        recipe.load(broken)


def test_override_takes_toml_values_and_bare_words(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("")
    settings = recipe.load(path, ["train.precision=fp32", "rules.languages=['python']", "name=mine"])
    assert settings.train.precision == "fp32"
    assert settings.rules.languages == ("python",)
    assert settings.name == "mine"


def test_every_key_says_what_changing_it_means() -> None:
    """A key without a mark would be in no stage's key: another value of it would go unnoticed."""
    keys = set(recipe.flatten(recipe.to_tree(recipe.Recipe())))
    assert keys == set(recipe.marks())
    assert set(recipe.marks().values()) == set(recipe.Change)


def test_every_marked_key_reaches_a_stage_unless_runs_resume_with_it() -> None:
    settings = [set(stage_settings(recipe.Recipe(), stage)) for stage in STAGES]
    decided = set().union(*settings)
    for key, mark in recipe.marks().items():
        assert (key in decided) == (mark is not recipe.Change.RESUME), key


def test_changed_names_what_a_result_depends_on() -> None:
    was = {"train.lr": 0.1, "train.threads": 1, "train.precision": "fp32", "seed": 0}
    assert recipe.changed(was, was | {"train.threads": 2, "train.log_every": 5, "name": "other"}) == []
    assert recipe.changed(was, was | {"train.lr": 0.2, "seed": 1}) == ["seed", "train.lr"]
    assert recipe.changed(was, was | {"train.precision": "bf16"}) == ["train.precision"]
    # How several GPUs share the work decides nothing but rounding; what the weights are kept in decides more.
    spread = {"train.recompute": "block", "train.compile": True, "train.replicate": 2, "train.reshard": False}
    assert recipe.changed(was, was | spread) == []
    assert recipe.changed(was, was | {"train.weights": "bf16-masters"}) == ["train.weights"]
    # A key that the earlier version did not know, and its default; then a key that this one does not know.
    assert recipe.changed(was, was | {"train.clip": 1.0}) == []
    assert recipe.changed(was, was | {"train.clip": 2.0}) == ["train.clip"]
    assert recipe.changed(was | {"train.gone": 1}, was) == ["train.gone"]
    assert recipe.describe(["train.clip"], was, was | {"train.clip": 2.0}) == "train.clip was 1.0, is 2.0"


def test_old_names_are_read_as_new_ones_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.toml"
    path.write_text('[tokenizer]\nvocab_size = 4096\n[train]\ndocument_attention = "own"\n')
    settings = recipe.load(path)
    assert settings.tokenizer.base_vocab_size == 4096
    assert settings.train.document_attention == "isolated"
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: tokenizer.vocab_size is called tokenizer.base_vocab_size now; read as that",
        f"{path}: train.document_attention = 'own' is called 'isolated' now; read as that",
    ]
    # A value given on the command line replaces the file's, whichever of the two names each has.
    assert recipe.load(path, ["tokenizer.base_vocab_size=300"]).tokenizer.base_vocab_size == 300


def test_old_names_in_overrides_and_beside_new_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[tokenizer]\nbase_vocab_size = 4096\n")
    settings = recipe.load(path, ["tokenizer.vocab_size=300", "train.document_attention=own"])
    assert settings.tokenizer.base_vocab_size == 300
    assert settings.train.document_attention == "isolated"
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert recipe.load(path, ["train.document_attention=all"]).train.document_attention == "all"
    assert not capsys.readouterr().err
    path.write_text("[tokenizer]\nbase_vocab_size = 4096\nvocab_size = 300\n")
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size is the old name of tokenizer\.base_vocab_size"):
        recipe.load(path)
    path.write_text("[tokenizer]\nvocab_size = 100\n[train]\ndocument_attention = ['own']\n")
    with pytest.raises(UserError, match=r"base_vocab_size: expected int >= 256"):
        recipe.load(path)


def test_settings_recorded_under_old_names_are_the_same() -> None:
    was = {"tokenizer.vocab_size": 300, "train.document_attention": "own"}
    now = {"tokenizer.base_vocab_size": 300, "train.document_attention": "isolated"}
    assert recipe.changed(was, now) == []
    assert recipe.changed(was, now | {"tokenizer.base_vocab_size": 301}) == ["tokenizer.base_vocab_size"]
    assert recipe.describe(["train.document_attention"], was, {"train.document_attention": "all"}) == (
        "train.document_attention was isolated, is all"
    )


def test_the_deduper_and_its_command_have_the_defaults_of_the_recipe() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = " ".join(parser.format_help().split())
    library, run = Parameters(), recipe.NearDedup()
    for name, phrase in (
        ("bands", "MinHash bands"),
        ("rows", "rows per band"),
        ("threshold", "near duplicates"),
    ):
        assert getattr(library, name) == getattr(run, name)
        assert f"{phrase} (default: {getattr(run, name)})" in text
    assert (library.ngram, library.seed) == (run.ngram, recipe.Recipe().seed)


def test_columns_that_an_earlier_version_recorded_are_the_usual_ones() -> None:
    was = {"collect.text_column": "text", "collect.path_column": "path", "collect.repo_column": "body"}
    now = dict.fromkeys(was, "") | {"collect.language": "", "collect.layout": "auto", "collect.damaged": "refuse"}
    assert recipe.changed(was, now) == ["collect.repo_column"]
    # A recipe that names such a column means it.
    assert recipe.from_tree({"collect": {"text_column": "text"}}, "r.toml").collect.text_column == "text"
