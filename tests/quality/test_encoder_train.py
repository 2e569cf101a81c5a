"""Training of encoders: the ridge against its formula, honest folds, mixes, vectors that are kept, fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import tiny_encoders

from codeshell.errors import UserError
from codeshell.quality import encoder_train
from codeshell.quality.encoder_settings import Settings, schedule
from codeshell.quality.encoder_train import Labelled, embed, fit, mix, ridge, train
from codeshell.scorers import encoder_model
from codeshell.scorers.bert import Encoder
from codeshell.train.schedule import learning_rate

SMALL = Settings(window=64, windows=2)
NAMES = ("quality", "readability")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoders.write(tmp_path_factory.mktemp("bert"), "bert")


def labelled(count: int = 36) -> Labelled:
    """Texts whose scores follow from their words: a share of comments."""
    texts = [
        "".join("# comments and words\n" if (line * 7 + n) % 6 < n % 6 else "x = x + 1\n" for line in range(12))
        for n in range(count)
    ]
    documents = pa.table({"text": pa.array(texts, pa.large_string()), "language": ["python", "go"] * (count // 2)})
    targets = np.array([[n % 6, 5 - n % 6] for n in range(count)], np.float64)
    return Labelled(documents, targets, NAMES)


FOLDS = np.arange(36) // 6 % 4


def test_the_ridge_is_its_formula_with_the_best_strength() -> None:
    values = np.random.default_rng(1)
    vectors = values.normal(3.0, 2.0, (40, 60))
    vectors[:, 7] = 4.0  # never changes
    targets = np.clip(2.0 + vectors[:, :3] @ values.normal(size=(3, 2)) / 9 + values.normal(size=(40, 2)), 0, 5)
    folds = np.arange(40) % 5

    def by_formula(inside: np.ndarray, strength: float) -> tuple[np.ndarray, ...]:
        mean, scale = vectors[inside].mean(0), vectors[inside].std(0)
        scale[7] = 1
        inputs = (vectors[inside] - mean) / scale
        offset = targets[inside].mean(0)
        gram = inputs.T @ inputs + strength * np.eye(60)
        return mean, scale, np.linalg.solve(gram, inputs.T @ (targets[inside] - offset)), offset

    errors = []
    for strength in encoder_train.STRENGTHS:
        error = 0.0
        for fold in range(5):
            mean, scale, weights, offset = by_formula(folds != fold, strength)
            predicted = np.clip((vectors[folds == fold] - mean) / scale @ weights + offset, 0, 5)
            error += ((predicted - targets[folds == fold]) ** 2).sum()
        errors.append(error)
    best = encoder_train.STRENGTHS[int(np.argmin(errors))]
    assert encoder_train.STRENGTHS[0] < best < encoder_train.STRENGTHS[-1]
    mean, scale, weights, offset = by_formula(np.ones(40, bool), best)
    head = ridge(vectors, targets, folds)
    np.testing.assert_allclose(head(vectors), np.clip((vectors - mean) / scale @ weights + offset, 0, 5), atol=1e-8)


@pytest.mark.parametrize("head", ["ridge", "mlp"])
def test_a_fold_is_scored_by_models_that_have_not_seen_it(
    bert: Path, tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_train, "STEPS", 60)
    settings = Settings(window=64, windows=2, head=head)  # type: ignore[arg-type]
    labels = labelled()
    first = fit(labels, FOLDS, bert, settings, tmp_path)
    # Other labels in fold 2 change the scores of the other folds, and none of its own.
    changed = labels.targets.copy()
    changed[FOLDS == 2] = 5 - changed[FOLDS == 2]
    second = fit(labels._replace(targets=changed), FOLDS, bert, settings, tmp_path)
    assert (first.oof[FOLDS == 2] == second.oof[FOLDS == 2]).all()
    assert (first.oof[FOLDS != 2] != second.oof[FOLDS != 2]).mean() > 0.5
    # The words decide the scores, and a head finds that.
    assert encoder_train.measure(first.oof[:, 0], labels.targets[:, 0])["spearman"] > 0.8
    assert fit(labels, FOLDS, bert, settings, tmp_path).oof.tobytes() == first.oof.tobytes()


def test_vectors_are_kept_and_made_once(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(bert, window=64)
    texts, names = ["x = 1", "y = 2", "x = 1"], ["c", "go", "c"]
    asked: list[str] = []
    original = encoder.embed

    def counting(some: list[str], languages: list[str]) -> np.ndarray:
        asked.extend(some)
        return original(some, languages)

    monkeypatch.setattr(encoder, "embed", counting)
    vectors = embed(encoder, texts, names, tmp_path)
    assert asked == ["x = 1", "y = 2"] and (vectors == original(texts, names)).all()
    more = embed(encoder, [*texts, "z = 3"], [*names, "c"], tmp_path)
    assert asked == ["x = 1", "y = 2", "z = 3"] and (more[:3] == vectors).all()
    # Another encoder, other windows and a damaged file find nothing of it.
    for other in (
        Encoder(bert, window=65),
        Encoder(bert, window=64, prefix=True),
        Encoder(bert, window=64, pooling="mean"),
    ):
        assert (embed(other, texts, names, tmp_path / "b") == other.embed(texts, names)).all()
    (tmp_path / "vectors.safetensors").write_bytes(b"damaged")
    assert (embed(encoder, texts, names, tmp_path) == vectors).all()


def test_mixes() -> None:
    values = np.random.default_rng(0)
    score = values.uniform(0, 5, 400)
    trees, encoder = score + values.normal(0, 0.6, 400), score + values.normal(0, 0.9, 400)
    folds = np.arange(400) % 5
    found, joined = mix(trees, encoder, score, folds)
    shares = np.linspace(0, 1, 10_001)
    squares = [((share * trees + (1 - share) * encoder - score) ** 2).sum() for share in shares]
    assert found.intercept == 0 and found.trees + found.encoder == pytest.approx(1.0)
    assert found.trees == pytest.approx(shares[int(np.argmin(squares))], abs=1e-4) and 0.5 < found.trees < 0.9
    error = {
        name: np.abs(x - score).mean() for name, x in {"trees": trees, "encoder": encoder, "joined": joined}.items()
    }
    assert error["joined"] < min(error["trees"], error["encoder"])
    # Other scores in a fold change nothing for that fold's documents.
    other = np.where(folds == 1, 5 - score, score)
    assert (mix(trees, encoder, other, folds)[1][folds == 1] == joined[folds == 1]).all()
    # What is turned around has no weight; where both say the same, the shares are equal.
    assert mix(score, 5 - encoder, score, folds)[0] == (0.0, 1.0, 0.0)
    assert mix(5 - trees, score, score, folds)[0] == (0.0, 0.0, 1.0)
    assert mix(trees, trees, score, folds)[0] == encoder_model.MEAN


def test_a_model_is_written_and_read(bert: Path, tmp_path: Path) -> None:
    labels = labelled()
    trees = np.clip(labels.targets[:, 0] + np.resize([0.5, -0.5, 1.0], 36), 0, 5)
    figures = train(labels, FOLDS, bert, SMALL, tmp_path / "m", trees)
    assert list(figures) == ["encoder", "trees", "mean", "joined", "readability"]
    model = encoder_model.load(tmp_path / "m")
    assert model.outputs == NAMES and model.encoder.directory == bert.resolve()
    assert model.metrics["out_of_fold"]["joined"]["spearman"] == pytest.approx(figures["joined"]["spearman"])
    text, language = labels.documents["text"].to_pylist(), labels.documents["language"].to_pylist()
    expected = fit(labels, FOLDS, bert, SMALL, tmp_path / "m")
    vectors = model.encoder.embed(text, language)
    assert (model.head(vectors) == expected.head(vectors)).all()
    # The half width holds its share of the documents as the trees score them.
    for share in (0.25, 0.5, 1.0):
        inside = (np.abs(trees - 2.5) <= model.half_width(2.5, share) + 1e-12).mean()
        assert inside >= share and (share < 1) == (model.half_width(2.5, share) < 2.5)
    with pytest.raises(UserError, match="fewer than three folds"):
        train(labels, FOLDS % 2, bert, SMALL, tmp_path / "n")
    # Labels that are all equal have no ranks; their figures are null, not a broken file.
    flat = labels._replace(targets=np.full((36, 2), 3.0))
    train(flat, FOLDS, bert, SMALL, tmp_path / "flat")
    assert (
        json.loads((tmp_path / "flat" / "encoder.json").read_text())["metrics"]["out_of_fold"]["encoder"]["spearman"]
        is None
    )


@pytest.mark.parametrize("kind", tiny_encoders.KINDS)
def test_fine_tuning_learns_and_is_read_back(kind: str, tmp_path: Path) -> None:
    directory = tiny_encoders.write(tmp_path / "source", kind)
    settings = Settings(window=64, windows=1, finetune=True, epochs=4, lr=3e-3, batch=4)
    labels = labelled(18)
    folds = np.arange(18) // 6
    figures = train(labels, folds, directory, settings, tmp_path / "m")
    assert figures["encoder"]["spearman"] > 0.8
    model = encoder_model.load(tmp_path / "m")
    assert model.encoder.directory == tmp_path / "m" / "encoder" and model.encoder.prefix
    assert model.encoder.identity != Encoder(directory, window=64).identity
    text, language = labels.documents["text"].to_pylist(), labels.documents["language"].to_pylist()
    found = model.head(model.encoder.embed(text, language))[:, 0]
    assert encoder_train.measure(found, labels.targets[:, 0])["spearman"] > 0.9
    # The folder can be moved: the encoder is inside.
    (tmp_path / "m").rename(tmp_path / "moved")
    again = encoder_model.load(tmp_path / "moved")
    assert again.version == model.version and (
        again.head(again.encoder.embed(text[:1], language[:1]))[:, 0] == found[0]
    )


def test_fine_tuning_gives_the_same_bytes_twice(bert: Path, tmp_path: Path) -> None:
    settings = Settings(window=64, windows=1, finetune=True, epochs=1, batch=6)
    labels, folds = labelled(12), np.arange(12) // 4
    for name in ("a", "b"):
        train(labels, folds, bert, settings, tmp_path / name)
    for file in ("head.safetensors", "encoder/model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with pytest.raises(UserError, match="--epochs, --batch and --lr"):
        train(labels, folds, bert, Settings(window=64, finetune=True, epochs=0), tmp_path / "c")


def test_the_schedule_warms_up_and_ends_at_nothing() -> None:
    plan = schedule(100, 1e-3)
    rates = [learning_rate(plan, step) for step in range(1, 101)]
    assert max(rates) == rates[9] == pytest.approx(1e-3) and rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9) and learning_rate(schedule(1, 1e-3), 1) == pytest.approx(1e-3)
