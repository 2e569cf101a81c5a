"""The scorer `encoder`: who is in the band, what is joined, and models that do not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import tiny_encoders
from safetensors.numpy import load_file, save_file

from codeshell.errors import UserError
from codeshell.scorers import encoder_model, make
from codeshell.scorers.bert import Encoder
from codeshell.scorers.encoder_model import EncoderModel, Head, Mix, gelu, quantiles

TREES = np.linspace(0.0, 5.0, 101)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose trees score the labels evenly from 0 to 5."""
    home = tmp_path_factory.mktemp("encoder")
    encoder = Encoder(tiny_encoders.write(home / "bert", "bert"), window=64, windows=2)
    values = np.random.default_rng(0)
    size = encoder.dimension
    head = Head(np.zeros(size), np.ones(size), values.normal(0, 0.2, (2, size)), np.array([2.0, 3.0]))
    model = EncoderModel(encoder, head, ("quality", "value"), Mix(0.1, 0.6, 0.3), quantiles(TREES))
    encoder_model.write(home / "model", model, str(encoder.directory))
    return home / "model"


def batch(quality: list[float | None]) -> pa.Table:
    count = len(quality)
    return pa.table(
        {
            "text": pa.array([f"x = {n}\n" * (n + 1) for n in range(count)], pa.large_string()),
            "language": ["python"] * count,
            "quality": pa.array(quality, pa.float64()),
        }
    )


QUALITY = [0.0, 1.0, 2.0, 2.5, None, 3.0, 3.1, 5.0]


def test_the_encoder_reads_the_band_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make("encoder", {"model": str(folder), "threshold": 2.5, "band": 0.5})
    read: list[str] = []
    original = Encoder.embed

    def embed(self: Encoder, texts: list[str], languages: list[str]) -> Any:
        read.extend(texts)
        return original(self, texts, languages)

    monkeypatch.setattr(Encoder, "embed", embed)
    table = batch(QUALITY)
    scores = {name: column.to_pylist() for name, column in scorer.score(table).items()}
    texts = table["text"].to_pylist()
    assert read == [texts[n] for n in (2, 3, 5)]
    own = scores["encoder_quality"]
    assert [value is not None for value in own] == [n in (2, 3, 5) for n in range(8)]
    model = encoder_model.load(folder)
    for n, quality in enumerate(QUALITY):
        if n in (2, 3, 5):
            assert own[n] == model.head(original(model.encoder, [texts[n]], ["python"]))[0, 0]
            assert scores["joined_quality"][n] == np.clip(0.1 + 0.6 * quality + 0.3 * own[n], 0, 5)
        else:
            assert scores["joined_quality"][n] == quality


def test_columns_do_not_depend_on_the_batch(folder: Path) -> None:
    scorer = make("encoder", {"model": str(folder), "band": 5})
    table = batch(QUALITY)
    whole = scorer.score(table)
    for start in range(len(QUALITY)):
        for name, column in scorer.score(table.slice(start, 1)).items():
            assert column.to_pylist() == whole[name].to_pylist()[start : start + 1]
    assert all(len(column) == 0 for column in scorer.score(table.slice(0, 0)).values())


def test_the_default_band_halves_the_cost(folder: Path) -> None:
    settings = {"model": str(folder)}
    assert make("encoder", settings).half_width == make("encoder", settings | {"share": 0.5}).half_width
    for threshold, share in ((2.5, 0.5), (0.0, 0.5), (4.5, 0.2), (2.5, 1.0)):
        scorer = make("encoder", settings | {"threshold": threshold, "share": share})
        inside = (np.abs(TREES - threshold) <= scorer.half_width).mean()
        assert share <= inside <= share + 0.03


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "model is missing"),
        ({"model": "no/such"}, "no encoder model; train one"),
        ({"band": 1, "share": 0.5}, "give one of them"),
        ({"band": -1}, "band -1 is not in 0"),
        ({"band": float("nan")}, "band nan"),
        ({"share": 1.5}, "share 1.5"),
        ({"threshold": "3"}, "threshold '3'"),
        ({"encoder": "no/such/encoder"}, "no such directory"),
        ({"windows": 3}, "score.settings of encoder"),
    ],
)
def test_bad_settings_are_one_line(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make("encoder", ({} if not settings else {"model": str(folder)}) | settings)
    assert "\n" not in str(caught.value)


def test_another_encoder_and_a_moved_one(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder.parent / "bert", tmp_path / "moved")
    assert make("encoder", {"model": str(folder), "encoder": str(moved)})
    other = tiny_encoders.write(tmp_path / "other", "bert", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"not the encoder that .* was trained with"):
        make("encoder", {"model": str(folder), "encoder": str(other)})


def changed(folder: Path, copy: Path, **members: Any) -> Path:
    shutil.copytree(folder, copy)
    path = copy / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | members))
    return copy


def test_damaged_models_are_one_line(folder: Path, tmp_path: Path) -> None:
    for number, members in enumerate(
        ({"version": 2}, {"dimension": 3}, {"outputs": ["value", "quality"]}, {"outputs": ["quality"]}, {"mix": [1, 2]})
    ):
        with pytest.raises(UserError, match="train it again"):
            encoder_model.load(changed(folder, tmp_path / str(number), **members))
    copy = shutil.copytree(folder, tmp_path / "nan")
    tensors = load_file(copy / "head.safetensors")
    save_file(tensors | {"bias": np.array([np.nan, 0.0])}, copy / "head.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        encoder_model.load(copy)
    (copy / "head.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="damaged"):
        encoder_model.load(copy)
    (copy / "encoder.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        encoder_model.load(copy)


def test_without_trees_the_band_must_be_given(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path / "alone", band=[])
    with pytest.raises(UserError, match="give `band` instead"):
        make("encoder", {"model": str(copy)})
    assert make("encoder", {"model": str(copy), "band": 1})


def test_the_version_follows_the_model(folder: Path, tmp_path: Path) -> None:
    first = make("encoder", {"model": str(folder)}).version
    assert make("encoder", {"model": str(folder), "threshold": 3}).version == first
    assert make("encoder", {"model": str(changed(folder, tmp_path / "a", mix=[0, 1, 0]))}).version != first
    copy = shutil.copytree(folder, tmp_path / "b")
    tensors = load_file(copy / "head.safetensors")
    save_file(tensors | {"bias": tensors["bias"] + 1}, copy / "head.safetensors")
    assert make("encoder", {"model": str(copy)}).version != first


def test_a_hidden_layer_is_that_of_torch() -> None:
    values = np.random.default_rng(3)
    first, second = torch.nn.Linear(7, 5, dtype=torch.float64), torch.nn.Linear(5, 2, dtype=torch.float64)
    with torch.no_grad():
        second.bias += 2.5
    inputs = values.normal(size=(20, 7))
    wanted = second(torch.nn.functional.gelu(first(torch.from_numpy(inputs)), approximate="tanh"))
    arrays = [p.detach().numpy() for p in (second.weight, second.bias, first.weight, first.bias)]
    head = Head(np.zeros(7), np.ones(7), *arrays)
    np.testing.assert_allclose(head(inputs), wanted.detach().numpy().clip(0, 5), rtol=1e-12)
    assert gelu(np.zeros(1))[0] == 0


def test_importing_the_scorer_loads_no_torch() -> None:
    script = "import codeshell.scorers.encoder, codeshell.scorers.bert, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
