"""The log of a run after a kill: nothing twice, nothing half."""

from __future__ import annotations

import json

from codeshell.train.log import truncate


def test_log_is_cut_after_the_step_and_at_a_broken_line(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [json.dumps({"kind": "train", "step": step}) + "\n" for step in (1, 2, 3, 4)]
    log.write_text("".join(lines))
    truncate(log, 3)
    assert log.read_text() == "".join(lines[:3])
    log.write_text("".join(lines[:2]) + '{"kind": "train", "st')
    truncate(log, 9)
    assert log.read_text() == "".join(lines[:2])
    log.write_text("".join(lines[:2]) + lines[2].rstrip("\n"))
    truncate(log, 9)
    assert log.read_text() == "".join(lines[:2])
    truncate(log, 0)
    assert log.read_text() == ""
