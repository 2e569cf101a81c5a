"""The exchange format: exact values survive it, everything else is refused, and hostile bytes are only refused."""

from __future__ import annotations

import collections
import contextlib
import enum
import math
import os
import random
import socket
import struct
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.evaluate.sandbox import values
from codeshell.evaluate.sandbox.values import Handle, ValueRefusedError, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 300), 1 << 300)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs"]))
    | st.binary()
    | st.builds(bytearray, st.binary())
    | st.builds(range, st.integers(), st.integers(), st.integers(1, 9))
)
HASHABLE = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=5)
        | st.sets(HASHABLE, max_size=5)
        | st.frozensets(HASHABLE, max_size=5)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are of the same exact types and equal in every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.keys()), list(other.keys())) and same(list(one.values()), list(other.values()))
    return bool(one == other)


@given(VALUES)
@settings(deadline=None, max_examples=60)
def test_values_come_back_exactly(value: Any) -> None:
    for share in (False, True):
        assert same(decode(encode(value, share=share), share=share), value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        decode(data, resolve=lambda handle: handle)
    except ValueRefusedError as error:
        assert "\n" not in str(error)


@given(VALUES, st.data())
@settings(deadline=None, max_examples=60)
def test_damaged_bytes_are_a_value_or_refused(value: Any, data: st.DataObject) -> None:
    whole = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for cut in (bytes(whole), bytes(whole[: data.draw(st.integers(0, len(whole)))])):
        for share in (False, True):
            with contextlib.suppress(ValueRefusedError):
                decode(cut, resolve=lambda handle: handle, share=share)


class Loud(enum.IntEnum):
    THREE = 3

    def __eq__(self, other: object) -> bool:
        raise AssertionError("called")

    __hash__ = None  # type: ignore[assignment]


class Sly(dict[str, int]):
    def items(self) -> Any:
        raise AssertionError("called")

    __iter__ = __len__ = keys = __getitem__ = items  # type: ignore[assignment]


class Text(str):
    __slots__ = ()

    def encode(self, *args: Any) -> bytes:
        raise AssertionError("called")

    __str__ = __len__ = encode  # type: ignore[assignment]


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Loud.THREE, 3),
        (Sly(a=1), {"a": 1}),
        (Text("abc"), "abc"),
        (Pair(1, 2), (1, 2)),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(b=1), {"b": 1}),
        (type("Real", (float,), {})(-0.0), -0.0),
        (type("Imaginary", (complex,), {})(1j), 1j),
        (type("Raw", (bytes,), {})(b"x"), b"x"),
        (type("Big", (int,), {})(1 << 80), 1 << 80),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_travels_as_its_base_and_is_not_asked(value: Any, base: Any) -> None:
    assert same(decode(encode(value)), base)


def test_nan_keeps_its_bits() -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_1234))[0]
    assert math.isnan(odd) and encode(decode(encode(odd))) == encode(odd)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (object(), "type 'object'"),
        (len, "type 'builtin_function_or_method'"),
        (int, "type 'type'"),
        ((x for x in ()), "type 'generator'"),
        (nested(values.MAX_DEPTH + 1), "200 deep"),
        (nested(200_000), "200 deep"),
        (CYCLE, "contains itself"),
        ([0] * values.MAX_ITEMS, "2,097,152 items"),
        ([[0] * 1000] * 2100, "2,097,152 items"),
        ("x" * (values.MAX_BYTES + 1), "32 MiB"),
        (["é" * 1_000_000] * 17, "32 MiB"),
        (1 << values.MAX_INT_BITS, "4,194,304 bits"),
        (-(1 << 40_000_000), "4,194,304 bits"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value[:20],
)
def test_what_does_not_fit_is_refused(value: Any, complaint: str) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        encode(value)
    assert complaint in str(caught.value)


def test_limits_are_inclusive() -> None:
    for value in (nested(values.MAX_DEPTH), [None] * (values.MAX_ITEMS - 1), (1 << values.MAX_INT_BITS) - 1):
        assert decode(encode(value)) == value


def size(count: int) -> bytes:
    return struct.pack("<I", count)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"NN",
        b"i123",
        b"s" + size(0xFFFFFFFF) + b"abc",
        b"I" + size(0x7FFFFFFF),
        b"l" + size(0xFFFFFFFF),
        b"d" + size(0x80000000),
        (b"l" + size(1)) * (values.MAX_DEPTH + 1) + b"N",
        (b"t" + size(1)) * 1_000_000 + b"N",
        b"S" + size(1) + b"l" + size(0),
        b"d" + size(1) + b"l" + size(0) + b"N",
        b"r" + size(0),
        b"l" + size(1) + b"r" + size(0),
        b"gNNN",
        b"g" + b"".join(b"i" + struct.pack("<q", 0) for _ in range(3)),
        b"h" + struct.pack("<BBII", 9, 0, 0, 0),
        b"s" + size(1) + b"\xff",
        b"h" + struct.pack("<BBII", 0, 0, 0, 0),
    ],
)
def test_bytes_that_are_no_value_are_refused(data: bytes) -> None:
    # A handle and a reference are values only for whom asks for them.
    with pytest.raises(ValueRefusedError):
        decode(data)


def test_sharing_keeps_one_list_one_and_allows_cycles() -> None:
    row = [0]
    first, second, third = decode(encode([row, row, {"row": row}], share=True), share=True)
    assert first is second and third["row"] is first and first == [0]
    found = decode(encode(CYCLE, share=True), share=True)
    assert found[0] is found
    # Without it, each is a list of its own, and the reader refuses references.
    first, second = decode(encode([row, row]))
    assert first == second and first is not second
    with pytest.raises(ValueRefusedError):
        decode(encode([row, row], share=True))


def test_handles_are_made_and_resolved() -> None:
    kept: list[Any] = []

    def export(value: Any) -> Handle:
        kept.append(value)
        return Handle("iterator", False, len(kept) - 1, type(value).__name__)

    data = encode([1, iter(()), len], export)
    assert decode(data, lambda handle: handle) == [
        1,
        Handle("iterator", False, 0, "tuple_iterator"),
        Handle("iterator", False, 1, "builtin_function_or_method"),
    ]


def test_messages_of_any_size_pass_a_socket() -> None:
    one, other = socket.socketpair()
    generator = random.Random(5)
    with one, other:
        for count in (0, 1, 4, 65531, 65532, 65533, 3_000_000):
            data = generator.randbytes(count)
            sender = threading.Thread(target=values.send, args=(one, data))
            sender.start()
            assert values.receive(other) == data
            sender.join()
        # Files travel with the first bytes.
        read, write = os.pipe()
        values.send(one, b"abc", [write])
        head, files, _, _ = socket.recv_fds(other, 4, 1)
        assert values.rest(other, head) == b"abc"
        os.write(files[0], b"x")
        assert os.read(read, 1) == b"x"
        for descriptor in (read, write, *files):
            os.close(descriptor)


@pytest.mark.parametrize("data", [struct.pack("<I", values.MAX_BYTES + 1), struct.pack("<I", 0xFFFFFFFF), b"passed"])
def test_a_false_size_is_refused_before_anything_is_allocated(data: bytes) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(data)
        with pytest.raises(ValueRefusedError):
            values.receive(other)


@pytest.mark.parametrize("data", [b"", b"\x05", struct.pack("<I", 5) + b"ab"])
def test_a_channel_that_ends_early_has_no_message(data: bytes) -> None:
    one, other = socket.socketpair()
    with other:
        with one:
            one.sendall(data)
        assert values.receive(other) is None
