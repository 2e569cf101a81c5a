"""Fields of requests: every wrong type or size is an error that names the field, and nothing passes unread."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.serve import app, fields, llama, openai
from codeshell.serve.errors import RequestError
from codeshell.serve.style import Served

SERVED = Served(name="tiny", context=512)

VALID: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/fim/completions": {"prompt": "a", "suffix": "b"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/completion": {"prompt": "a"},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/generate": {"inputs": "a"},
    "/generate_stream": {"inputs": "a"},
}

NAMES = {
    "/v1/completions": [
        "model", "prompt", "suffix", "max_tokens", "max_completion_tokens", "n_predict", "temperature", "top_p",
        "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "random_seed", "stop",
        "stream", "stream_options", *openai.REFUSED, *openai.IGNORED,
    ],
    "/v1/chat/completions": ["messages", "max_tokens", "temperature", "stop", "stream", "stream_options", "tools"],
    "/v1/fim/completions": ["prompt", "suffix", "max_tokens", "min_tokens", "temperature", "stop", "stream"],
    "/completion": [
        "prompt", "n_predict", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repetition_penalty",
        "repeat_last_n", "presence_penalty", "frequency_penalty", "seed", "stop", "stream", "samplers", "n_cmpl",
        "n_indent", "t_max_predict_ms", "response_fields", *llama.REFUSED, *llama.IGNORED,
    ],
    "/infill": ["input_prefix", "input_suffix", "input_extra", "prompt", "n_predict", "stop", "samplers", "stream"],
    "/generate": ["inputs", "parameters"],
    "/generate_stream": ["inputs", "parameters"],
}  # fmt: skip

PARAMETERS = [
    "max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "frequency_penalty", "seed", "stop",
    "do_sample", "details", "typical_p", "truncate", "best_of", "watermark",
]  # fmt: skip

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63, max_value=10**400)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def read(path: str, body: dict[str, Any]) -> Any:
    return app.ASKED[path](body, SERVED, 1)


@pytest.mark.parametrize("path", VALID)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_value_of_any_field_is_read_or_refused(path: str, data: st.DataObject) -> None:
    names = NAMES[path]
    body = VALID[path] | data.draw(st.dictionaries(st.sampled_from(names), ANYTHING, max_size=3))
    if path.startswith("/generate") and data.draw(st.booleans()):
        body["parameters"] = data.draw(st.dictionaries(st.sampled_from(PARAMETERS), ANYTHING, max_size=3))
    try:
        order = read(path, body)
    except RequestError as error:
        # One line, an object that is JSON, and the field is named.
        assert 400 <= error.status < 500 and "\n" not in error.message and len(error.message) < 600
        assert json.loads(json.dumps(error.body()))["error"]["message"] == error.message
        assert error.param
    else:
        for piece in order.pieces:
            chosen = piece.settings
            assert 0 <= chosen.max_new_tokens <= SERVED.context and 0.0 <= chosen.temperature <= 100.0
            assert 0.0 < chosen.top_p <= 1.0 and chosen.top_k >= 0 and chosen.repeat_penalty > 0.0


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
def test_any_body_is_an_object_or_refused(body: bytes) -> None:
    try:
        assert isinstance(fields.parse(body), dict)
    except RequestError as error:
        assert error.status == 400 and "\n" not in error.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "a JSON array; send one JSON object"),
        (b'"text"', "a JSON string"),
        (b"null", "a JSON null"),
        (b'{"prompt": "a"} x', "not JSON"),
        (b'{"temperature": NaN}', "NaN is no number of JSON"),
        (b'{"temperature": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"seed": 1, "seed": 2}', "'seed' is there twice"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "not JSON"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value[:12]),
)
def test_what_is_no_object(body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        fields.parse(body)
    assert message in caught.value.message


def test_a_hostile_body_takes_no_longer_than_a_plain_one() -> None:
    # Each name is compared with each other one, or each letter with all known names: hours for a body of 8 MiB.
    names = ",".join(f'"{number}":1' for number in range(60_000))
    with pytest.raises(RequestError, match="'last' is there twice"):
        fields.parse(f'{{{names},"last":1,"last":2}}'.encode())
    with pytest.raises(RequestError, match="no such field"):
        read("/completion", {"prompt": "a", "temperature" * 100_000: 1})
    # A near name is still found where it may be one.
    with pytest.raises(RequestError, match="perhaps temperature"):
        read("/completion", {"prompt": "a", "temperatur": 1})


def test_a_whole_number_may_be_written_with_a_point() -> None:
    one = read("/v1/completions", {"prompt": "a", "max_tokens": 4.0, "seed": 7.0}).pieces[0].settings
    assert (one.max_new_tokens, one.seed) == (4, 7)
    assert type(one.max_new_tokens) is int


@pytest.mark.parametrize(
    ("path", "changes", "param", "message"),
    [
        ("/v1/completions", {"prompt": None}, "prompt", "is missing"),
        ("/v1/completions", {"prompt": []}, "prompt", "is empty"),
        ("/v1/completions", {"prompt": ["a", [1, "b"]]}, "prompt", "has 'b' among token ids"),
        ("/v1/completions", {"prompt": [1, -2]}, "prompt", "has -2 among token ids"),
        ("/v1/completions", {"prompt": ["a"] * 65}, "prompt", "has 65 entries"),
        ("/v1/completions", {"prompt": "a\ud83d"}, "prompt", "a lone surrogate at 1, which is half a character"),
        ("/v1/completions", {"prompt": [1, 2], "suffix": "b"}, "suffix", "put the suffix into the ids"),
        ("/v1/completions", {"suffix": "\udc00"}, "suffix", "a lone surrogate at 0"),
        ("/v1/completions", {"temperature": True}, "temperature", "is True; send a number"),
        ("/v1/completions", {"temperature": "0"}, "temperature", "is '0'; send a number"),
        ("/v1/completions", {"temperature": -0.1}, "temperature", "send a number from 0 to 100"),
        ("/v1/completions", {"temperature": 1e999}, "temperature", "send a number from 0 to 100"),
        ("/v1/completions", {"temperature": 10**400}, "temperature", "send a number from 0 to 100"),
        ("/v1/completions", {"top_p": 0}, "top_p", "above 0 and at most 1"),
        ("/v1/completions", {"max_tokens": -1}, "max_tokens", "a whole number from 0"),
        ("/v1/completions", {"max_tokens": 1.5}, "max_tokens", "a whole number"),
        ("/v1/completions", {"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "differs from"),
        ("/v1/completions", {"stop": ""}, "stop", "has a text of 0 characters"),
        ("/v1/completions", {"stop": ["a"] * 65}, "stop", "at most 64"),
        ("/v1/completions", {"stop": [1]}, "stop", "is 1; send a text"),
        ("/v1/completions", {"stream": 1}, "stream", "send true or false"),
        (
            "/v1/completions",
            {"stream_options": {"usage_include": True}},
            "stream_options.usage_include",
            "no such field",
        ),
        ("/v1/completions", {"temprature": 1}, "temprature", "no such field; perhaps temperature"),
        ("/v1/completions", {"frobnicate": 1}, "frobnicate", "--ignore-unknown-fields"),
        ("/v1/completions", {"n": 2}, "n", "2 is not served: one completion"),
        ("/v1/completions", {"n": True}, "n", "not served"),
        ("/v1/completions", {"echo": True}, "echo", "the prompt is not repeated"),
        ("/v1/completions", {"logprobs": 0}, "logprobs", "log-probabilities are not returned"),
        ("/v1/completions", {"logit_bias": {"50256": -100}}, "logit_bias", "not favoured or banned"),
        ("/v1/completions", {"response_format": {"type": "json_object"}}, "response_format", "not bound"),
        ("/v1/chat/completions", {"messages": []}, "messages", "a list of 1 to"),
        ("/v1/chat/completions", {"messages": ["a"]}, "messages[0]", "an object with role and content"),
        ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "send one of"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content", "send a text"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "messages[0].content[0]",
            "the model reads text",
        ),
        ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools", "calls no tools"),
        ("/completion", {"n_predict": -2}, "n_predict", "from -1"),
        ("/completion", {"samplers": ["top_a"]}, "samplers", "send a list of"),
        ("/completion", {"n_cmpl": 5}, "n_cmpl", "from 1 to 4"),
        ("/completion", {"mirostat": 2}, "mirostat", "sample with temperature"),
        ("/completion", {"grammar": "root ::= a"}, "grammar", "not bound to a grammar"),
        ("/completion", {"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repetition_penalty", "one of them"),
        ("/infill", {"input_prefix": None}, "input_prefix", "is missing"),
        ("/infill", {"input_extra": [{"filename": "a"}]}, "input_extra[0].text", "send a text"),
        ("/infill", {"input_extra": {}}, "input_extra", "a list of at most"),
        ("/infill", {"lora": [{"id": 0, "scale": 0.5}]}, "lora", "merge the adapter"),
        ("/infill", {"response_fields": [1]}, "response_fields", "a list of at most 100 paths"),
        ("/generate", {"inputs": 3}, "inputs", "send a text"),
        ("/generate", {"stream": True}, "stream", "/generate_stream"),
        ("/generate", {"parameters": {"truncate": 5}}, "parameters.truncate", "send a shorter prompt"),
        ("/generate", {"parameters": {"temperature": 0}}, "parameters.temperature", "above 0"),
        ("/generate", {"parameters": []}, "parameters", "send an object"),
    ],
)
def test_one_clear_line_that_names_the_field(path: str, changes: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(path, VALID[path] | changes)
    assert caught.value.param == param and caught.value.message.startswith(f"{param}: ")
    assert message in caught.value.message


@pytest.mark.parametrize("path", VALID)
def test_null_is_a_field_that_is_not_there(path: str) -> None:
    nothing = dict.fromkeys(NAMES[path])
    assert [piece.prompt for piece in read(path, nothing | VALID[path]).pieces] == [
        piece.prompt for piece in read(path, VALID[path]).pieces
    ]


def test_unknown_fields_pass_where_the_server_was_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    lenient = Served(name="tiny", context=512, lenient=True)
    for _ in range(2):
        app.ASKED["/completion"]({"prompt": "a", "newer": 1}, lenient, 1)
    assert capsys.readouterr().err.count("'newer'") == 1
    with pytest.raises(RequestError, match="echo"):
        app.ASKED["/v1/completions"]({"prompt": "a", "echo": True}, lenient, 1)


def test_settings_without_a_seed_differ_from_request_to_request() -> None:
    seeds = [app.ASKED["/completion"]({"prompt": "a"}, SERVED, number).pieces[0].settings.seed for number in (1, 2)]
    assert seeds[0] != seeds[1] and all(0 <= seed < 2**31 for seed in seeds)


def test_several_completions_have_seeds_of_their_own_or_are_computed_once() -> None:
    sampled = read("/completion", {"prompt": "a", "n_cmpl": 3, "temperature": 1, "seed": 5}).pieces
    assert [piece.settings.seed for piece in sampled] == [5, 6, 7] and {piece.copies for piece in sampled} == {1}
    greedy = read("/completion", {"prompt": "a", "n_cmpl": 3}).pieces
    assert [piece.copies for piece in greedy] == [3]


@pytest.mark.parametrize(
    ("samplers", "expected"),
    [
        (None, (0.5, 10, 0.9, 0.1, 1.3)),
        (["infill", "top_k"], (0.0, 0, 1.0, 0.0, 1.3)),
        (["temperature", "min_p"], (0.5, 0, 1.0, 0.1, 1.0)),
        (["top_k", "penalties"], (1.0, 10, 1.0, 0.0, 1.3)),
        ("top_k;top_p", (1.0, 10, 0.9, 0.0, 1.0)),
        ([], (1.0, 0, 1.0, 0.0, 1.0)),
    ],
)
def test_what_is_not_among_the_samplers_is_off(samplers: Any, expected: tuple[float, ...]) -> None:
    body = {"temperature": 0.5, "top_k": 10, "top_p": 0.9, "min_p": 0.1, "repeat_penalty": 1.3, "samplers": samplers}
    chosen = read("/completion", {"prompt": "a"} | body).pieces[0].settings
    found = (chosen.temperature, chosen.top_k, chosen.top_p, chosen.min_p, chosen.repeat_penalty)
    assert found == expected
