"""Hashes of kernel sources, and what result files say about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codeshell import kernels
from codeshell.cli import main
from codeshell.operations import KERNELS, TRITON_KERNELS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    """Two kernels; one includes a header that includes another, beside it and from the root."""
    root = tmp_path / "csrc"
    for path, text in {
        "rotary/rotary.cu": '#include "gpu/cuda.h"\n#include "rotary.h"\n#include <cmath>\nint a = 1; // one\n',
        "rotary/rotary.h": '#pragma once\n  #  include "rotary_math.inc"\n',
        "rotary/rotary_math.inc": "float angle;\n",
        "gpu/cuda.h": '#ifdef HOST\n#include "gpu/host/cuda.h"\n#endif\n',
        "gpu/host/cuda.h": "host\n",
        "gpu/device.cu": "not a kernel\n",
        "adamw/adamw.cu": '#include "gpu/cuda.h"\nconst char* url = "http://a";\n',
    }.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def changed(csrc: Path, path: str, old: str, new: str) -> set[str]:
    """Kernels whose hash differs after the edit."""
    before = kernels.source_hashes(csrc)
    text = (csrc / path).read_text()
    assert old in text
    (csrc / path).write_text(text.replace(old, new))
    after = kernels.source_hashes(csrc)
    assert set(before) == set(after) == {"adamw/adamw.cu", "rotary/rotary.cu"}
    return {source for source in after if after[source] != before[source]}


def test_hash_follows_what_is_included(csrc: Path) -> None:
    assert changed(csrc, "rotary/rotary.cu", "a = 1", "a = 2") == {"rotary/rotary.cu"}
    assert changed(csrc, "rotary/rotary_math.inc", "angle", "angles") == {"rotary/rotary.cu"}
    assert changed(csrc, "gpu/cuda.h", "HOST", "HOST_GPU") == {"rotary/rotary.cu", "adamw/adamw.cu"}
    assert changed(csrc, "adamw/adamw.cu", "http://a", "http://b") == {"adamw/adamw.cu"}


def test_hash_ignores_comments_space_and_the_host_layer(csrc: Path) -> None:
    assert changed(csrc, "rotary/rotary.cu", "// one", "/* 87 us\n on an H200 */  ") == set()
    assert changed(csrc, "rotary/rotary_math.inc", "float angle;", "float\n\n  angle;") == set()
    assert changed(csrc, "gpu/host/cuda.h", "host", "other") == set()
    assert kernels.bare(b'a = "x // y"; // z\n \'"\' /* " */ b') == b'a = "x // y"; \'"\' b'


def test_generated_file_stays_untouched_when_nothing_changed(csrc: Path, tmp_path: Path) -> None:
    out = tmp_path / "kernel_sources.cpp"
    kernels.main(str(csrc), str(out))
    for source, digest in kernels.source_hashes(csrc).items():
        assert f"{source}={digest}" in out.read_text()
    out.chmod(0o444)
    before = out.stat().st_mtime_ns
    kernels.main(str(csrc), str(out))
    assert out.stat().st_mtime_ns == before


def test_module_has_the_hashes_of_its_sources() -> None:
    assert kernels.built_hashes() == kernels.source_hashes(ROOT / "csrc"), "build the extension again"


def write_result(folder: Path, name: str, started: str, digest: str, tests: dict[str, Any], kind: str = "cuda") -> None:
    document = {
        "device": {"type": kind, "name": "NVIDIA H200"},
        "environment": {"started": started},
        "kernels": {"rotary/rotary.cu": digest},
        "tests": tests,
    }
    (folder / name).write_text(json.dumps(document))


def test_verdicts(tmp_path: Path) -> None:
    def verdict(digest: str = "new") -> str:
        return kernels.verdict("rotary/rotary.cu", digest, kernels.read_results(tmp_path), ("gpu/a.py", "gpu/b.py"))

    good = {"passed": 3, "failed": 0}
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    write_result(tmp_path, "cpu.json", "2026-01-09", "new", {"gpu/a.py": good, "gpu/b.py": good}, kind="cpu")
    assert verdict() == "never run on a GPU"
    write_result(tmp_path, "old.json", "2026-01-01", "old", {"gpu/a.py": good, "gpu/b.py": good})
    assert verdict() == "run on NVIDIA H200 at another source (old.json)"
    write_result(tmp_path, "bench.json", "2026-01-03", "new", {})
    assert verdict() == "run on NVIDIA H200 at this source, without its tests (bench.json)"
    write_result(tmp_path, "half.json", "2026-01-04", "new", {"gpu/a.py": good, "gpu/b.py": {"passed": 0, "failed": 0}})
    assert "without its tests" in verdict()
    write_result(tmp_path, "good.json", "2026-01-02", "new", {"gpu/a.py": good, "gpu/b.py": good})
    assert verdict() == "verified on NVIDIA H200 at this source (good.json)"
    assert verdict("old") == "verified on NVIDIA H200 at this source (old.json)"
    write_result(tmp_path, "bad.json", "2026-01-05", "new", {"gpu/a.py": good, "gpu/b.py": {"passed": 1, "failed": 2}})
    assert verdict() == "2 of its tests FAILED on NVIDIA H200 at this source (bad.json)"


def test_info_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["info", "--kernels", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["kernels"]
    assert {row["source"] for row in rows} == {*KERNELS, *TRITON_KERNELS}
    assert main(["info", "--kernels"]) == 0
    text = capsys.readouterr().out
    for row in rows:
        assert f"{row['source']}  source {row['hash']}" in text
        assert row["serves"] in text
        assert row["verdict"] in text
    assert "build again" not in text

    # An installed package: hashes from the extension alone, and no result files.
    monkeypatch.setattr(kernels, "present_hashes", lambda: None)
    monkeypatch.setattr("codeshell.environment.benchmarks_folder", lambda: None)
    assert main(["info", "--kernels", "--json"]) == 0
    installed = json.loads(capsys.readouterr().out)["kernels"]
    assert {row["source"]: row["hash"] for row in installed} == kernels.hashes()
    assert {row["verdict"] for row in installed} == {"no result files installed"}

    monkeypatch.setattr(kernels, "present_hashes", lambda: dict.fromkeys(KERNELS, "0" * 16))
    assert main(["info", "--kernels"]) == 0
    assert "this build is of another source: build again" in capsys.readouterr().out
