"""What the tests of the sandbox share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codeshell.evaluate.sandbox.python_judge import PythonJudge


@pytest.fixture(scope="session")
def judge() -> Iterator[PythonJudge]:
    """A judge at the best level of this machine."""
    with PythonJudge(3) as found:
        yield found
