"""Streams: the same text with and without a cache, exact ends, and cancellation that loses nothing."""

from __future__ import annotations

import pytest
import torch
from helpers.byte_tokens import Bytes
from helpers.tiny_models import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.model import session as session_module
from codeshell.model.generation import complete, generate
from codeshell.model.sampling import NotFiniteError
from codeshell.model.session import Chunk, Finish, Session, Settings

TOKENS = Bytes()
MODEL = tiny_model(n_vocab_used=261)


def ask(session, prompt, *, cancelled=session_module.never, **values):
    """The text, the chunks and the end of a stream."""
    *chunks, finish = session.stream(prompt, Settings(**values), cancelled)
    assert isinstance(finish, Finish) and all(isinstance(chunk, Chunk) and chunk.text for chunk in chunks)
    return "".join(chunk.text for chunk in chunks), chunks, finish


def fresh(**values):
    return Session(MODEL, TOKENS, **values)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_cached_prompt_gives_what_a_fresh_one_gives(data):
    """Prompts that share beginnings, in any order, over few caches and little memory."""
    session = fresh(
        caches=data.draw(st.integers(1, 3)), cache_bytes=data.draw(st.sampled_from([0, 100_000, 1_000_000_000]))
    )
    stems = [data.draw(st.lists(st.integers(0, 255), min_size=1, max_size=40)) for _ in range(2)]
    for _ in range(data.draw(st.integers(1, 5))):
        stem = data.draw(st.sampled_from(stems))
        prompt = [*stem[: data.draw(st.integers(1, 40))], *data.draw(st.lists(st.integers(0, 255), max_size=20))]
        values = {
            "max_new_tokens": data.draw(st.integers(0, 12)),
            "temperature": data.draw(st.sampled_from([0.0, 1.0])),
            "seed": data.draw(st.integers(0, 3)),
            "repeat_penalty": data.draw(st.sampled_from([1.0, 1.3])),
        }
        stop_after = data.draw(st.one_of(st.none(), st.integers(0, 12)))
        calls = iter(range(1000))
        if stop_after is not None:
            ask(session, prompt, cancelled=lambda calls=calls, n=stop_after: next(calls) >= n, **values)
        text, _, finish = ask(session, prompt, **values)
        want, _, alone = ask(fresh(), prompt, **values)
        assert (text, finish.reason, finish.new_tokens) == (want, alone.reason, alone.new_tokens)
        assert finish.cached_tokens < finish.prompt_tokens == len(prompt) and alone.cached_tokens == 0


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=60), st.sampled_from([0.0, 0.7]), st.integers(0, 9))
def test_a_stream_is_what_generate_gives(prompt, temperature, seed):
    text, _, finish = ask(fresh(), prompt, max_new_tokens=15, temperature=temperature, top_k=20, seed=seed)
    (want,) = generate(
        MODEL,
        torch.tensor([prompt]),
        max_new_tokens=15,
        temperature=temperature,
        top_k=20,
        seed=seed,
        stop_ids=set(TOKENS.specials.values()),
    )
    assert text == TOKENS.decode_bytes(want).decode("utf-8", errors="replace")
    assert finish.new_tokens == len(want)


def test_the_text_is_that_of_complete():
    for stop in ((), ("a",), ("\ufffd",)):
        want = complete(MODEL, TOKENS, "def f(", max_new_tokens=40, stop=stop, temperature=1.0, seed=3)
        assert ask(fresh(), TOKENS.encode("def f("), max_new_tokens=40, stop=stop, temperature=1.0, seed=3)[0] == want


