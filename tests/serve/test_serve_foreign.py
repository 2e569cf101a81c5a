"""Models of transformers, served: every family answers editors with the text of transformers' own `generate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from helpers import tiny_transformers
from helpers.live_server import TOKENIZER, Live, live
from helpers.tiny_causal import byte_level, transformers

from codeshell.errors import UserError
from codeshell.integrations import ARCHITECTURES
from codeshell.serve import ready
from codeshell.serve.load import load_service
from codeshell.serve.options import Options
from codeshell.tokenizer import Tokenizer

NEW = 10

TEMPLATE = (
    "{% for message in messages %}<filename>{{ message['role'] }}\n{{ message['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<filename>assistant\n{% endif %}"
)


def write(directory: Path, kind: str, **changes: Any) -> Path:
    """A tiny random model with the tokenizer of the tests and a chat template; its window is shorter than a prompt."""
    small = {"vocab_size": TOKENIZER.vocab_size + 3, "eos_token_id": TOKENIZER.eot, "max_position_embeddings": 256}
    tiny_transformers.tiny(kind, **(small | changes)).save_pretrained(directory)
    TOKENIZER.save(directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


def generated(directory: Path, ids: list[int], tokenizer: Tokenizer = TOKENIZER) -> str:
    """What transformers itself writes after these ids, the likeliest token at each step, up to a special token."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    ends = sorted(tokenizer.specials.values())
    unknown = list(range(tokenizer.vocab_size, model.config.vocab_size))
    prompt = torch.tensor([ids])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=NEW, eos_token_id=ends,
        pad_token_id=ends[0], suppress_tokens=unknown,
    )  # fmt: skip
    return tokenizer.decode(out[0, len(ids) :].tolist(), specials=False)


def fim(prefix: str, suffix: str) -> list[int]:
    marks = [TOKENIZER.specials[f"<fim_{name}>"] for name in ("prefix", "suffix", "middle")]
    return [marks[0], *TOKENIZER.encode(prefix), marks[1], *TOKENIZER.encode(suffix), marks[2]]


def post(server: Live, path: str, body: dict[str, Any], status: int = 200) -> Any:
    response = httpx2.post(f"{server.url}{path}", json=body, timeout=60)
    assert response.status_code == status, response.text
    return response.json()


def streamed(server: Live, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = httpx2.post(f"{server.url}{path}", json=body | {"stream": True}, timeout=60)
    assert response.status_code == 200, response.text
    data = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_family_writes_what_transformers_writes(kind: str, tmp_path: Path) -> None:
    directory = write(tmp_path / kind, kind)
    prefix, suffix = "def double(value):\n    ret", "\n\nprint(double(3))\n"
    name = TOKENIZER.specials["<filename>"]
    question = [name, *TOKENIZER.encode("user\nSort <fim_prefix>."), TOKENIZER.eot]
    chat = [*question, name, *TOKENIZER.encode("assistant\n")]
    expected = {
        "infill": generated(directory, fim(prefix, suffix)),
        "edited": generated(directory, fim(prefix + "urn", suffix)),
        "chat": generated(directory, chat),
        "plain": generated(directory, TOKENIZER.encode(prefix)),
    }
    assert len(set(expected.values())) > 2
    with live(load_service(Options(str(directory)))) as server:
        # As llama.vim asks, and again after three letters were typed: what both begin with is in the cache.
        body = {"input_prefix": prefix, "input_suffix": suffix, "prompt": "", "n_predict": NEW, "temperature": 0}
        first = post(server, "/infill", body)
        assert first["content"] == expected["infill"]
        again = post(server, "/infill", body | {"input_prefix": prefix + "urn"})
        assert again["content"] == expected["edited"]
        assert again["tokens_evaluated"] > again["timings"]["cache_n"] > 20
        messages = [{"role": "user", "content": "Sort <fim_prefix>."}]
        answer = post(server, "/v1/chat/completions", {"messages": messages, "max_tokens": NEW, "temperature": 0})
        assert answer["choices"][0]["message"]["content"] == expected["chat"]
        events = streamed(server, "/v1/completions", {"prompt": prefix, "max_tokens": NEW, "temperature": 0})
        assert "".join(event["choices"][0]["text"] for event in events) == expected["plain"]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("qwen"), "qwen2")


