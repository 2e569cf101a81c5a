"""The page in a real browser: it completes, fills in and chats, and what a model writes is never markup."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from helpers import browser
from helpers.live_server import TOKENIZER, Letters, Live, Script, live, service, wait_for

from codeshell.serve.guard import Access

HOSTILE = ["<img src=x onerror=", "\"document.title='taken'\">", "<script>document.title='taken'</script>", "\n& é"]
SEEN = "state.suggestion === 'xx'"
READY = "new Promise(done => { const f = () => document.body.dataset.ready ? done(true) : setTimeout(f, 10); f(); })"


class Address:
    """What `Browser.open` asks of a path."""

    def __init__(self, url: str) -> None:
        self.url = url

    def as_uri(self) -> str:
        return self.url


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Browser]:
    program = browser.find()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(browser.NAMES)} is on PATH; the page was not seen by a browser")
    with browser.start(program) as one:
        yield one


@pytest.fixture(scope="module")
def script() -> Script:
    return Script(HOSTILE)


@pytest.fixture(scope="module")
def server(script: Script) -> Iterator[Live]:
    with live(service(script, context=4096, chat=Letters())) as one:
        yield one


def visit(tab: browser.Browser, server: Live, **named: Any) -> None:
    tab.problems.clear()
    tab.requests.clear()
    tab.open(Address(f"{server.url}/"), **named)  # type: ignore[arg-type]
    assert tab.evaluate(READY)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_loads_and_asks_this_server_alone(
    tab: browser.Browser, server: Live, tmp_path: Path, width: int, dark: bool
) -> None:
    visit(tab, server, width=width, dark=dark)
    assert tab.problems == []
    asked = {url for url in tab.requests if not url.startswith("data:")}
    assert asked == {f"{server.url}/{name}" for name in ("", "page.css", "page.js", "props")}
    assert tab.evaluate("$('model').textContent") == "tiny"
    assert "4,096 tokens of context" in tab.evaluate("$('facts').textContent")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    tab.screenshot(tmp_path / "page.png")
    assert struct.unpack(">II", (tmp_path / "page.png").read_bytes()[16:24]) == (width, 900)


def test_it_fills_in_at_the_cursor_and_tab_accepts(tab: browser.Browser, server: Live, script: Script) -> None:
    visit(tab, server)
    tab.evaluate("$('text').value = 'def f(x):\\n    \\nf(1)'; $('text').setSelectionRange(14, 14); complete()")
    assert [index for index in script.prompts[-1][0] if index > 255]
    # Shown in its place, as text: no element came of it.
    assert tab.evaluate("$('shown').querySelector('ins').textContent") == "".join(HOSTILE)
    assert tab.evaluate("$('shown').textContent") == "def f(x):\n    " + "".join(HOSTILE) + "\nf(1)\n"
    assert tab.evaluate("$('shown').querySelectorAll('img, script').length") == 0
    assert tab.evaluate("document.title") == "tiny · codeshell serve"
    assert "tokens of prompt" in tab.evaluate("$('status').textContent")
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert tab.evaluate("$('text').value") == "def f(x):\n    " + "".join(HOSTILE) + "\nf(1)"
    assert tab.evaluate("$('text').selectionStart") == 14 + len("".join(HOSTILE))
    assert tab.evaluate("$('accept').hidden && $('shown').querySelector('ins') === null")
    assert tab.problems == []


def test_at_the_end_it_continues(tab: browser.Browser, server: Live, script: Script) -> None:
    visit(tab, server)
    tab.evaluate(
        "$('text').value = 'a = '; $('text').setSelectionRange(4, 4); $('stop-at').value = '\\\\n'; complete()"
    )
    ids, settings = script.prompts[-1]
    assert TOKENIZER.decode(ids) == "a = " and settings.stop == ("\n",)
    # Typing takes the suggestion away.
    tab.evaluate("$('text').focus()")
    tab.call("Input.insertText", text="b")
    assert tab.evaluate("state.suggestion") == "" and tab.evaluate("$('text').value") == "a = b"


def test_it_chats(tab: browser.Browser, server: Live, script: Script) -> None:
    visit(tab, server)
    tab.evaluate("$('tab-chat').click(); $('message').value = '<b>Sort</b>'; send()")
    items = (
        "[...document.querySelectorAll('#talk li')].map((one) => [one.className, one.textContent, one.children.length])"
    )
    assert tab.evaluate(items) == [["user", "<b>Sort</b>", 0], ["assistant", "".join(HOSTILE), 0]]
    tab.evaluate("$('message').value = 'Again'; send()")
    prompt = TOKENIZER.decode(script.prompts[-1][0][1:])
    assert prompt == f"U:<b>Sort</b>\nA:{''.join(HOSTILE)}\nU:Again\nA:"
    tab.evaluate("$('clear').click()")
    assert tab.evaluate(items) == [] and tab.evaluate("document.title") == "tiny · codeshell serve"
    assert tab.problems == []


def wait_until_cancelled(script: Script, count: int) -> None:
    wait_for(lambda: script.cancelled == count)


def test_what_is_being_written_ends_with_the_stop_button_escape_and_typing(tab: browser.Browser) -> None:
    gate = threading.Semaphore(0)
    script = Script(["x"] * 200, gate)
    with live(service(script, context=4096)) as server:
        visit(tab, server)
        ends = {
            "$('stop-code').click()": "xx",
            "$('text').dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))": "",
            "$('text').value += 'b'; $('text').dispatchEvent(new InputEvent('input'))": "",
        }
        for number, (end, left) in enumerate(ends.items(), 1):
            tab.evaluate("window.done = complete(); 0")
            gate.release(2)
            tab.evaluate(f"new Promise(done => {{ const f = () => {SEEN} ? done() : setTimeout(f, 5); f(); }})")
            tab.evaluate(f"{end}; window.done")
            # Nothing comes after it: neither from the server, nor into the text.
            wait_until_cancelled(script, number)
            assert tab.evaluate("[state.suggestion, $('status').textContent]") == [left, "Stopped."]
            assert tab.evaluate("$('stop-code').hidden && !$('complete').disabled")
        # What was written before a stop can be taken, and this model does not chat.
        tab.evaluate("$('tab-chat').click(); $('message').value = 'Hi'; send()")
        assert tab.evaluate("$('send').disabled && !$('no-chat').hidden && $('message').value") == "Hi"
        assert tab.problems == []


def test_an_error_is_shown_as_text(tab: browser.Browser, server: Live) -> None:
    visit(tab, server)
    tab.evaluate("$('text').value = 'x'; complete()")
    assert tab.evaluate("$('status').textContent")
    tab.evaluate("$('temperature').value = '-1'; complete()")
    assert tab.evaluate("$('notice').textContent").startswith("temperature: is -1; send a number")
    # What was said of the request before it is gone.
    assert not tab.evaluate("$('notice').hidden") and tab.evaluate("$('status').textContent") == ""


def test_the_key_is_asked_for(tab: browser.Browser) -> None:
    with live(service(Script(["x"]), access=Access(key="s3cret"))) as server:
        tab.open(Address(f"{server.url}/"))  # type: ignore[arg-type]
        asked = "new Promise(done => { const f = () => $('ask-key').hidden ? setTimeout(f, 10) : done(true); f(); })"
        assert tab.evaluate(asked)
        assert tab.evaluate("document.activeElement.id") == "key"
        tab.evaluate("$('key').value = 'no'; $('use-key').click()")
        assert tab.evaluate(asked.replace("$('ask-key').hidden", "$('notice').hidden"))
        assert tab.evaluate("$('notice').textContent") == "The key is wrong."
        tab.evaluate("$('key').value = 's3cret'; $('use-key').click()")
        assert tab.evaluate(READY) and tab.evaluate("$('ask-key').hidden && $('notice').hidden")
        assert tab.evaluate("document.activeElement.id") == "text"
        tab.evaluate("$('text').value = 'a'; $('text').setSelectionRange(1, 1); complete()")
        assert tab.evaluate("state.suggestion") == "x"


def test_the_policy_and_the_files(server: Live) -> None:
    kinds = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript"}
    for path, kind in kinds.items():
        answer = httpx2.get(f"{server.url}{path}", timeout=30)
        assert answer.status_code == 200 and answer.headers["content-type"] == f"{kind}; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        # Nothing from elsewhere, and no text that is read as markup.
        assert "//" not in answer.text.replace("http://www.w3.org", "").replace("// ", "") or path == "/page.js"
        assert "innerHTML" not in answer.text and "eval(" not in answer.text and "onclick=" not in answer.text
