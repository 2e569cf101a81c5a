"""Files that came from elsewhere: what a broken one really is, and what to do about it.

The usual faults of a downloaded model are few: a Git LFS pointer in place of the file, a web page that says why there
is no file, a file cut short, one that is still compressed. The readers of such files (config, weights, tokenizer) fail
on all of them, each in words of its own. What is said here names the fault and its remedy.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from codeshell.errors import UserError

AGAIN = "download it again"

_POINTER = b"version https://git-lfs.github.com/spec/"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def fault(path: Path) -> str | None:
    """What is in place of a downloaded file, with the remedy; None if its first bytes tell nothing.

    Only for a file that its reader has refused: a good file may begin with any bytes.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        return f"cannot be read ({error.strerror}); give a file that this user may read"
    if head.startswith(_POINTER):
        return "a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`, or " + AGAIN
    if not head.strip(b"\0"):
        return f"{'holds nothing but zeros' if head else 'empty'}; {AGAIN}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"a web page or an answer of the server, not the file itself; {AGAIN}, perhaps after a login"
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return f"compressed with {name}; decompress it first"
    return None


def read_downloaded_text(path: Path) -> str:
    """The text of a file in UTF-8, without its byte order mark.

    Raises:
        UserError: missing, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: {fault(path) or f'cannot be read as text in UTF-8; {AGAIN}'}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file that this user may read") from None


def read_downloaded_json(path: Path) -> Any:
    """The value in a JSON file that came from elsewhere.

    Raises:
        UserError: what the file is instead, and the remedy.
    """
    text = read_downloaded_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {fault(path) or f'not valid JSON ({error}); {AGAIN}'}") from None


def check_model_directory(directory: str | Path) -> Path:
    """The path of a model directory, which has a `config.json`.

    Raises:
        UserError: there is none; a name on a hub is no directory.
    """
    path = Path(directory)
    if not str(directory):
        raise UserError("model directory: an empty name; give one that holds config.json, weights and tokenizer.json")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{directory}: no config.json there; {model_place(path)}")
        return path
    if path.exists():
        raise UserError(f"{directory}: a file, not a model directory; give the directory that holds it")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(directory)):
        raise UserError(
            f"{directory}: no such model directory, and models are not downloaded by name; if it is one on the hub, "
            f"`hf download {directory} --local-dir DIR` fetches it, then give DIR"
        )
    raise UserError(
        f"{directory}: no such model directory; give one that holds config.json, weights and tokenizer.json"
    )


def model_place(directory: Path) -> str:
    """What to give in place of a directory without a `config.json`, for the end of a message."""
    if (directory / "adapter_config.json").is_file():
        return "it holds a LoRA adapter; merge it first (`codeshell model merge BASE ADAPTER -o DIR`), then give DIR"
    # A run, or the cache of a hub's client, holds models in folders of its own.
    for path in sorted([*directory.glob("model/config.json"), *directory.glob("snapshots/*/config.json")]):
        return f"the model is in {path.parent}"
    return "give the directory of a saved model, which holds config.json and weights"