@pytest.fixture(scope="module")
def served(qwen: Path) -> Iterator[Live]:
    with live(load_service(Options(str(qwen), name="tuned"))) as server:
        yield server


def test_what_it_says_of_itself(served: Live) -> None:
    props = httpx2.get(f"{served.url}/props", timeout=60).json()
    assert (props["infill"], props["chat"], props["chat_template"]) == ("psm", True, TEMPLATE)
    assert props["default_generation_settings"]["n_ctx"] == 256
    assert httpx2.get(f"{served.url}/v1/models", timeout=60).json()["data"][0]["id"] == "tuned"


def test_the_openai_client(served: Live, qwen: Path) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        whole = client.completions.create(model="any", prompt="def f(", suffix="):\n", max_tokens=NEW, temperature=0)
        events = client.completions.create(
            model="any", prompt="def f(", suffix="):\n", max_tokens=NEW, temperature=0, stream=True
        )
        assert "".join(event.choices[0].text for event in events) == whole.choices[0].text
        assert whole.choices[0].text == generated(qwen, fim("def f(", "):\n"))
        with pytest.raises(openai.BadRequestError, match="but the model holds 256"):
            client.completions.create(model="any", prompt="x" * 300)


def test_a_shorter_context_is_a_shorter_context(qwen: Path) -> None:
    made = load_service(Options(str(qwen), context=64))
    with live(made) as server:
        answer = post(server, "/infill", {"input_prefix": "x = 1\n" * 100, "input_suffix": "\n", "n_predict": 8})
        assert answer["tokens_evaluated"] + answer["tokens_predicted"] <= 64
        error = post(server, "/completion", {"prompt": "x" * 64}, 400)["error"]
        assert error["code"] == "context_length_exceeded" and "holds 64" in error["message"]
    with pytest.raises(UserError, match="--context 257: the model holds 256 tokens"):
        load_service(Options(str(qwen), context=257))


def with_tokenizer(directory: Path, made: Any) -> tuple[Path, Tokenizer]:
    """A Llama with another tokenizer and without a chat template."""
    made.save_pretrained(directory)
    tokenizer = Tokenizer.load(directory)
    tiny_transformers.tiny("llama", vocab_size=tokenizer.vocab_size, max_position_embeddings=256).save_pretrained(
        directory
    )
    return directory, tokenizer


@pytest.mark.parametrize("family", ["qwen", "deepseek"])
def test_the_tokens_of_the_family_stand_around_a_gap(family: str, tmp_path: Path) -> None:
    names = {
        "qwen": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        # The hole is where the middle goes.
        "deepseek": ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    }[family]
    made = byte_level(family)
    begin = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
    if family == "deepseek":
        made.add_tokens([begin], special_tokens=True)
    directory, tokenizer = with_tokenizer(tmp_path / family, made)
    before = [tokenizer.specials[begin]] if family == "deepseek" else []
    marks = [tokenizer.specials[name] for name in names]
    # A user's text that spells a token of the family stays text.
    prefix, suffix = f"x = '{names[1]}'\n", "\ny\n"
    assert not set(marks) & set(tokenizer.encode(prefix))
    filled = [*before, marks[0], *tokenizer.encode(prefix), marks[1], *tokenizer.encode(suffix), marks[2]]
    plain = [*before, *tokenizer.encode(prefix)]
    with live(load_service(Options(str(directory)))) as server:
        body = {"max_tokens": NEW, "temperature": 0}
        found = post(server, "/v1/completions", body | {"prompt": prefix, "suffix": suffix})
        assert found["choices"][0]["text"] == generated(directory, filled, tokenizer)
        assert found["usage"]["prompt_tokens"] == len(filled)
        # As Continue and Tabby write it.
        template = f"{names[0]}def f({names[1]}):{names[2]}"
        parts = [tokenizer.encode("def f("), tokenizer.encode("):")]
        found = post(server, "/v1/completions", body | {"prompt": template})
        assert found["choices"][0]["text"] == generated(
            directory, [*before, marks[0], *parts[0], marks[1], *parts[1], marks[2]], tokenizer
        )
        found = post(server, "/v1/completions", body | {"prompt": prefix})
        assert found["choices"][0]["text"] == generated(directory, plain, tokenizer)


