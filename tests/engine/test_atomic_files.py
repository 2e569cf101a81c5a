"""Files that are whole or absent, and the names that they may have."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from codeshell.engine.files import output_path, write_text
from codeshell.errors import UserError


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        write_text(pipe, "all of it\n")
        assert os.read(reader, 100) == b"all of it\n"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode) and list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize(
    ("name", "message"), [("", "empty"), ("s3://bucket/x", "a URL"), (os.fsdecode(b"caf\xe9"), "not UTF-8")]
)
def test_outputs_need_a_name_that_can_be_written(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--index.*{message}"):
        output_path(name, "--index")