class Script:
    """A `Reader` that writes a list of ids, whatever the prompt, and counts what it reads."""

    positions, vocabulary = 64, 261

    def __init__(self, ids=(), clock=None):
        self.ids, self.clock, self.reads = list(ids), clock, []

    def reader(self):
        return self

    def new_cache(self, capacity):
        return {"capacity": capacity, "ids": []}

    def copy_cache(self, cache, length, capacity):
        return {"capacity": capacity, "ids": cache["ids"][:length]}

    def cut_cache(self, cache, length):
        del cache["ids"][length:]

    def capacity(self, cache):
        return cache["capacity"]

    def cache_bytes(self, capacity):
        return capacity

    def piece(self, cached):
        return 8

    def read(self, cache, tokens, check, logits):
        check()
        cache["ids"] += tokens
        assert len(cache["ids"]) <= cache["capacity"]
        self.reads.append(list(tokens))
        if self.clock is not None:
            self.clock.now += 1.0
        if not logits:
            return None
        scores = torch.zeros(self.vocabulary)
        scores[self.ids.pop(0) if self.ids else 256] = 1.0
        return scores


def script(text, *more):
    return Script([*TOKENS.encode(text), *more])


@pytest.mark.parametrize(
    ("text", "values", "want", "end"),
    [
        ("abc", {}, "abc", ("stop", "special", "<eot>")),
        ("abc", {"stop_ids": (98,)}, "a", ("stop", "special", "")),
        ("abcd", {"max_new_tokens": 2}, "ab", ("length", "tokens", "")),
        ("abcd", {"stop": ("x", "cd")}, "ab", ("stop", "string", "cd")),
        ("a\n  b\nc", {"indent": 1}, "a\n  b", ("stop", "indent", "")),
        ("a" * 90, {"max_new_tokens": 90}, "a" * 59, ("length", "positions", "")),
        ("é", {"max_new_tokens": 1}, "\ufffd", ("length", "tokens", "")),
        ("abc", {"max_new_tokens": 0}, "", ("length", "tokens", "")),
    ],
)
def test_every_end(text, values, want, end):
    got, _, finish = ask(Session(script(text), TOKENS), [1, 2, 3, 4, 5], **values)
    assert (got, (finish.reason, finish.cause, finish.stopped_by)) == (want, end)


def test_chunks_are_whole_characters_and_hold_back_stop_strings():
    _, chunks, _ = ask(Session(script("aé<|x"), TOKENS), [1], stop=("<|end|>",))
    assert [chunk.text for chunk in chunks] == ["a", "é", "<|x"]


class Clock:
    """Seconds that pass as the test has it."""

    now = 100.0

    def perf_counter(self):
        return self.now


