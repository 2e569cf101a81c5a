"""OpenAI's own Python client against a server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import openai
import pytest
from helpers.live_server import Letters, Live, Script, live, service

TEXT = ["    ret", "urn ", "é", "\n"]


@pytest.fixture(scope="module")
def tiny() -> Iterator[Live]:
    with live(service(context=128, chat=Letters())) as server:
        yield server


@pytest.fixture
def scripted() -> Iterator[Live]:
    with live(service(Script(TEXT), chat=Letters())) as server:
        yield server


def client(server: Live, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60)


def test_a_completion_is_the_same_in_one_piece_and_in_many(tiny: Live) -> None:
    with client(tiny) as one:
        whole = one.completions.create(model="any", prompt="def f(", max_tokens=8, temperature=0)
        assert whole.object == "text_completion" and whole.model == "tiny"
        assert whole.choices[0].finish_reason == "length" and whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 8)
        stream = one.completions.create(
            model="any", prompt="def f(", max_tokens=8, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        events = list(stream)
    assert "".join(event.choices[0].text for event in events if event.choices) == whole.choices[0].text
    assert events[-1].usage is not None and events[-1].usage.completion_tokens == 8 and not events[-1].choices
    # The prompt was read for the first request.
    assert events[-1].usage.prompt_tokens_details is not None


def test_a_suffix_fills_in(tiny: Live) -> None:
    with client(tiny) as one:
        filled = one.completions.create(model="any", prompt="def f(", suffix="):", max_tokens=8)
        template = one.completions.create(
            model="any", prompt="<fim_prefix>def f(<fim_suffix>):<fim_middle>", max_tokens=8
        )
        continued = one.completions.create(model="any", prompt="def f(", max_tokens=8)
    assert filled.choices[0].text == template.choices[0].text != continued.choices[0].text


def test_several_prompts_have_a_choice_each(tiny: Live) -> None:
    with client(tiny) as one:
        several = one.completions.create(model="any", prompt=["a", "def f("], max_tokens=6)
        events = list(one.completions.create(model="any", prompt=["a", "def f("], max_tokens=6, stream=True))
        alone = [one.completions.create(model="any", prompt=prompt, max_tokens=6) for prompt in ("a", "def f(")]
        ids = one.completions.create(model="any", prompt=[ord(letter) for letter in "def f("], max_tokens=6)
    texts = [choice.text for choice in several.choices]
    assert texts == [answer.choices[0].text for answer in alone]
    assert ids.choices[0].text == texts[1]
    for index in (0, 1):
        assert "".join(e.choices[0].text for e in events if e.choices[0].index == index) == texts[index]


def test_a_chat(tiny: Live) -> None:
    messages = [{"role": "system", "content": "Edit."}, {"role": "user", "content": "Sort."}]
    with client(tiny) as one:
        whole = one.chat.completions.create(model="any", messages=messages, max_tokens=10)  # type: ignore[arg-type]
        events = list(
            one.chat.completions.create(model="any", messages=messages, max_completion_tokens=10, stream=True)  # type: ignore[arg-type]
        )
    assert whole.choices[0].message.role == "assistant" and whole.choices[0].message.content
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole.choices[0].message.content
    assert events[0].choices[0].delta.role == "assistant" and events[-1].choices[0].finish_reason == "length"


def test_sampling_repeats_with_its_seed(tiny: Live) -> None:
    with client(tiny) as one:
        texts = [
            one.completions.create(model="any", prompt="a", max_tokens=10, temperature=1, seed=seed).choices[0].text
            for seed in (1, 1, 2)
        ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_the_usage_of_a_stream_comes_where_it_is_asked_for_and_last(scripted: Live, path: str, include: bool) -> None:
    asked = {"prompt": "a"} if path == "completions" else {"messages": [{"role": "user", "content": "a"}]}
    body = asked | {"stream": True, "stream_options": {"include_usage": include}}
    text = httpx2.post(f"{scripted.url}/v1/{path}", json=body, timeout=60).text
    *events, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    found = [json.loads(event) for event in events]
    # One id and time for all of them, and one end.
    assert len({(event["id"], event["created"], event["model"]) for event in found}) == 1
    reasons = [choice["finish_reason"] for event in found for choice in event["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    if include:
        *others, last = found
        assert last["choices"] == [] and last["usage"]["completion_tokens"] == len(TEXT)
        assert all(event["usage"] is None and event["choices"] for event in others)
    else:
        # Clients that take the first choice of every event would fail at one without.
        assert all("usage" not in event and event["choices"] for event in found)


def test_models(tiny: Live) -> None:
    with client(tiny) as one:
        assert [model.id for model in one.models.list()] == ["tiny"]


def test_errors_are_the_clients_own(tiny: Live) -> None:
    with client(tiny) as one:
        with pytest.raises(openai.BadRequestError, match="temperature: is -1") as caught:
            one.completions.create(model="any", prompt="a", temperature=-1)
        assert caught.value.param == "temperature" and caught.value.type == "invalid_request_error"
        with pytest.raises(openai.BadRequestError, match="but the model holds 128") as caught:
            one.completions.create(model="any", prompt="x" * 300)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            one.embeddings.create(model="any", input="a")


def test_a_failure_in_the_middle_of_a_stream_is_raised() -> None:
    class Fails(Script):
        def stream(self, prompt, settings, cancelled):  # type: ignore[no-untyped-def]
            yield from list(super().stream(prompt, settings, cancelled))[:2]
            raise ValueError("the model broke")

    with live(service(Fails(TEXT))) as server, client(server) as one:
        stream = one.completions.create(model="any", prompt="a", stream=True)
        texts = []
        with pytest.raises(openai.APIError, match="the model broke"):
            for event in stream:
                texts.append(event.choices[0].text)
        assert texts == TEXT[:2]
        # Without a text before it, it is an error of HTTP.
        with pytest.raises(openai.BadRequestError, match="the model broke"):
            one.completions.create(model="any", prompt="a")


def test_a_fault_of_ours_is_an_error_object_and_the_server_lives(capfd: pytest.CaptureFixture[str]) -> None:
    session = Script(RuntimeError("boom"))
    with live(service(session)) as server, client(server) as one:
        with pytest.raises(openai.InternalServerError, match="the generation failed \\(RuntimeError\\)"):
            one.completions.create(model="any", prompt="a", stream=True)
        session.pieces = TEXT
        assert one.completions.create(model="any", prompt="a").choices[0].text == "".join(TEXT)
    assert "boom" in capfd.readouterr().err


def test_the_key(scripted: Live) -> None:
    from codeshell.serve.guard import Access

    with live(service(Script(TEXT), access=Access(key="s3cret"))) as server:
        with client(server, "s3cret") as one:
            assert one.completions.create(model="any", prompt="a").choices[0].text
        with client(server, "wrong") as one, pytest.raises(openai.AuthenticationError) as caught:
            one.completions.create(model="any", prompt="a")
        assert caught.value.code == "invalid_api_key" and "s3cret" not in str(caught.value)
