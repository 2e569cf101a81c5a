"""config.json: the released file as it is, and what is refused."""

from __future__ import annotations

import json

import pytest
from helpers.tiny_models import SHAPE

from codeshell.errors import UserError
from codeshell.model import CodeShellConfig

RELEASED = {
    "_name_or_path": "WisdomShell/CodeShell",
    "activation_function": "gelu_pytorch_tanh",
    "architectures": ["CodeShellForCausalLM"],
    "attention_softmax_in_fp32": True,
    "attn_pdrop": 0.1,
    "auto_map": {
        "AutoConfig": "configuration_codeshell.CodeShellConfig",
        "AutoModelForCausalLM": "modeling_codeshell.CodeShellForCausalLM",
    },
    "bos_token_id": 70000,
    "embd_pdrop": 0.1,
    "eos_token_id": 70000,
    "group_query_attention": True,
    "inference_runner": 0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "max_batch_size": None,
    "max_sequence_length": None,
    "model_type": "kclgpt",
    "n_embd": 4096,
    "n_head": 32,
    "n_inner": 16384,
    "n_layer": 42,
    "n_positions": 8192,
    "num_query_groups": 8,
    "pad_key_length": True,
    "position_embedding_type": "rope",
    "resid_pdrop": 0.1,
    "rope_scaling": None,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "summary_type": "cls_index",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.31.0",
    "use_cache": True,
    "vocab_size": 70144,
}


def test_the_released_file_survives_a_round_trip():
    config = CodeShellConfig.from_dict(RELEASED)
    assert (config.head_dim, config.inner_size, config.num_query_groups) == (128, 16384, 8)
    assert (config.attn_pdrop, config.rope_theta, config.tie_word_embeddings) == (0.1, 10000.0, True)
    written = config.to_dict()
    assert written == RELEASED | {"tie_word_embeddings": True}
    assert CodeShellConfig.from_dict(written).to_dict() == written
    json.dumps(written)


@pytest.mark.parametrize("model_type", ["kclgpt", "codeshell", "shell"])
def test_names_the_hub_uses(model_type):
    assert CodeShellConfig.from_dict(RELEASED | {"model_type": model_type}).n_layer == 42


def test_transformers_names_for_the_shape():
    values = {k: v for k, v in RELEASED.items() if k not in ("n_embd", "n_layer", "n_head", "n_positions")}
    values |= {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8, "max_position_embeddings": 128}
    config = CodeShellConfig.from_dict(values | {"n_inner": None})
    assert (config.n_embd, config.n_layer, config.n_head, config.n_positions, config.inner_size) == (64, 3, 8, 128, 256)


def test_without_grouping_every_head_has_its_own_keys():
    values = {k: v for k, v in RELEASED.items() if k != "num_query_groups"}
    assert CodeShellConfig.from_dict(values | {"group_query_attention": False}).num_query_groups == 32


def test_starcoder2_round_trip():
    config = CodeShellConfig(**SHAPE, rope_scaling={"type": "linear", "factor": 2.0}, n_vocab_used=380)
    again = CodeShellConfig.from_dict(config.to_starcoder2_dict())
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("missing", ["vocab_size", "num_query_groups", "position_embedding_type", "n_head"])
def test_a_missing_shape_field_is_never_guessed(missing):
    with pytest.raises(UserError, match=rf"there.json: {missing} missing"):
        CodeShellConfig.from_dict({k: v for k, v in RELEASED.items() if k != missing}, "there.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2', which is not a CodeShell"),
        ({"model_type": None}, "model_type is None"),
        ({"n_embd": 4097}, "n_embd 4097 is not a multiple of n_head 32"),
        ({"num_query_groups": 5}, "num_query_groups 5"),
        ({"num_query_groups": 0}, "num_query_groups is 0"),
        ({"n_layer": "42"}, "n_layer is '42'"),
        ({"position_embedding_type": "learned_absolute"}, "position_embedding_type"),
        ({"activation_function": "relu"}, "activation_function"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"attn_pdrop": 1.0}, "attn_pdrop"),
        ({"n_vocab_used": 70145}, "n_vocab_used"),
        ({"n_embd": 96, "n_head": 32}, "head dimension"),
    ],
)
def test_impossible_values_are_named(change, message):
    with pytest.raises(UserError, match=f"there.json: .*{message}"):
        CodeShellConfig.from_dict(RELEASED | change, "there.json")


def test_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        CodeShellConfig.from_file(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        CodeShellConfig.from_file(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        CodeShellConfig.from_file(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("n_embd", ["4096", 4096.0, -4096, True, [4096], {}, 1 << 40]),
        ("n_layer", ["42", 42.0, 0, 10**9, False]),
        ("vocab_size", ["70144", 1e5, 10**18]),
        ("n_inner", ["16384", True, 0, 4.5]),
        ("n_vocab_used", ["5", True, 0, -1, 5.0]),
        ("layer_norm_epsilon", ["1e-5", None, -1.0, float("nan"), float("inf"), True, []]),
        ("initializer_range", ["0.02", None, -0.1, float("nan")]),
        ("rope_theta", ["10000", None, 0, -1.0, float("inf"), 10**400]),
        ("attn_pdrop", ["0.1", None, True, float("nan"), -0.1]),
        ("tie_word_embeddings", ["false", None, 0, 1.0]),
        ("group_query_attention", ["true", 1, None]),
        ("eos_token_id", ["x", 1.5, [1, 2], True]),
        ("rope_scaling", ["x", [], {}, {"type": "linear", "factor": float("inf")}, {"type": "linear", "factor": True}]),
        ("rope_scaling", [{"type": ["linear"], "factor": 2}, {"type": "linear", "factor": "2"}]),
        ("model_type", [["kclgpt"], {}, 5, None, "llama"]),
        ("position_embedding_type", [1, ["rope"]]),
    ],
)
def test_wrong_types_are_named_in_one_line(name, values):
    for value in values:
        with pytest.raises(UserError, match=f"there.json: .*{name}") as caught:
            CodeShellConfig.from_dict(RELEASED | {name: value}, "there.json")
        assert "\n" not in str(caught.value) and "<" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sliding_window": "x"}, "sliding_window is 'x'"),
        ({"max_position_embeddings": "96", "sliding_window": 5}, "max_position_embeddings is '96'"),
        ({"rope_scaling": "x"}, "rope parameters are 'x'"),
        ({"rope_parameters": [1]}, r"rope parameters are \[1\]"),
        ({"rope_parameters": {"rope_theta": "abc"}}, "rope_theta is 'abc'"),
        ({"rope_theta": None}, "rope_theta is None"),
        ({"use_bias": "false"}, "use_bias is 'false'"),
        ({"hidden_size": "64"}, "n_embd is '64'"),
        ({"norm_epsilon": []}, r"layer_norm_epsilon is \[\]"),
    ],
)
def test_wrong_types_of_a_starcoder2(change, message):
    values = CodeShellConfig(**SHAPE).to_starcoder2_dict()
    with pytest.raises(UserError, match=f"there.json: .*{message}"):
        CodeShellConfig.from_dict(values | change, "there.json")
