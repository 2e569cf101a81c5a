"""A model that is named by its directory or by its name on the hub, as a directory on this machine."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from codeshell.engine.downloads import check_model_directory
from codeshell.errors import UserError
from codeshell.randomness import below, draw

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""Files of a model that are read: its settings, weights that cannot hold code, and its tokenizer."""

SAMPLED_BLOCKS = 64
"""Blocks of each file of weights that `fingerprint` reads."""

BLOCK = 4096
"""Bytes of a block: a page of the file system."""

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def on_hub(name: str) -> bool:
    """Whether a name can only be one on the hub: there is no such path, and it has one slash."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()


def model_directory(name: str) -> Path:
    """The directory of a model: the one that is named, or the copy of the hub's files that its client keeps.

    Raises:
        UserError: there is no such directory or model, or the hub does not answer.
    """
    if not on_hub(name):
        return check_model_directory(name)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{name}: names on the hub need huggingface_hub; pip install huggingface_hub") from None
    # Its errors are those of several libraries: no network, no such model, no right to it, no space.
    try:
        return check_model_directory(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: no such model directory, and the hub has not given it ({reason}); fetch it with `hf download "
            f"{name} --local-dir DIR`, then give DIR"
        ) from None


def fingerprint(directory: Path) -> str:
    """A hash that tells the weights of models apart: of the sizes and of 64 blocks of each file of weights.

    The blocks are chosen by hash. Training changes all weights, so two models differ in them, and 15 GB need not be
    read.
    """
    digest = hashlib.sha256()
    for pattern in WEIGHTS:
        for path in sorted(directory.glob(pattern)):
            size = path.stat().st_size
            digest.update(json.dumps([path.name, size]).encode())
            with open(path, "rb") as file:
                for block in range(SAMPLED_BLOCKS):
                    file.seek(below(draw("fingerprint", path.name, block), max(1, size - BLOCK)))
                    digest.update(file.read(BLOCK))
    return digest.hexdigest()
