"""What the plug-ins of editors send, replayed: the prompts that it becomes, what each plug-in reads of the answer, and
whole answers of a tiny model.

`recorded/` has a file for each plug-in: its requests, written down from its source, the prompt that each must become
(special tokens as strings, texts in objects), and how the plug-in reads the answer. Run as a program, this file writes
the answers anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.live_server import TOKENIZER, Letters, Live, Script, live, service

FOLDER = Path(__file__).with_name("recorded")
PLUGINS = sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "answers")
TEXT = ["    ret", "urn ", "a + é", "\n"]


def recorded(plugin: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{plugin}.json").read_text(encoding="utf-8"))
    return content


class Response(NamedTuple):
    status: int
    kind: str
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def ask(server: Live, plugin: dict[str, Any], request: dict[str, Any]) -> Response:
    """Send a request byte for byte: newer HTTP clients would refuse the empty key that llama.vim sends."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = None if request["body"] is None else json.dumps(request["body"]).encode()
    connection.request("GET" if body is None else "POST", request["path"], body, plugin["headers"])
    answer = connection.getresponse()
    found = Response(answer.status, answer.headers["content-type"], answer.read().decode())
    connection.close()
    return found


def ids(prompt: list[Any]) -> list[int]:
    """Ids of a prompt in the file: a string is a special token, an object has text."""
    found: list[int] = []
    for part in prompt:
        found += TOKENIZER.encode(part["text"]) if isinstance(part, dict) else [TOKENIZER.specials[part]]
    return found


def objects(response: Response) -> Iterator[Any]:
    """The events of a stream, as the plug-ins' libraries find them."""
    assert response.kind.startswith("text/event-stream")
    for line in response.text.split("\n\n"):
        if line:
            assert line.startswith("data: ")
            yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])


def text_events(response: Response) -> str:
    *events, done = objects(response)
    assert done == "[DONE]"
    # Continue reads `choices?.[0]?.text`; Tabby ends at the first finish_reason.
    texts = [event["choices"][0]["text"] for event in events if event["choices"]]
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"]][-1] == "stop"
    return "".join(texts)


def delta_events(response: Response) -> str:
    *events, done = objects(response)
    assert done == "[DONE]"
    # Both clients read the text of every event without asking whether it is there.
    assert all(isinstance(event["choices"][0]["delta"]["content"], str) for event in events)
    return "".join(event["choices"][0]["delta"]["content"] for event in events)


def chat_events(response: Response) -> str:
    *events, done = objects(response)
    assert done == "[DONE]" and events[0]["choices"][0]["delta"]["role"] == "assistant"
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])


def content_events(response: Response) -> str:
    events = list(objects(response))
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    return "".join(event["content"] for event in events)


def token_events(response: Response) -> str:
    events = list(objects(response))
    text = "".join(event["token"]["text"] for event in events)
    assert events[-1]["generated_text"] == text and events[-1]["details"]["finish_reason"] == "eos_token"
    return text


def codeshell_events(response: Response) -> str:
    # The plug-in waits for a body that is no JSON, and adds up `content` over its pieces.
    parts = [part for part in response.text.split("\n\n") if part.startswith("data:")]
    return "".join(json.loads(part[5:])["content"] for part in parts)


def contents(response: Response) -> str:
    # One object, or a list of them, of which the plug-in keeps the different ones.
    found = response.json()
    texts = {one["content"] for one in (found if isinstance(found, list) else [found])}
    assert isinstance(found, list) and len(texts) == 1
    return texts.pop()


READERS: dict[str, Callable[[Response], str]] = {
    "content": lambda response: response.json()["content"],
    "contents": contents,
    "text": lambda response: response.json()["choices"][0]["text"],
    "message": lambda response: response.json()["choices"][0]["message"]["content"],
    "generated_text": lambda response: response.json()["generated_text"],
    "text_events": text_events,
    "delta_events": delta_events,
    "chat_events": chat_events,
    "content_events": content_events,
    "codeshell_events": codeshell_events,
    "token_events": token_events,
}