def test_time_ends_the_text_at_the_next_newline(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(session_module, "time", clock)
    session = Session(Script(TOKENS.encode("a\nbcd\nef\ng"), clock), TOKENS)
    # A read takes a second. The prompt is one, so the first newline comes after 1 second and the second after 5.
    text, _, finish = ask(session, [1, 2], seconds=2.0)
    assert text == "a\nbcd\n" and finish.reason == "time"
    assert (finish.prompt_seconds, finish.new_seconds) == (1.0, 5.0)


def test_the_prompt_is_read_in_pieces_and_its_common_beginning_once():
    reader = script("")
    session = Session(reader, TOKENS)
    assert ask(session, list(range(20)), max_new_tokens=0)[2].cached_tokens == 0
    assert [len(part) for part in reader.reads] == [8, 8, 4]
    reader.reads.clear()
    # An edit of it: the same cache. The last token is read in any case.
    assert ask(session, [*range(18), 99, 98], max_new_tokens=0)[2].cached_tokens == 18
    assert ask(session, [*range(18), 99, 98], max_new_tokens=0)[2].cached_tokens == 19
    assert reader.reads == [[99, 98], [98]]
    # Another prompt that begins alike has a copy: the first one is still there.
    assert ask(session, [0, 1, 2, 50, 51], max_new_tokens=0)[2].cached_tokens == 3
    assert ask(session, [*range(18), 99, 98], max_new_tokens=0)[2].cached_tokens == 19


def test_written_tokens_are_cached_for_the_next_prompt():
    session = Session(script("abc"), TOKENS)
    ask(session, [1, 2, 3])
    session.reader.ids = TOKENS.encode("de")
    assert ask(session, [1, 2, 3, *TOKENS.encode("abcd")])[2].cached_tokens == 6


def test_the_least_recently_used_prompt_goes_first():
    session = Session(script(""), TOKENS, caches=2)
    for begin in (10, 20, 10, 30):
        ask(session, [begin, 1, 2], max_new_tokens=0)
    found = [ask(session, [begin, 1, 2], max_new_tokens=0)[2].cached_tokens for begin in (10, 30, 20)]
    assert found == [2, 2, 0]


def test_memory_is_bounded():
    # A cache of the script takes as many bytes as positions: 64.
    session = Session(script(""), TOKENS, caches=10, cache_bytes=150)
    for begin in range(5):
        ask(session, [begin, 1, 2], max_new_tokens=0)
        assert sum(session.reader.capacity(kept.cache) for kept in session._kept) <= 150
    assert len(session._kept) == 2
    alone = Session(script(""), TOKENS, cache_bytes=0)
    ask(alone, [1, 2, 3], max_new_tokens=0)
    assert ask(alone, [1, 2, 3], max_new_tokens=0)[2].cached_tokens == 2


@pytest.mark.parametrize("after", range(8))
def test_a_cancelled_stream_keeps_what_it_has_read(after):
    session, calls = Session(script("abc"), TOKENS), iter(range(100))
    text, _, finish = ask(session, list(range(20)), cancelled=lambda: next(calls) >= after)
    assert finish.reason == finish.cause == "cancelled" and "abc".startswith(text)
    session.reader.ids = TOKENS.encode("abc")
    cached = sum(map(len, session.reader.reads))
    text, _, finish = ask(session, list(range(20)))
    assert text == "abc" and finish.cached_tokens == min(cached, 19)


def test_a_stream_that_is_closed_is_cancelled():
    session = Session(script("abc"), TOKENS)
    stream = session.stream([1, 2, 3], Settings())
    assert next(stream) == Chunk("a")
    with pytest.raises(RuntimeError, match="one stream at a time"):
        next(session.stream([1, 2, 3], Settings()))
    stream.close()
    session.reader.ids = TOKENS.encode("xyz")
    assert ask(session, [1, 2, 3])[2].cached_tokens == 2


def test_a_stream_that_is_never_read_is_no_stream():
    session = Session(script("abc"), TOKENS)
    session.stream([1, 2, 3], Settings())
    session.stream([1, 2, 3], Settings()).close()
    assert ask(session, [1, 2, 3])[0] == "abc"


def test_logits_that_are_not_finite_end_the_stream_and_not_the_session():
    model = tiny_model(n_vocab_used=261)
    session = Session(model, TOKENS)
    with torch.no_grad():
        model.transformer.ln_f.bias[3] = torch.nan
    with pytest.raises(NotFiniteError, match="new token 1"):
        ask(session, [1, 2, 3])
    with torch.no_grad():
        model.transformer.ln_f.bias[3] = 0.0
    assert ask(session, [1, 2, 3])[2].cached_tokens == 2


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt: no token"),
        ([0] * 96, "96 tokens leave no room in 96 positions"),
        ([261], "ids run from 261 to 261, but the vocabulary is 0 to 260"),
        ([-1, 5], "ids run from -1 to 5"),
    ],
)
def test_prompts_that_are_none(prompt, message):
    session = fresh()
    with pytest.raises(ValueError, match=message):
        session.stream(prompt, Settings())
    assert ask(session, [1], max_new_tokens=1)[2].new_tokens <= 1


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": -1},
        {"max_new_tokens": 1.5},
        {"temperature": -1.0},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_k": -1},
        {"min_p": 1.5},
        {"min_p": float("nan")},
        {"repeat_penalty": 0.0},
        {"repeat_penalty": float("inf")},
        {"repeat_last": -2},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": "1"},
        {"seed": 1.5},
        {"stop": ("",)},
        {"stop": ("a", 5)},
        {"stop_ids": ("a",)},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"indent": -1},
    ],
)
def test_settings_name_what_is_wrong(values):
    (name,) = values
    with pytest.raises((TypeError, ValueError), match=name):
        Settings(**values)


def test_settings_are_plain_values():
    assert Settings(stop="end", seconds=1).stop == ("end",)
    assert Settings(top_k=0, temperature=1) == Settings(top_k=0, temperature=1.0)
