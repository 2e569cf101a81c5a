"""`codeshell info`: the libraries, and whether their versions are supported."""

from __future__ import annotations

import importlib.metadata
import json

from codeshell.cli import main
from codeshell.versions import RANGES


def test_the_libraries(capsys, monkeypatch):
    assert main(["info"]) == 0
    assert f"  torch        {importlib.metadata.version('torch')}" in capsys.readouterr().out
    versions = {"torch": "2.8.0", "transformers": "5.99.0", "numpy": "1.26.4", "pyarrow": "26.0.1"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "  torch        2.8.0, OUTSIDE the supported range: 2.9 or newer" in printed
    assert f"  transformers 5.99.0 (newer than {RANGES['transformers'].tested}, the newest tested)" in printed
    assert "  pandas       not installed (codeshell works with 2.0 or newer)" in printed
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["libraries"]
    assert facts["numpy"] == {
        "version": "1.26.4", "range": "1.26 or newer", "tested": RANGES["numpy"].tested, "in_range": True,
        "newer_than_tested": False,
    }  # fmt: skip
    assert facts["torch"]["in_range"] is False and facts["pandas"]["version"] is None
