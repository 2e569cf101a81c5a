"""A model for a larger tokenizer: old ids keep their rows and logits, new ids start as the mean of their parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codeshell.cli import main
from codeshell.errors import UserError
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.resize import plan, resize
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.extend import extend
from codeshell.tokenizer.train import train
from tests.helpers.tiny_models import tiny_model

CODE = ["def total(values):\n    return sum(value for value in values)\n" * 4]
CHINESE = ["返回所有的值的总和。\n返回列表中的值,并返回总和。\n" * 6, "# 返回值的列表\nreturn values  # 返回值\n" * 5]


@pytest.fixture(scope="module")
def old() -> Tokenizer:
    result = train([CODE], 280)
    assert result.base_vocab_size == 280
    return result


@pytest.fixture(scope="module", params=["keep", "end"])
def new(old: Tokenizer, request: pytest.FixtureRequest) -> Tokenizer:
    result = extend(old, [CHINESE], 320, specials=request.param).tokenizer
    assert result.base_vocab_size == 320
    return result


def model_of(tokenizer: Tokenizer, **changes: object) -> CodeShellForCausalLM:
    eot = tokenizer.eot
    return tiny_model(vocab_size=tokenizer.padded_vocab_size, bos_token_id=eot, eos_token_id=eot, **changes)


def ids_by_name(tokenizer: Tokenizer) -> dict[str, int]:
    return tokenizer.core()["model"]["vocab"] | tokenizer.specials


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_old_tokens_keep_their_rows_and_new_ones_are_means(
    old: Tokenizer, new: Tokenizer, tied: bool, dtype: torch.dtype
) -> None:
    model = model_of(old, tie_word_embeddings=tied).to(dtype)
    resized, found = resize(model, old, new)
    before, after = ids_by_name(old), ids_by_name(new)
    assert (found.kept, found.made, found.lone) == (len(before), 40, 0)
    for source, result in (
        (model.transformer.wte.weight, resized.transformer.wte.weight),
        (model.lm_head.weight, resized.lm_head.weight),
    ):
        assert result.shape == (new.padded_vocab_size, model.config.n_embd) and result.dtype == dtype
        for name, index in before.items():
            assert torch.equal(result[after[name]], source[index]), name
        # The parts by the old tokenizer's own encoder, where the new token is text.
        texts = {name: new.decode_bytes([index]) for name, index in after.items() if name not in before}
        whole = {name: text.decode(errors="ignore") for name, text in texts.items()}
        whole = {name: text for name, text in whole.items() if text.encode() == texts[name]}
        assert len(texts) == 40 and len(whole) > 10
        for name, text in whole.items():
            mean = source[torch.tensor(old.encode(text))].double().mean(0)
            torch.testing.assert_close(result[after[name]].double(), mean, atol=2e-3, rtol=1e-2)
        # Padding has the mean of all rows in use, so its logits stand out nowhere.
        mean = source[torch.tensor(sorted(before.values()))].double().mean(0)
        torch.testing.assert_close(result[new.vocab_size].double(), mean, atol=2e-3, rtol=1e-2)
    assert (resized.lm_head.weight is resized.transformer.wte.weight) == tied
    assert resized.config.n_vocab_used == new.vocab_size
    assert resized.config.bos_token_id == resized.config.eos_token_id == new.eot


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_old_ids_are_the_same(old: Tokenizer, new: Tokenizer, tied: bool) -> None:
    model = model_of(old, tie_word_embeddings=tied)
    resized, _ = resize(model, old, new)
    text = "def value(values):\n    return total\n"
    before, after = ids_by_name(old), ids_by_name(new)
    names = list(before)
    ids = torch.tensor([[*old.encode(text), old.eot]])
    moved = {before[name]: after[name] for name in names}
    theirs = torch.tensor([[moved[int(index)] for index in ids[0]]])
    # The text encodes to the same tokens, as no new merge applies to it.
    assert theirs.tolist()[0][:-1] == new.encode(text)
    logits = model(ids).logits[..., [before[name] for name in names]]
    again = resized(theirs).logits[..., [after[name] for name in names]]
    # The product of a larger matrix may sum in another order, no more than that.
    torch.testing.assert_close(again, logits, atol=2e-5, rtol=1e-5)


def test_training_continues_with_the_extension(old: Tokenizer, new: Tokenizer) -> None:
    model = model_of(old)
    resized, _ = resize(model, old, new)
    resized.train()
    ids = torch.tensor([new.encode(CHINESE[0])[:60]])
    assert len(set(ids[0].tolist()) - set(ids_by_name(old).values())) >= 3
    optimizer = torch.optim.SGD(resized.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = resized(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    # The model that it came from is as it was: nothing but the layers between is shared, and those were trained here.
    assert model.transformer.wte.weight.shape[0] == old.padded_vocab_size


def test_generation_never_gives_padding(old: Tokenizer, new: Tokenizer) -> None:
    resized, _ = resize(model_of(old), old, new)
    with torch.no_grad():  # make padding the likeliest of all
        resized.transformer.wte.weight[new.vocab_size :] = 50.0
    (ids,) = resized.generate(torch.tensor([new.encode("def ")]), max_new_tokens=12)
    assert ids and max(ids) < new.vocab_size


def test_a_model_that_does_not_fit_its_tokenizer_is_refused(old: Tokenizer, new: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"128 rows, but its tokenizer .*--base"):
        resize(tiny_model(vocab_size=128), old, new)
    tree = json.loads(old.source)
    tree["model"] |= {"vocab": {"é": 0}, "merges": []}
    tree["added_tokens"] = []
    foreign = Tokenizer(json.dumps(tree))
    with pytest.raises(UserError, match="no token that the model's own tokenizer knows"):
        plan(foreign, Tokenizer(json.dumps(tree | {"model": tree["model"] | {"vocab": {"ê": 0}}})))


@pytest.mark.parametrize("layout", ["codeshell", "starcoder2"])
def test_the_command_writes_a_model_directory(
    old: Tokenizer, new: Tokenizer, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of(old)
    model.save_pretrained(tmp_path / "model", layout)  # type: ignore[arg-type]
    new.save(tmp_path / "new")
    arguments = ["model", "resize", str(tmp_path / "model"), str(tmp_path / "new"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "--base" in capsys.readouterr().err
    old.save(tmp_path / "model")
    assert main(arguments) == 0
    assert "40 start as the mean of their parts" in capsys.readouterr().out
    assert Tokenizer.load(tmp_path / "out").hash == new.hash
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == ("starcoder2" if layout == "starcoder2" else "kclgpt")
    assert config["vocab_size"] == new.padded_vocab_size
    loaded = CodeShellForCausalLM.from_pretrained(tmp_path / "out")
    expected, _ = resize(model, old, new)
    for (name, ours), (_, theirs) in zip(loaded.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert main(arguments) == 2
    assert "already holds a model" in capsys.readouterr().err


def test_bad_input_of_the_command_is_one_line(
    old: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old.save(tmp_path / "tokenizer")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    old.save(tmp_path / "damaged")
    (tmp_path / "damaged" / "config.json").write_text(json.dumps(CodeShellConfig(vocab_size=384).to_dict()))
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"\x00" * 40)
    for arguments, message in (
        ([tmp_path / "none", tmp_path / "tokenizer"], "none"),
        ([tmp_path / "empty", tmp_path / "tokenizer"], "no tokenizer.json"),
        ([tmp_path / "damaged", tmp_path / "empty"], "no such tokenizer"),
        ([tmp_path / "damaged", tmp_path / "tokenizer"], "safetensors"),
    ):
        assert main(["model", "resize", *map(str, arguments), "-o", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
        assert not (tmp_path / "out").exists()