def test_a_model_without_fill_in_tokens_and_template_still_continues(tmp_path: Path) -> None:
    directory, tokenizer = with_tokenizer(tmp_path / "plain", byte_level("none"))
    with live(load_service(Options(str(directory)))) as server:
        for path in ("/infill", "/v1/fim/completions"):
            body = {"input_prefix": "a", "input_suffix": "b"} if path == "/infill" else {"prompt": "a", "suffix": "b"}
            error = post(server, path, body, 400)["error"]
            assert error["code"] == "no_infilling" and "its tokenizer has no such tokens" in error["message"]
        error = post(server, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, 400)["error"]
        assert error["code"] == "no_chat_template" and "--chat-template" in error["message"]
        found = post(server, "/v1/completions", {"prompt": "def f(", "max_tokens": NEW, "temperature": 0})
        assert found["choices"][0]["text"] == generated(directory, tokenizer.encode("def f("), tokenizer)
        props = httpx2.get(f"{server.url}/props", timeout=60).json()
        assert (props["infill"], props["chat"]) == (None, False)


def test_a_starcoder2_is_ours_where_it_has_no_window(tmp_path: Path) -> None:
    windowed = ready.find(str(write(tmp_path / "windowed", "starcoder2")))
    assert (windowed.kind, windowed.context) == ("transformers", 256)
    ours = ready.find(str(write(tmp_path / "ours", "starcoder2", sliding_window=None)))
    assert (ours.kind, ours.model_type) == ("codeshell", "starcoder2")
    made = ready.load(ours, "int8")
    assert made.before == () and made.session.reader.positions == 256


def refused(directory: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_service(Options(str(directory), **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_served_is_one_line(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = refused(qwen, weights="int8")
    assert int8.startswith(f"--weights int8: {qwen} is a model of transformers (qwen2)") and "auto, fp32, bf16" in int8
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    family = refused(tmp_path)
    assert "model_type is 'mamba', which is not served; serving knows CodeShell (kclgpt" in family
    assert all(kind in family for kind in ARCHITECTURES)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "holds a LoRA adapter; merge it first (`codeshell model merge BASE ADAPTER -o DIR`)" in refused(adapter)
    other = tmp_path / "other"
    made = byte_level("qwen")
    made.add_tokens([f"<|{number}|>" for number in range(60)])
    with_tokenizer(other, made)
    tiny_transformers.tiny("llama").save_pretrained(other)
    assert "but the model has 96 rows" in refused(other)
    monkeypatch.setitem(__import__("sys").modules, "codeshell.integrations.supported", None)
    assert "a qwen2 model needs transformers" in (missing := refused(qwen))
    assert "pip install 'codeshell[transformers]'" in missing


def test_a_model_of_the_hub_is_served_by_its_name(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(qwen))
    made = load_service(Options("someone/Coder-0.5B"))
    assert made.served.name == "someone/Coder-0.5B" and made.served.context == 256


def test_a_gpu_that_is_too_small_is_one_line(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 2000))
    with pytest.raises(UserError, match=r"but the GPU has 0\.0 GB free; give --weights bf16"):
        ready.load(ready.find(str(qwen)))


@pytest.mark.parametrize(("weights", "dtype"), [("auto", torch.bfloat16), ("fp32", torch.float32)])
def test_weights_are_held_as_they_are_asked_for(weights: str, dtype: torch.dtype, tmp_path: Path) -> None:
    directory = write(tmp_path / "model", "llama")
    tiny_transformers.tiny("llama", vocab_size=TOKENIZER.vocab_size + 3).bfloat16().save_pretrained(directory)
    made = ready.load(ready.find(str(directory)), weights)
    assert made.session.reader.model.dtype == dtype  # type: ignore[attr-defined]
    text = ready.complete(made, "def f(", "):", ready.Settings(max_new_tokens=4))
    assert isinstance(text, str)
