"""New text as it may be shown: whole characters, and nothing that may still become part of what ends the text.

A stream of tokens is a stream of bytes. A token may end inside a character, a stop string may begin in one token and
end in another, and how far a line is indented is known at its first letter. So bytes are held back until they can no
longer be cut off, and not one byte longer.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

BLANKS = b" \t"
"""What indents a line: each counts as one, as llama.cpp's `n_indent` counts them."""


def needles(stop: Any) -> list[bytes]:
    """The stop strings in UTF-8; a single string is one of them.

    Raises:
        TypeError: one is no text.
        ValueError: one is empty, or no text in UTF-8.
    """
    if stop is None:
        return []
    texts = [stop] if isinstance(stop, str) else stop
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"stop is {shown(stop)}; it must be a text or several")
    found = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"stop has {shown(text)} in it; it must be a text or several")
        if not text:
            raise ValueError("stop: an empty text would end every completion before its first token; leave it out")
        try:
            found.append(text.encode())
        except UnicodeEncodeError:
            raise ValueError(
                f"stop: {text!r} has a lone surrogate, which no text in UTF-8 holds; leave it out"
            ) from None
    return found


def cut(text: bytes, stops: Sequence[bytes]) -> bytes:
    """The text up to the first stop string."""
    # The token that completes a stop string may go beyond it, and stop strings may overlap: the earliest one counts.
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(found)] if found else text


def shown(value: Any) -> str:
    """A wrong value for a message, in one line."""
    text = " ".join(repr(value).split())
    return f"{text[:80]} ({type(value).__name__})"


class TextStream:
    """The text of new tokens, given out as early as it is certain.

    The concatenation of what `add` and `finish` return is the bytes of all tokens up to the cut, decoded at once with
    U+FFFD for what is not UTF-8.

    Args:
        stops: stop strings in UTF-8, none empty. The text ends before the first that a token completes.
        indent: the text ends before the first line, after its first one, that is indented by fewer blanks and tabs
            than this. Blank lines do not count; those just before the end are cut off with it.

    Attributes:
        stopped_by: the stop string that ended the text; "" if none did.
        dedented: the text ended at its indentation.
    """

    def __init__(self, stops: Sequence[bytes] = (), indent: int = 0) -> None:
        self.stopped_by, self.dedented = "", False
        self._stops, self._indent = list(stops), indent
        self._longest = max(map(len, self._stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = b""
        # Where in the held bytes the newline is whose next lines have been blank so far; -1 outside such lines.
        self._newline = -1
        self._read = 0

    @property
    def ended(self) -> bool:
        """Whether the text has been cut; nothing may be added then."""
        return bool(self.stopped_by) or self.dedented

    def add(self, new: bytes) -> str:
        """What a token's bytes make certain; "" if nothing."""
        assert not self.ended
        self._held += new
        dedent = self._dedent() if self._indent else -1
        at, stop = self._stop()
        if at >= 0 or dedent >= 0:
            # Whichever comes first.
            if at < 0 or 0 <= dedent < at:
                self.dedented, at = True, dedent
            else:
                self.stopped_by = stop.decode()
            text, self._held = self._held[:at], b""
            return self._decoder.decode(text, final=True)
        # Not certain: what begins a stop string, and a newline whose next line may be cut.
        safe = len(self._held) - self._begun()
        if self._newline >= 0:
            safe = min(safe, self._newline)
        text, self._held = self._held[:safe], self._held[safe:]
        self._read -= safe
        self._newline = self._newline - safe if self._newline >= 0 else -1
        return self._decoder.decode(text)

    def finish(self) -> str:
        """The rest of the text; an unfinished character is U+FFFD."""
        if self.ended:
            return ""
        text, self._held = self._held, b""
        return self._decoder.decode(text, final=True)

    def _stop(self) -> tuple[int, bytes]:
        """Where the first stop string begins, and which it is: the longest of those that begin there; -1 for none."""
        # All held bytes are searched: they are at most a stop string and a run of blank lines.
        found = [(at, -len(stop), stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        at, _, stop = min(found, default=(-1, 0, b""))
        return at, stop

    def _begun(self) -> int:
        """The length of the longest end of the held bytes that a stop string begins with."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stops):
                return length
        return 0

    def _dedent(self) -> int:
        """Where the newline before the first line is that is not indented enough; -1 while there is none.

        Reads the held bytes that have not been read yet.
        """
        held = self._held
        while self._read < len(held):
            if self._newline < 0:
                # Inside a line whose indentation is known: the next newline.
                self._newline = held.find(b"\n", self._read)
                self._read = len(held) if self._newline < 0 else self._newline + 1
                continue
            # At the start of a line, or in its blanks.
            begin = self._read
            while self._read < len(held) and held[self._read] in BLANKS:
                self._read += 1
            if self._read == len(held):
                # Its first letter is in another token, which counts the blanks anew.
                self._read = begin
                break
            if held[self._read] in b"\r\n":
                # A blank line, CRLF or not: the run of lines continues.
                self._read += 1
            elif self._read - begin < self._indent:
                return self._newline
            else:
                self._newline = -1
        return -1
