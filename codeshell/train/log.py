"""The log of a run: `log.jsonl`, and TensorBoard files if asked for. docs/run-directory.md lists the keys."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

from codeshell.engine.files import atomic_path, disk_error
from codeshell.errors import UserError


class Log:
    """Appends lines to `log.jsonl`. Lines after the step that a run resumes from are cut off first.

    Args:
        path: the file; it is created if it is missing.
        step: the last step done.
        tensorboard: a directory for event files, or None.
    """

    def __init__(self, path: Path, step: int, tensorboard: Path | None = None) -> None:
        self.path = path
        self.writer: Any = _writer(tensorboard, step) if tensorboard else None
        truncate(path, step)
        try:
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise disk_error(error, path) from error

    def write(self, line: dict[str, Any]) -> None:
        """Append one object; it must have the keys `kind` and `step`."""
        try:
            # Flushed line by line, so that a killed run's log ends with its last whole line.
            self.file.write(json.dumps(line, allow_nan=False) + "\n")
            self.file.flush()
        except OSError as error:
            raise disk_error(error, self.path) from error
        if self.writer is not None:
            for name, value in line.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def sync(self) -> None:
        """Bring every line to the disk, so that a checkpoint of this step may count on them."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def truncate(path: Path, step: int) -> None:
    """Keep the lines up to `step`. Lines after it, and one that a kill cut short, will be written again."""
    if not path.exists():
        return
    # Lines are in the order of their steps: what follows the first that is not kept is from the run that was stopped.
    with open(path, encoding="utf-8", errors="replace") as file:
        kept = list(itertools.takewhile(lambda text: _is_kept(text, step), file))
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def _is_kept(text: str, step: int) -> bool:
    """Whether a line is whole, its line break included, and of a step up to `step`."""
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return False
    return text.endswith("\n") and isinstance(line, dict) and bool(line.get("step", step + 1) <= step)


def _writer(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "train.tensorboard: TensorBoard is not installed; `pip install codeshell[tensorboard]`, or set it to false"
        ) from None
    # Like `truncate`: events after `step` are dropped, for they will come again.
    return SummaryWriter(str(directory), purge_step=step + 1)
