"""`examples/ask_server.py` against a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.live_server import Script, live, service

from codeshell.serve.guard import Access

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ask_server.py"


def run(url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, EXAMPLE, url], capture_output=True, text=True, env=environment, timeout=60)


def test_it_fills_in_and_streams() -> None:
    script = Script(["= 0", "\n"])
    with live(service(script, access=Access(key="s3cret"))) as server:
        done = run(server.url, CODESHELL_API_KEY="s3cret")
        assert done.returncode == 0, done.stderr
        assert "'    tot' -> '= 0\\n' (0 tokens of the prompt were cached)" in done.stdout
        assert done.stdout.endswith("= 0\n\n")
        refused = run(server.url, CODESHELL_API_KEY="no")
        assert refused.returncode == 1 and refused.stderr.startswith("401: the key is missing or wrong")
    gone = run(server.url)
    assert gone.returncode == 1 and "is `codeshell serve` running?" in gone.stderr and gone.stderr.count("\n") == 1
