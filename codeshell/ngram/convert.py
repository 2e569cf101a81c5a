"""Model files of other kinds: ARPA (plain or gzipped) to and from ours, and KenLM's probing binaries to ours."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Literal, TypeAlias

from codeshell import _C
from codeshell.engine.files import atomic_path, disk_error
from codeshell.errors import UserError

Kind: TypeAlias = Literal["codeshell", "arpa", "arpa.gz", "kenlm"]

PIECE_BYTES = 4 << 20
"""What is read of an ARPA file at a time."""

_MAGIC = b"codeshell n-gram"
_KENLM = b"mmap lm http://kheafield.com/code"
_GZIP = b"\x1f\x8b"


def kind_of(path: str | Path) -> Kind:
    """What kind of model a file is, by its first bytes; what is none of the others is read as ARPA.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a model file") from None
    except ValueError:
        raise UserError(f"{str(path)!r}: no name of a file; name a model file") from None
    if not beginning:
        raise UserError(f"{path}: empty; name a model file")
    if beginning.startswith(_MAGIC):
        return "codeshell"
    if beginning.startswith(_KENLM):
        return "kenlm"
    return "arpa.gz" if beginning.startswith(_GZIP) else "arpa"


def to_model(
    source: str | Path, output: Path, *, quantize: bool = False, keep_words: bool = False, memory: int = 1 << 30
) -> None:
    """Write an ARPA file or a binary of KenLM as a model of ours. Its units are words between blanks.

    Args:
        source: `\\data\\` …, the same through gzip, or KenLM's binary (version 5, probing).
        quantize: 8-bit probabilities and backoffs: a quarter of the size; scores change in the third digit.
        keep_words: so that it can be written as ARPA again (not from a binary, which has no words of its n-grams).
        memory: bytes for sorting.

    Raises:
        UserError: the file is none of these, or damaged: the line names the file, and of ARPA the line in it.
    """
    kind = kind_of(source)
    if kind == "codeshell":
        raise UserError(f"{source}: is a model of codeshell already; give an ARPA file or a binary of KenLM")
    if kind == "kenlm" and keep_words:
        raise UserError(f"{source}: KenLM's binaries have no words of their n-grams; give its ARPA file")
    options = _C.ngram.WriterOptions()
    options.quantise, options.keep_words, options.memory_bytes = quantize, keep_words, memory
    about = json.dumps({"source": kind.split(".")[0], "units": "words"}, sort_keys=True)
    with atomic_path(output) as temporary:
        try:
            if kind == "kenlm":
                _C.ngram.convert_kenlm(str(source), str(temporary), about, options)
            else:
                _read_arpa(source, kind, _C.ngram.ArpaReader(str(temporary), about, options))
        except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{source}: {_said(error)}") from None
        except OSError as error:
            raise disk_error(error, output) from error


def _read_arpa(source: str | Path, kind: Kind, reader: _C.ngram.ArpaReader) -> None:
    with gzip.open(source) if kind == "arpa.gz" else open(source, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            reader.feed(piece)
    reader.finish()


def _said(error: Exception) -> str:
    """What is wrong, of gzip in our words."""
    if isinstance(error, EOFError):
        return "the gzip file is cut short; get it whole"
    if isinstance(error, zlib.error | gzip.BadGzipFile):
        return f"the gzip file is damaged ({error}); get it again"
    return str(error)


def to_arpa(model: _C.ngram.Model, name: str | Path, output: Path) -> None:
    """Write a model of ours as ARPA; through gzip if the output's name ends in `.gz`.

    Raises:
        UserError: the model was written without the words of its n-grams, or is damaged.
    """
    with atomic_path(output) as temporary, tempfile.TemporaryDirectory(dir=output.parent) as folder:
        plain = Path(folder, "model.arpa") if output.suffix == ".gz" else temporary
        try:
            model.write_arpa(str(plain))
        except ValueError as error:
            raise UserError(f"{name}: {error}; train it with --keep-words, or with --arpa") from None
        if plain is not temporary:
            # Without a name and a time in it, equal models give equal bytes.
            with (
                open(plain, "rb") as source,
                open(temporary, "wb") as raw,
                gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
            ):
                shutil.copyfileobj(source, packed, PIECE_BYTES)
