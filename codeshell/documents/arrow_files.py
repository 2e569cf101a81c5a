"""Reads Arrow IPC files, as `save_to_disk` of Hugging Face datasets writes them: the stream and the file format.

A local file is mapped into memory: of columns that are not compressed, only the bytes that are used are read.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Collection, Iterator
from typing import IO

import pyarrow as pa

from codeshell.documents import readers

MARK = b"ARROW1"
"""The first bytes of the file format; the stream format has no mark."""


@contextlib.contextmanager
def opened(
    path: str, columns: Collection[str] | None = None
) -> Iterator[pa.RecordBatchReader | pa.RecordBatchFileReader]:
    """A reader of some columns of a file (None: all). What is wrong with the file is a `UserError` that names it."""
    with readers.damage(path), readers.open_binary(path) as file:
        is_file = file.read(len(MARK)) == MARK
        file.seek(0)
        source = _mapped(path, file)
        open_ = pa.ipc.open_file if is_file else pa.ipc.open_stream
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with open_(source, options=options) as reader:
            if columns is None:
                yield reader
                return
            schema = reader.schema
        # A second reader, because only the schema tells the places of the columns. An empty list would mean all.
        places = [place for place, name in enumerate(schema.names) if name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=places, use_threads=False)
        source.seek(0)
        with open_(source, options=options) as reader:
            yield reader


def batches(
    path: str, columns: Collection[str] | None = None, begin: int = 0, end: int | None = None
) -> Iterator[pa.RecordBatch]:
    """The record batches from number `begin` to before `end` (None: the last one)."""
    with opened(path, columns) as reader:
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            for number in range(begin, reader.num_record_batches if end is None else end):
                yield reader.get_batch(number)
            return
        for number, batch in enumerate(reader):
            if end is not None and number >= end:
                return
            if number >= begin:
                yield batch


def schema(path: str) -> pa.Schema:
    with opened(path) as reader:
        return reader.schema


def is_file_format(path: str) -> bool:
    with readers.open_binary(path) as file:
        return file.read(len(MARK)) == MARK


def _mapped(path: str, file: IO[bytes]) -> pa.NativeFile:
    if readers.is_url(path):
        return pa.PythonFile(file, "r")
    try:
        # Python maps a file of any name; Arrow opens no path that is not UTF-8.
        return pa.BufferReader(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except ValueError:
        raise EOFError("the file is empty") from None
