"""What the tests of the sandbox share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codeshell.errors import UserError
from codeshell.evaluate.sandbox import levels
from codeshell.evaluate.sandbox.levels import Level
from codeshell.evaluate.sandbox.python_judge import PythonJudge


@pytest.fixture(scope="session")
def judge() -> Iterator[PythonJudge]:
    """A judge at the best level of this machine, which keeps programs apart from one another."""
    try:
        proof = levels.require()
    except UserError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    if proof.level < Level.NAMESPACES:
        pytest.skip(f"the best level of this machine is {proof.level.value}, and needs 3")
    with PythonJudge(proof.level) as found:
        yield found
