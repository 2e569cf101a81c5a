"""Makes git repositories with fixed names and dates, so that their hashes are the same everywhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class History:
    """A repository that grows commit by commit, a minute apart."""

    def __init__(self, path: Path, *, author: str = "A. Person") -> None:
        self.path, self.author, self._minute = path, author, 0
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", ".")

    def git(self, *arguments: str, data: bytes | None = None) -> str:
        """Run git there, without the configuration of whoever runs the tests; return what it says."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        date = f"{1_700_000_000 + 60 * self._minute} +0000"
        names = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", self.author), ("EMAIL", "a@example.org"), ("DATE", date))
        }
        result = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            input=data,
            capture_output=True,
            check=True,
            env=kept | names | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull},
        )
        return result.stdout.decode().strip()

    def commit(self, message: str, files: dict[str, str | bytes | None], *options: str) -> str:
        """Write files (None removes one) and commit all; return the hash."""
        self._minute += 1
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content, encoding="utf-8", newline="")
        self.git("add", "--all", "--force")
        self.git(
            "commit", "--quiet", "--allow-empty", "--cleanup=verbatim", *options, "--file=-", data=message.encode()
        )
        return self.git("rev-parse", "HEAD")
