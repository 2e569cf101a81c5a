"""One gate for all operations, and one list of kinds: never a crash, never a wrong number, never what memory held."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("gate_cases.py")

NEVER_AN_ERROR = {
    "Parameter",
    "subclass",
    "strided",
    "negative view",
    "FlopCounterMode",
    "dispatch mode",
    "function mode",
    "no_grad",
    "inference_mode",
    "default dtype float64",
    "default dtype bfloat16",
    "device context meta",
    "default device meta",
    "deterministic",
}
"""Kinds for which an error would be a fault too."""
EXCEPTIONS = {
    # Tables have no gradients; a cache is used where it lies; the cases build tensors of their own in these contexts.
    ("rotary", "Parameter"),
    ("rotary_qkv", "Parameter"),
    ("packed_attention", "Parameter"),
    ("decode_attention", "negative view"),
    ("decode_attention", "strided"),
    ("rotary", "strided"),
    ("rotary_qkv", "strided"),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], str]:
    """What came of each pair; the script runs in a process of its own, because a wrong address would end it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT)], capture_output=True, text=True, timeout=300, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert done.returncode == 0, f"the interpreter ended at {lines[-1:]}: {done.stderr[-2000:]}"
    return {(line[0], line[1]): line[2] for line in lines if len(line) == 3}


def test_nothing_is_wrong(outcomes: dict[tuple[str, str], str]) -> None:
    assert len(outcomes) > 1000
    assert {pair: what for pair, what in outcomes.items() if what.startswith("WRONG")} == {}


@pytest.mark.parametrize("kind", sorted(NEVER_AN_ERROR))
def test_these_kinds_are_served(outcomes: dict[tuple[str, str], str], kind: str) -> None:
    served = {name: what for (name, of), what in outcomes.items() if of == kind and (name, of) not in EXCEPTIONS}
    assert served and {name: what for name, what in served.items() if what != "right"} == {}


@pytest.mark.parametrize("kind", ["make_fx", "make_fx pre_dispatch", "vmap", "vjp", "jvp", "torch.jit.trace"])
@pytest.mark.parametrize("name", ["attention", "rotary", "gelu", "residual_layer_norm", "linear"])
def test_traces_and_transforms_are_right(outcomes: dict[tuple[str, str], str], name: str, kind: str) -> None:
    assert outcomes[name, kind] == "right"


@pytest.mark.parametrize(
    "name",
    ["attention", "packed_attention", "rotary", "gelu", "residual_layer_norm", "linear", "linear_cross_entropy"],
)
def test_fake_tensors_give_shapes(outcomes: dict[tuple[str, str], str], name: str) -> None:
    assert outcomes[name, "FakeTensor"] == "shape"
