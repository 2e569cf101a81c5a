"""The client against a server that errs: what is repeated, what ends the run, what is waited for."""

from __future__ import annotations

import email.utils
import threading
import time
from typing import Any

import pytest
from helpers.chat_server import Reply, good, serve

from codeshell.errors import UserError
from codeshell.quality import client
from codeshell.quality.client import Endpoint, RefusedError, StoppedError, completions_url, retry_after

BODY = {"model": "m", "messages": []}


def endpoint(url: str, **settings: Any) -> Endpoint:
    return Endpoint(url, **{"first_pause": 0.001, "timeout": 10.0, "retries": 3, **settings})


def replies(*items: Any) -> Any:
    """A server's answers in turn; the last one repeats."""
    return lambda body, number: items[min(number, len(items) - 1)]


@pytest.mark.parametrize(
    "trouble",
    [
        Reply({"error": {"message": "overloaded"}}, 500),
        Reply(b"<html>bad gateway</html>", 502),
        Reply(b"slow down", 429, {"Retry-After": "0"}),
        Reply(b"slow down", 429, {"Retry-After": "soon"}),
        Reply(b"not JSON at all"),
        Reply(b"[" * 100_000),
        Reply(b"{}", fault="close"),
        Reply(b'{"choices": [', fault="short"),
        Reply(b'{"a": "' + b"x" * (5 << 20) + b'"}'),
    ],
    ids=["500", "502", "429", "429-words", "nonsense", "deep", "closed", "short", "long"],
)
def test_a_passing_trouble_is_repeated(trouble: Reply) -> None:
    with serve(replies(trouble, trouble, good())) as server:
        assert endpoint(server.url).complete(BODY) == good()
        assert len(server.requests) == 3
    with serve(replies(trouble)) as server:
        with pytest.raises(UserError, match=r"no answer after 4 tries .* run the same command again"):
            endpoint(server.url).complete(BODY)
        assert len(server.requests) == 4


def test_a_closed_port_is_one_line() -> None:
    with serve(replies(good())) as server:
        url = server.url
    with pytest.raises(UserError, match=r"no answer after 2 tries \(ConnectionRefusedError") as caught:
        endpoint(url, retries=1).complete(BODY)
    assert "\n" not in str(caught.value)


def test_a_server_that_stops_answering_costs_the_timeout() -> None:
    end = threading.Event()

    def silent(body: Any, number: int) -> Any:
        end.wait(30)
        return good()

    try:
        with serve(lambda body, number: good() if number else silent(body, number)) as server:
            assert endpoint(server.url, timeout=1.0).complete(BODY) == good()
            assert len(server.requests) >= 2
        with serve(silent) as server, pytest.raises(UserError, match="no answer after 1 tries"):
            endpoint(server.url, timeout=0.05, retries=0).complete(BODY)
    finally:
        end.set()


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_the_run_and_is_not_shown(status: int) -> None:
    with serve(replies(Reply({"error": {"message": "bad key"}}, status))) as server:
        with pytest.raises(UserError, match=r"the key in MY_KEY \(bad key\)") as caught:
            endpoint(server.url, key="sk-hidden", key_variable="MY_KEY").complete(BODY)
        assert server.requests[0][1]["Authorization"] == "Bearer sk-hidden"
        assert "hidden" not in str(caught.value) and "hidden" not in repr(endpoint(server.url, key="sk-hidden"))
        with pytest.raises(UserError, match="no key: set OPENAI_API_KEY"):
            endpoint(server.url).complete(BODY)
        assert "Authorization" not in server.requests[1][1]
        assert len(server.requests) == 2


def test_a_wrong_model_ends_the_run_and_a_refusal_does_not() -> None:
    wrong = serve(replies(Reply({"error": "no such model"}, 404)))
    with wrong as server, pytest.raises(UserError, match=r"status 404 \(no such model\)"):
        endpoint(server.url).complete(BODY)
    with serve(replies(Reply({"error": {"message": "context length exceeded"}}, 400))) as server:
        with pytest.raises(RefusedError, match="status 400: context length exceeded"):
            endpoint(server.url).complete(BODY)
        assert len(server.requests) == 1


def test_redirects_are_not_followed() -> None:
    with serve(replies(good())) as other, serve(replies(Reply(b"", 307, {"Location": other.url}))) as server:
        with pytest.raises(UserError, match="status 307"):
            endpoint(server.url, key="k").complete(BODY)
        assert not other.requests


def test_a_long_wait_ends_the_run() -> None:
    limited = serve(replies(Reply(b"quota", 429, {"Retry-After": "86400"})))
    with limited as server, pytest.raises(UserError, match=r"asks to wait 86400 s \(quota\)"):
        endpoint(server.url).complete(BODY)


def test_a_rate_limit_pauses_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    with serve(replies(Reply(b"", 429, {"Retry-After": "7"}), good())) as server:
        one = endpoint(server.url)
        clock = [100.0]
        monkeypatch.setattr(client.time, "monotonic", lambda: clock[0])

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            clock[0] += seconds

        monkeypatch.setattr(one, "_sleep", sleep)
        one.complete(BODY)
        assert slept == [7.0] and one._not_before == 107.0
        # Twelve in a minute: the second begins five seconds after the first.
        one.per_minute, slept[:] = 12.0, []
        one.complete(BODY)
        one.complete(BODY)
        assert slept == [5.0]


def test_a_waiting_call_ends_when_the_run_does() -> None:
    with serve(replies(Reply(b"", 503))) as server:
        one = endpoint(server.url, first_pause=3600.0)
        one.stop.set()
        with pytest.raises(StoppedError):
            one.complete(BODY)


def test_addresses() -> None:
    assert completions_url("http://h:8/v1") == "http://h:8/v1/chat/completions"
    assert completions_url("https://h/v1/chat/completions") == "https://h/v1/chat/completions"
    assert completions_url("https://h/v1/?api-version=2") == "https://h/v1/chat/completions?api-version=2"
    for bad in ("h:80/v1", "ftp://h/v1", "http:///v1", "http://h:x/v1", "http://h/v 1", ""):
        with pytest.raises(UserError, match="--endpoint"):
            completions_url(bad)


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after("2.5") == 2.5
    assert 50 < retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 61
    for nothing in (None, "", "soon", "-3", "inf", "nan", "Mon, 99 Foo"):
        assert retry_after(nothing) == 0.0


def test_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("A_KEY", " abc\n")
    assert client.key_from("A_KEY") == "abc" and client.key_from("NO_SUCH_KEY") == ""
    monkeypatch.setenv("A_KEY", "a\nb")
    with pytest.raises(UserError, match="A_KEY: holds"):
        client.key_from("A_KEY")
    Endpoint("http://127.0.0.1/v1", "k"), Endpoint("https://h/v1", "k"), Endpoint("http://h/v1")
    assert not capsys.readouterr().err
    Endpoint("http://h/v1", "k")
    assert "without encryption" in capsys.readouterr().err
