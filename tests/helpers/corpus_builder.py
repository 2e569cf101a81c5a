"""Makes the files that the filter stage leaves, so that later stages can be tested alone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from codeshell.documents.shards import DOCUMENTS, KEPT, document_id, shard_path, write_rows


def build(run: Path, documents: list[tuple[str, str, str]], *, shards: int = 1, stage: str = "filter") -> Path:
    """Write (repo, path, text) documents as `collect/documents-*` and all of them as `STAGE/kept-*`; return `run`."""
    shutil.rmtree(run, ignore_errors=True)
    for name in ("collect", stage):
        (run / name).mkdir(parents=True)
    size = max(1, -(-len(documents) // shards))
    for index in range(shards):
        rows = []
        for row, (repo, path, text) in enumerate(documents[index * size : (index + 1) * size]):
            data = text.encode()
            rows.append(
                {
                    "shard": index,
                    "row": row,
                    "id": document_id(data),
                    "repo": repo,
                    "path": path,
                    "language": "Python",
                    "text": text,
                    "bytes": len(data),
                }
            )
        write_rows(shard_path(run / "collect", "documents", index), DOCUMENTS, rows)
        write_rows(shard_path(run / stage, "kept", index), KEPT, rows)
    return run


def stdlib_texts(count: int, largest: int = 60_000) -> list[str]:
    """Real source files: the first `count` modules of the running interpreter's library, by name."""
    import sysconfig

    texts = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*/*.py")):
        if "site-packages" in path.parts or path.stat().st_size > largest:
            continue
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if text.strip():
            texts.append(text)
        if len(texts) == count:
            break
    return texts


def edited(text: str, share: float, seed: int) -> str:
    """The text with a share of its lines replaced."""
    choice = random.Random(seed)
    lines = text.split("\n")
    for at in choice.sample(range(len(lines)), int(share * len(lines))):
        lines[at] = f"changed{choice.random()} = other{choice.random()}({seed})"
    return "\n".join(lines)