@pytest.mark.parametrize("name", PLUGINS)
def test_the_prompt_and_what_the_plugin_reads(name: str) -> None:
    plugin, script = recorded(name), Script(TEXT)
    with live(service(script, context=4096, chat=Letters())) as server:
        for request in plugin["requests"]:
            before = len(script.prompts)
            response = ask(server, plugin, request)
            assert response.status == 200, (request["name"], response.text)
            if "prompt" in request:
                assert len(script.prompts) == before + 1, request["name"]
                assert script.prompts[-1][0] == ids(request["prompt"]), request["name"]
            if request["reads"] != "nothing":
                assert READERS[request["reads"]](response) == "".join(TEXT), request["name"]


@pytest.mark.parametrize(
    ("plugin", "request_name", "settings"),
    [
        ("llama_vim", "fim", {"temperature": 0.0, "max_new_tokens": 16, "indent": 4, "seconds": 100.0}),
        ("llama_vim", "ring_update", {"max_new_tokens": 0}),
        ("llama_vim", "inst_warm_up", {"max_new_tokens": 0}),
        ("llama_vim", "inst", {"temperature": 0.1, "min_p": 0.1, "top_k": 0, "top_p": 1.0}),
        ("llama_vscode", "openai_mode", {"temperature": 0.1, "top_p": 0.99, "seed": 7, "max_new_tokens": 12}),
        ("tabby", "llama_cpp", {"seed": 2**64 - 1, "temperature": 0.1}),
        ("tabby", "mistral", {"seed": 5}),
        ("codeshell_vscode", "infill", {"temperature": 0.2, "top_k": 10, "top_p": 0.95, "repeat_penalty": 1.0}),
        ("codeshell_vscode", "generate", {"temperature": 0.2, "top_p": 0.99, "repeat_penalty": 1.2}),
        ("codeshell_intellij", "completion", {"frequency_penalty": 1.2, "stop": ("|<end>|",), "temperature": 0.0}),
    ],
)
def test_the_settings_that_it_becomes(plugin: str, request_name: str, settings: dict[str, Any]) -> None:
    content, script = recorded(plugin), Script(TEXT)
    request = next(one for one in content["requests"] if one["name"] == request_name)
    with live(service(script, context=4096, chat=Letters())) as server:
        assert ask(server, content, request).status == 200
    found = script.prompts[0][1]
    assert {name: getattr(found, name) for name in settings} == settings


TIMES = tuple(f"{phase}_{unit}" for phase in ("prompt", "predicted") for unit in ("ms", "per_token_ms", "per_second"))
CACHE = ("prompt_n", "cache_n", "tokens_cached", "cached_tokens")
VOLATILE = ("created", *CACHE, *TIMES, *(f"timings/{name}" for name in (*TIMES, *CACHE)))


def steady(value: Any) -> Any:
    """An answer without what differs from run to run: times, and what happened to be in a cache."""
    if isinstance(value, dict):
        return {name: 0 if name in VOLATILE else steady(one) for name, one in value.items()}
    return [steady(one) for one in value] if isinstance(value, list) else value


def answers(name: str) -> dict[str, Any]:
    """The answers of a tiny random model to a plug-in's requests."""
    plugin, found = recorded(name), {}
    with live(service(context=160, chat=Letters())) as server:
        for request in plugin["requests"]:
            response = ask(server, plugin, request)
            stream = response.kind.startswith("text/event-stream")
            found[f"{name}/{request['name']}"] = steady(list(objects(response)) if stream else response.json())
    return found


@pytest.mark.parametrize("name", PLUGINS)
def test_the_answers_of_a_tiny_model(name: str) -> None:
    expected = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
    found = answers(name)
    assert found == {key: value for key, value in expected.items() if key.partition("/")[0] == name}


if __name__ == "__main__":
    every = {key: value for name in PLUGINS for key, value in answers(name).items()}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in every.items()]
    (FOLDER / "answers.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
