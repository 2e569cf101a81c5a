"""Values of exact builtin types as bytes, and messages of them: all that a candidate and its judge exchange.

The format has one tag per value and holds None, bool, int, float (by its bits), complex, str, bytes, bytearray, list,
tuple, set, frozenset, dict and range. A subclass travels as its base, so that no method of the candidate reaches the
judge. Whatever else a candidate returns travels as a handle: a number, a kind and a type's name.

Bytes are hostile until they are decoded: `decode` builds builtin values and nothing else, follows no references unless
it is told to, does not recurse, and counts before it allocates. It is neither pickle nor marshal, which would run code
or crash on bytes made for that.

    N T F           None, True, False
    i <int64>       an int that fits; I <u32 size> <bytes> another, little-endian in two's complement
    f <float64>     c <two float64>
    s b B           str (UTF-8, lone surrogates included), bytes, bytearray: <u32 size> <bytes>
    l t S Z d       list, tuple, set, frozenset, dict: <u32 count>, then the items (of a dict: key, value, …)
    g               range: three values follow
    r <u32>         the container that was opened as the nth (only where both sides ask for sharing)
    h <u8 kind> <u8 truth> <u32 number> <u32 size> <name>   a handle

This file runs inside the sandbox too, so it imports the standard library only.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_INT_BITS",
    "MAX_ITEMS",
    "Handle",
    "ValueRefusedError",
    "decode",
    "encode",
    "receive",
    "rest",
    "send",
]

MAX_BYTES = 32 << 20
"""Bytes of one value. HumanEval+ has answers of a million numbers, 9 MB."""

MAX_DEPTH = 200
"""Containers within one another. Comparing builtin values recurses in C; 200 is far from its limit."""

MAX_ITEMS = 1 << 21
"""Values in one message, containers counted. Each costs its reader up to 216 bytes of memory (an empty set), so that a
message is decoded in 450 MB. HumanEval+ has answers of 1,000,005 numbers."""

MAX_INT_BITS = 1 << 22
"""Bits of an int: 1.2 million decimal digits. Arithmetic on it is quadratic in places."""

KINDS = ("object", "iterator", "iterable", "function")
"""What a handle can do: nothing, be asked for its next item, be iterated, be called."""


class ValueRefusedError(Exception):
    """A value does not fit the format or its limits, or bytes are no value of the format."""


class Handle(NamedTuple):
    """A value that stays where it is: what the other side knows of it."""

    kind: str
    """One of `KINDS`."""
    truth: bool
    """`bool(value)`; True if that raises."""
    number: int
    """Its number in the table of the side that holds it."""
    name: str
    """The name of its type, for messages."""


_SIZE = struct.Struct("<I")
_INT64 = struct.Struct("<q")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_HANDLE = struct.Struct("<BBII")
_TAGGED_INT = struct.Struct("<cq")
_TAGGED_FLOAT = struct.Struct("<cd")
_TAGGED_SIZE = struct.Struct("<cI")

_TAGS: dict[type, bytes] = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z", dict: b"d"}
_MUTABLE = (list, set, dict)
# A bool, a range and None cannot be subclassed. An IntEnum is an int, a Counter a dict, a named tuple a tuple.
_BASES: tuple[type, ...] = (int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict)
_mro = type.__dict__["__mro__"].__get__


def encode(value: Any, export: Callable[[Any], Handle] | None = None, share: bool = False) -> bytes:
    """The bytes of a value.

    Args:
        value: anything; it is read, never changed.
        export: called with what has no form of its own, such as a generator; None refuses these.
        share: write a list, set or dict that occurs twice as a reference, so that it is one object there, too; cycles
            are then allowed. Otherwise it is written twice, and a cycle is refused as too deep.

    Raises:
        ValueRefusedError: one line that says what does not fit.
    """
    out: list[bytes] = []
    add = out.append
    # The iterators of the open containers; the innermost is `items`. Depth is the length of a list: no recursion.
    outer: list[Iterator[Any]] = []
    items: Iterator[Any] = iter((value,))
    left, room = MAX_ITEMS - 1, MAX_BYTES
    opened: dict[int, int] = {}
    while True:
        for item in items:
            kind: Any = type(item)
            # The common exact types first.
            if kind is int and -0x8000000000000000 <= item <= 0x7FFFFFFFFFFFFFFF:
                add(_TAGGED_INT.pack(b"i", item))
                continue
            if kind is float:
                add(_TAGGED_FLOAT.pack(b"f", item))
                continue
            if kind is bool:
                add(b"T" if item else b"F")
                continue
            if item is None:
                add(b"N")
                continue
            # A subclass is read by the methods of its base alone.
            base: Any = kind if kind in _BASES else next((base for base in _BASES if base in _mro(kind)), None)
            if base in _TAGS:
                if share and base in _MUTABLE:
                    number = opened.get(id(item))
                    if number is not None:
                        add(_TAGGED_SIZE.pack(b"r", number))
                        continue
                    opened[id(item)] = len(opened)
                count = base.__len__(item)
                left -= 2 * count if base is dict else count
                if left < 0:
                    raise ValueRefusedError(f"a value with more than {MAX_ITEMS:,} items")
                if len(outer) >= MAX_DEPTH:
                    raise ValueRefusedError(f"a value nested more than {MAX_DEPTH} deep, or one that contains itself")
                add(_TAGGED_SIZE.pack(_TAGS[base], count))
                outer.append(items)
                items = itertools.chain.from_iterable(dict.items(item)) if base is dict else base.__iter__(item)
                break
            if base is not None:
                data = _scalar(base, item)
            elif kind is range:
                data = b"g" + b"".join(_scalar(int, part) for part in (item.start, item.stop, item.step))
            elif export is not None:
                handle = export(item)
                name = handle.name.encode("utf-8", "replace")[:200]
                data = b"h" + _HANDLE.pack(KINDS.index(handle.kind), handle.truth, handle.number, len(name)) + name
            else:
                raise ValueRefusedError(f"a value of type {kind.__name__!r} cannot be sent")
            room -= len(data)
            if room < 0:
                raise ValueRefusedError(f"a value of more than {MAX_BYTES >> 20} MiB")
            add(data)
        else:
            if not outer:
                break
            items = outer.pop()
    data = b"".join(out)
    if len(data) > MAX_BYTES:
        raise ValueRefusedError(f"a value of more than {MAX_BYTES >> 20} MiB")
    return data


def _scalar(base: Any, item: Any) -> bytes:
    """The bytes of an int, float, complex, str, bytes or bytearray, or of an instance of a subclass."""
    if base is int:
        bits = int.bit_length(item)
        if bits > MAX_INT_BITS:
            raise ValueRefusedError(f"an int of more than {MAX_INT_BITS:,} bits")
        if bits < 64:
            return _TAGGED_INT.pack(b"i", int.__int__(item))
        data = int.to_bytes(item, bits // 8 + 1, "little", signed=True)
        return _TAGGED_SIZE.pack(b"I", len(data)) + data
    # struct reads the number inside the object and calls no method of a subclass.
    if base is float:
        return _TAGGED_FLOAT.pack(b"f", item)
    if base is complex:
        exact = complex.__pos__(item)
        return b"c" + _COMPLEX.pack(exact.real, exact.imag)
    if base.__len__(item) > MAX_BYTES:
        raise ValueRefusedError(f"a value of more than {MAX_BYTES >> 20} MiB")
    if base is str:
        data = str.encode(item, "utf-8", "surrogatepass")
        return _TAGGED_SIZE.pack(b"s", len(data)) + data
    data = b"".join((item,))
    return _TAGGED_SIZE.pack(b"b" if base is bytes else b"B", len(data)) + data


class _Open:
    """A container that is being read."""

    __slots__ = ("items", "left", "tag", "value")

    def __init__(self, tag: int, count: int) -> None:
        self.tag = tag
        self.left = count
        # A list is filled in place; the others are made of `items` when they are whole.
        self.items: list[Any] = []
        self.value: Any = self.items if tag == _LIST else {} if tag == _DICT else set() if tag == _SET else None

    def whole(self) -> Any:
        """The container with its items in it."""
        if self.tag == _TUPLE:
            return tuple(self.items)
        if self.tag == _FROZENSET:
            return frozenset(self.items)
        if self.tag == _DICT:
            self.value.update(zip(self.items[::2], self.items[1::2], strict=True))
        elif self.tag == _SET:
            self.value.update(self.items)
        return self.value


_LIST, _TUPLE, _SET, _FROZENSET, _DICT = b"ltSZd"
_RANGE = b"g"[0]


def decode(data: bytes, resolve: Callable[[Handle], Any] | None = None, share: bool = False) -> Any:
    """The value of bytes that may be hostile.

    Args:
        data: the bytes; at most `MAX_BYTES`.
        resolve: called with each handle; what it returns stands in the value. None refuses handles.
        share: whether references are followed. A few of them can make a value of any size when it is walked, so only
            the side that has nothing to lose allows them.

    Raises:
        ValueRefusedError: the bytes are no value, or one beyond the limits.
    """
    if len(data) > MAX_BYTES:
        raise ValueRefusedError(f"a value of more than {MAX_BYTES >> 20} MiB")
    try:
        return _decode(data, resolve, share)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueRefusedError(f"bytes that are no value: {error}") from None
    except TypeError as error:  # a list in a set, a dict as a key
        raise ValueRefusedError(f"a value that cannot be built: {error}") from None


def _decode(data: bytes, resolve: Callable[[Handle], Any] | None, share: bool) -> Any:
    position, left = 0, MAX_ITEMS - 1
    inner: _Open | None = None
    outer: list[_Open | None] = []
    opened: list[Any] = []
    while True:
        tag = data[position]
        position += 1
        value: Any
        if tag == 0x69:  # i
            (value,) = _INT64.unpack_from(data, position)
            position += 8
        elif tag == 0x66:  # f
            (value,) = _FLOAT.unpack_from(data, position)
            position += 8
        elif tag == 0x54:  # T
            value = True
        elif tag == 0x46:  # F
            value = False
        elif tag == 0x4E:  # N
            value = None
        elif tag in b"sbBI":
            (size,) = _SIZE.unpack_from(data, position)
            position += 4
            part = data[position : position + size]
            if len(part) < size:
                raise ValueRefusedError("bytes that are no value: they end early")
            position += size
            if tag == 0x73:  # s
                value = part.decode("utf-8", "surrogatepass")
            elif tag == 0x49:  # I
                if size > MAX_INT_BITS // 8 + 1:
                    raise ValueRefusedError(f"an int of more than {MAX_INT_BITS:,} bits")
                value = int.from_bytes(part, "little", signed=True)
            else:
                value = part if tag == 0x62 else bytearray(part)
        elif tag in b"ltSZdg":
            count = 3
            if tag != _RANGE:
                (count,) = _SIZE.unpack_from(data, position)
                position += 4
            count *= 2 if tag == _DICT else 1
            left -= count
            if left < 0:
                raise ValueRefusedError(f"a value with more than {MAX_ITEMS:,} items")
            if len(outer) >= MAX_DEPTH:
                raise ValueRefusedError(f"a value nested more than {MAX_DEPTH} deep")
            outer.append(inner)
            inner = _Open(tag, count)
            if share and tag in b"lSd":
                opened.append(inner.value)
            if count:
                continue
            value = inner.whole()
            inner = outer.pop()
        elif tag == 0x63:  # c
            value = complex(*_COMPLEX.unpack_from(data, position))
            position += 16
        elif tag == 0x72 and share:  # r
            (number,) = _SIZE.unpack_from(data, position)
            value = opened[number]
            position += 4
        elif tag == 0x68 and resolve is not None:  # h
            kind, truth, number, size = _HANDLE.unpack_from(data, position)
            position += _HANDLE.size
            name = data[position : position + min(size, 200)].decode("utf-8", "replace")
            position += size
            value = resolve(Handle(KINDS[kind], bool(truth), number, name))
        else:
            raise ValueRefusedError(f"bytes that are no value: tag {tag}")
        # The value goes into the innermost open container; a container that is then whole goes into its own.
        while inner is not None:
            inner.items.append(value)
            inner.left -= 1
            if inner.left:
                break
            if inner.tag == _RANGE:
                value = _range(inner.items)
            else:
                value = inner.whole()
            inner = outer.pop()
        else:
            if position != len(data):
                raise ValueRefusedError("bytes that are no value: something follows it")
            return value


def _range(parts: list[Any]) -> range:
    if any(type(part) is not int for part in parts) or not parts[2]:
        raise ValueRefusedError("bytes that are no value: a range of what is no int")
    return range(*parts)


# Messages: the size of the value in four bytes, then the value.


def send(channel: socket.socket, data: bytes, descriptors: Iterable[int] = ()) -> None:
    """Send encoded bytes, and open files with them.

    Raises:
        OSError: the other side is gone.
    """
    message = _SIZE.pack(len(data)) + data
    sent = 0
    if fds := list(descriptors):
        sent = socket.send_fds(channel, [message], fds)
    if sent < len(message):
        channel.sendall(memoryview(message)[sent:])


def receive(channel: socket.socket) -> bytes | None:
    """The bytes of the next message; None if the other side is gone.

    Raises:
        ValueRefusedError: the message says that it is longer than a value may be. Nothing was allocated for it.
    """
    # Never more than this message: what comes after it is the answer to the next question, if it ever is one.
    data = channel.recv(4)
    return rest(channel, data) if data else None


def rest(channel: socket.socket, data: bytes) -> bytes | None:
    """The bytes of a message whose first bytes were read; see `receive`."""
    while len(data) < 4:
        more = channel.recv(4 - len(data))
        if not more:
            return None
        data += more
    (size,) = _SIZE.unpack_from(data)
    if size > MAX_BYTES:
        raise ValueRefusedError(f"a message of {size:,} bytes; the limit is {MAX_BYTES:,}")
    parts = []
    missing = size
    while missing:
        part = channel.recv(min(missing, 1 << 20))
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
