"""Reads CSV and TSV with a header, record by record, with the bytes of each record as they are in the file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO

from codeshell.documents.formats import ending
from codeshell.documents.readers import DamagedError

DELIMITERS = ",;\t|"
"""What may stand between the fields of a `.csv` file. The one that the header has most of counts."""

LONGEST_RECORD = 1 << 28
"""Bytes of a record at most; a longer one is a quote that is never closed."""


class CsvReader:
    """The records of a file: quotes are doubled inside quotes, and a quoted field may hold line ends.

    Raises:
        DamagedError: a quote that is not closed, or text after a closing quote.
    """

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name, self._file = name, file
        self._raw: list[bytes] = []
        self._size = 0
        # The limit is one of the whole process.
        csv.field_size_limit(LONGEST_RECORD)
        first = file.readline()
        self._pushed: bytes | None = first
        delimiter = "\t"
        if ending(name) != ".tsv":
            outside = b"".join(first.split(b'"')[::2]).decode("utf-8", "replace")
            delimiter = max(DELIMITERS, key=outside.count)  # the first of those that are equally frequent
        self._reader = csv.reader(self._lines(), delimiter=delimiter, strict=True)
        self.header, self.head = next(self._records(), ([], b""))

    def __iter__(self) -> Iterator[tuple[list[str] | None, bytes]]:
        """Yield (fields, bytes) of each record after the header; None for one of another number of fields."""
        for fields, raw in self._records():
            # Programs leave out empty fields at the end.
            missing = len(self.header) - len(fields)
            yield (None if missing < 0 else fields + [""] * missing), raw

    def _records(self) -> Iterator[tuple[list[str], bytes]]:
        while True:
            self._raw, self._size = [], 0
            try:
                fields = next(self._reader, None)
            except csv.Error as error:
                raise DamagedError(
                    f"{self._name}: no CSV with a header and doubled quotes, near line {self._reader.line_num} "
                    f"({error}); fix it or leave it out"
                ) from None
            if fields is None:
                return
            if fields:  # a blank line is no record
                yield fields, b"".join(self._raw)

    def _lines(self) -> Iterator[str]:
        # The reader takes as many lines as a record has; they are kept as its bytes.
        first = True
        while True:
            line, self._pushed = self._pushed, None
            if line is None:
                line = self._file.readline(LONGEST_RECORD)
            if not line:
                return
            self._raw.append(line)
            self._size += len(line)
            if self._size > LONGEST_RECORD:
                raise csv.Error("a record over 256 MiB: a quote is not closed")
            yield (line.removeprefix(b"\xef\xbb\xbf") if first else line).decode("utf-8", "surrogateescape")
            first = False
