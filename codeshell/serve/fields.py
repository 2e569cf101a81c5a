"""The fields of a request: each is read and checked, or ignored for a reason, or refused.

A client that asks for something that this server does not do gets an error that names the field, never a text that was
computed in another way than it asked for. What clients send and what changes no text (a slot, a user's name) is in a
list of its own. A field that is in no list is refused as well, because it may be a misspelt one; the option
`--ignore-unknown-fields` lets it pass, for a plug-in that is newer than this server.

`null` is a field that is not there, as in OpenAI's interface.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from codeshell.errors import say
from codeshell.serve.errors import RequestError, field_error, shown

MAX_STOPS = 64
"""Stop strings in a request; each is looked for at every token."""

MAX_STOP = 1024
"""Characters of a stop string: so much text at most is held back in a stream."""

MAX_SEED = 2**64 - 1

LONGEST_NAME = 64
"""Characters of a name that may be a misspelt one: to compare longer ones would take seconds."""


class Refused(NamedTuple):
    """A field that asks for what is not done here.

    Attributes:
        neutral: values that ask for nothing, and pass.
        why: the end of the message.
    """

    neutral: tuple[Any, ...]
    why: str

    def passes(self, value: Any) -> bool:
        """Whether a value asks for nothing. `1` and `true` are not the same here, `1` and `1.0` are."""
        return value is None or any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.neutral
        )


def parse(body: bytes) -> dict[str, Any]:
    """The object in a body: strict JSON in UTF-8.

    Raises:
        RequestError: it is none; a number that JSON does not have; the same field twice.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 (byte {error.start}: {error.reason}); send UTF-8") from None
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError:
        raise RequestError("the body is nested too deeply; send the fields of the interface") from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON ({error}); send one JSON object") from None
    if not isinstance(value, dict):
        raise RequestError(f"the body is a JSON {_kind(value)}; send one JSON object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # One pass: a body may have a million names, and nobody else is answered meanwhile.
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the field {shown(name)} is there twice")
        found[name] = value
    return found


def _kind(value: Any) -> str:
    kinds: Mapping[type, str] = {list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")


class Fields:
    """The fields of one object of a request, read one by one.

    Args:
        values: the object.
        ignored: fields that change no text, and why.
        refused: fields that ask for what is not done here.
        lenient: let unknown fields pass.
        inside: name of the field that holds the object, for the messages; "" for the body itself.
    """

    _told: set[str] = set()  # noqa: RUF012  (unknown fields that the log has named, of all requests)

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        ignored: Mapping[str, str],
        refused: Mapping[str, Refused],
        lenient: bool = False,
        inside: str = "",
    ) -> None:
        self._values, self._ignored, self._refused = values, ignored, refused
        self._lenient, self._inside, self._read = lenient, f"{inside}." if inside else "", set[str]()

    def get(self, name: str) -> Any:
        """The value as it came; None where there is none."""
        self._read.add(name)
        return self._values.get(name)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def error(self, name: str, message: str, code: str | None = None) -> RequestError:
        return field_error(self._inside + name, message, code)

    def text(self, name: str, default: str | None = None) -> str | None:
        value = self.get(name)
        if value is None:
            return default
        return check_text(self._inside + name, value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"is {shown(value)}; send true or false")
        return value

    def number(self, name: str, default: float, least: float, most: float, *, above: bool = False) -> float:
        """A finite number from `least` (or, with `above`, from above it) to `most`."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, f"is {shown(value)}; send a number")
        # Huge integers have no float, and 1e999 is read as infinity.
        if not least <= value <= most or (above and value == least) or not math.isfinite(value):
            range_ = f"above {least:g} and at most {most:g}" if above else f"from {least:g} to {most:g}"
            raise self.error(name, f"is {shown(value)}; send a number {range_}")
        return float(value)

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        value = self.get(name)
        if value is None:
            return default
        # JSON has one kind of number, and some clients write each with a point.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, f"is {shown(value)}; send a whole number")
        if not least <= value <= most:
            raise self.error(name, f"is {shown(value)}; send a whole number from {least} to {most}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Stop strings: one text, or a list of them."""
        value = self.get(name)
        if value is None:
            return ()
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or len(values) > MAX_STOPS:
            raise self.error(name, f"is {shown(value)}; send a text, or a list of at most {MAX_STOPS} texts")
        for one in values:
            check_text(self._inside + name, one)
            if not one or len(one) > MAX_STOP:
                raise self.error(name, f"has a text of {len(one)} characters; each must have 1 to {MAX_STOP}")
        return tuple(dict.fromkeys(values))

    def inside(self, name: str, ignored: Mapping[str, str], refused: Mapping[str, Refused]) -> Fields:
        """The object in a field; an empty one where there is none."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, f"is {shown(value)}; send an object")
        return Fields(value or {}, ignored=ignored, refused=refused, lenient=self._lenient, inside=self._inside + name)

    def finish(self) -> None:
        """Refuse what has not been read. To be called once all fields are.

        Raises:
            RequestError: a field that is refused, or in no list.
        """
        for name, value in self._values.items():
            if name in self._read or name in self._ignored:
                continue
            if name in self._refused:
                if not self._refused[name].passes(value):
                    raise self.error(name, f"{shown(value)} is not served: {self._refused[name].why}", "unsupported")
            elif not self._lenient:
                near = difflib.get_close_matches(name[:LONGEST_NAME], [*self._read, *self._ignored], 1)
                hint = f"; perhaps {near[0]}" if near else "; leave it out, or start the server with "
                hint += "" if near else "--ignore-unknown-fields"
                raise self.error(shown(name)[1:-1], f"no such field{hint}", "unknown_field")
            elif name not in self._told and len(self._told) < 100:
                self._told.add(name)
                say(f"codeshell: a client sends the field {shown(name)}, which is unknown and ignored (said once)")


def check_text(name: str, value: Any) -> str:
    """A text that has a form in UTF-8.

    Raises:
        RequestError: it is no text, or half a character (an editor may cut an emoji into its two halves).
    """
    if not isinstance(value, str):
        raise field_error(name, f"is {shown(value)}; send a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise field_error(
            name, f"has a lone surrogate at {error.start}, which is half a character; send whole characters"
        ) from None
    return value


def choose(name: str, value: Any, readers: Mapping[type, Callable[[Any], Any]], wanted: str) -> Any:
    """A field that may have one of several types: the reader of its type applied to it."""
    reader = readers.get(type(value))
    if reader is None:
        raise field_error(name, f"is {shown(value)}; send {wanted}")
    return reader(value)
