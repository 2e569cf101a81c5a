"""`codeshell serve`: bad options are one line, before a model is loaded; a served model answers until a signal."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn
from helpers.live_server import TOKENIZER
from helpers.tiny_models import tiny_model

from codeshell.cli import main
from codeshell.serve.server import Server


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "model"
    TOKENIZER.save(path)
    tiny_model().save_pretrained(path)
    return path


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["serve", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1 and captured.err.startswith("codeshell: error: ")
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port 70000: give a number from 0 to 65535"),
        (["--context", "-1"], "--context -1: give a number from 0"),
        (["--queue", "-1"], "--queue -1: give a number"),
        (["--temperature", "nan"], "--temperature nan: give a number"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could use the model; give --api-key KEY"),
        (["--host", "192.0.2.1", "--api-key", "k"], "--host 192.0.2.1: not an address of this machine"),
        (["--host", "nothing.invalid", "--api-key", "k"], "--host nothing.invalid: no such address"),
        (["--host", ""], "--host: an empty address"),
        (["--api-key", ""], "--api-key: empty"),
        (["--api-key", "a b\n"], "--api-key: empty, or with blanks"),
        (["--api-key", "clé"], "--api-key: not ASCII"),
        (["--allow-origin", "*"], "--allow-origin *: not one origin"),
        (["--allow-origin", "https://a.example/path"], "not one origin"),
        (["--allow-host", "a:80"], "--allow-host a:80: not a name"),
        (["--chat-template", "nothing.jinja", "--port", "0"], "nothing.jinja"),
    ],
)
def test_options_that_cannot_be_meant(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in complaint(capsys, directory, *arguments)


def test_a_key_in_the_environment_is_named_where_it_is(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODESHELL_API_KEY", "s3cret\n")
    message = complaint(capsys, directory)
    assert "the variable CODESHELL_API_KEY: empty, or with blanks" in message and "s3cret" not in message


def test_a_port_in_use_is_one_line(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"--port {port}: in use on 127.0.0.1; end what uses it" in complaint(capsys, directory, "--port", port)


def test_what_is_no_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such model directory" in complaint(capsys, tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    assert "model_type is None, which is not served" in complaint(capsys, tmp_path, "--port", 0)
    tiny_model().save_pretrained(tmp_path)
    assert "tokenizer.json: no such tokenizer" in complaint(capsys, tmp_path, "--port", 0)
    TOKENIZER.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert str(tmp_path) in complaint(capsys, tmp_path, "--port", 0)


def test_a_model_that_is_too_large_is_one_line(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codeshell.serve.memory.available", lambda: 1 << 20)
    assert "of memory are free; give --weights bf16" in complaint(capsys, directory, "--port", 0)


def test_a_missing_library_is_one_line(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name.startswith("codeshell.serve.server")]:
        monkeypatch.delitem(sys.modules, name)
    assert "uvicorn is not installed; run pip install 'codeshell[serve]'" in complaint(capsys, directory)


def test_the_command_imports_nothing_heavy() -> None:
    heavy = "{'starlette', 'uvicorn', 'torch', 'numpy'}"
    code = f"import sys, codeshell.cli.serve; print(*sorted({heavy} & set(sys.modules)))"
    # What is checked before a model is loaded does without torch as well.
    code += "\nimport codeshell.serve.server; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.fixture
def process(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = os.environ | {"CODESHELL_API_KEY": "s3cret"}
    one = subprocess.Popen(
        [sys.executable, "-m", "codeshell", "serve", str(directory), "--port", "0"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert one.stderr is not None
        line = one.stderr.readline()
        found = re.search(
            r"codeshell: demo0 at (http://127\.0\.0\.1:\d+/) \(completion, filling in; .*with key\)", line
        )
        assert found, line
        yield one, found[1]
    finally:
        one.kill()
        one.wait()


def test_it_serves_until_a_signal_ends_it(process: tuple[subprocess.Popen[str], str]) -> None:
    one, url = process
    headers = {"authorization": "Bearer s3cret"}
    body = {"input_prefix": "def f(", "input_suffix": "):", "n_predict": 4}
    answer = httpx2.post(f"{url}infill", json=body, headers=headers, timeout=60).json()
    assert answer["tokens_predicted"] == 4 and answer["model"] == "demo0"
    assert httpx2.get(f"{url}props", timeout=60).status_code == 401
    one.send_signal(signal.SIGTERM)
    out, err = one.communicate(timeout=60)
    assert (one.returncode, out, err) == (0, "", "codeshell: the server has ended\n")


class Idle:
    """A worker that has nothing to do."""

    def close(self) -> None: ...
    def interrupt(self) -> None: ...


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_server_and_keep_their_meaning(number: signal.Signals) -> None:
    def meaning(*_: object) -> None:
        pass

    # Whoever started the tests may have had a signal ignored, as nohup does.
    before = signal.signal(number, meaning)
    try:
        server = Server(uvicorn.Config(lambda: None), Idle())
        with server.capture_signals():
            signal.raise_signal(number)
            assert server.should_exit
        assert signal.getsignal(number) is meaning
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = Server(uvicorn.Config(lambda: None), Idle())
        with server.capture_signals():
            signal.raise_signal(signal.SIGHUP)
        assert not server.should_exit
    finally:
        signal.signal(signal.SIGHUP, before)
