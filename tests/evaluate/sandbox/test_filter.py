"""The seccomp filter, run by an interpreter of classic BPF that is written here from the kernel's documentation."""

from __future__ import annotations

import errno
import platform
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeshell import _C

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X86 = platform.machine() == "x86_64"
ARCHITECTURE = 0xC000003E if X86 else 0xC00000B7
NAMES = ("read", "mount", "unshare", "clone", "clone3", "socket", "ptrace", "prlimit64")
NUMBERS = (0, 165, 272, 56, 435, 41, 101, 302) if X86 else (63, 40, 97, 220, 435, 198, 117, 261)
CALLS = dict(zip(NAMES, NUMBERS, strict=True))
NEW_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)

pytestmark = pytest.mark.skipif(not _C.sandbox.built, reason="the sandbox is not built for this processor")


def answer(code: bytes, number: int, arguments: tuple[int, ...] = (), architecture: int = ARCHITECTURE) -> int:
    """What a filter returns for a system call."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(tuple(arguments) + (0,) * 6)[:6])
    program = [struct.unpack_from("<HBBI", code, at) for at in range(0, len(code), 8)]
    accumulator, at = 0, 0
    for _ in range(len(program)):
        operation, true, false, value = program[at]
        at += 1
        if operation == 0x20:  # load a word
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x06:  # return
            return int(value)
        elif operation == 0x15:
            at += true if accumulator == value else false
        elif operation == 0x35:
            at += true if accumulator >= value else false
        elif operation == 0x45:
            at += true if accumulator & value else false
        else:
            raise AssertionError(f"an instruction that the filter does not need: {operation:#x}")
    raise AssertionError("the filter has no end")


@pytest.mark.parametrize("kind", ["strict", "shared", "nested"])
def test_other_architectures_are_killed(kind: str) -> None:
    code = _C.sandbox.filter(kind)
    assert len(code) // 8 < 4096
    for architecture in (0x40000003, 0xC00000B7 if X86 else 0xC000003E, 0):
        assert answer(code, 0, architecture=architecture) == KILL
    assert answer(code, CALLS["read"]) == ALLOW
    assert answer(code, CALLS["ptrace"]) == ERRNO | errno.EPERM
    if X86:
        assert answer(code, 0x40000000 + 165) == ERRNO | errno.ENOSYS


@given(flag=st.sampled_from(NEW_NAMESPACES), more=st.integers(0, 0xFFFFFFFF), high=st.integers(0, 0xFFFFFFFF))
def test_no_namespace_by_clone(flag: int, more: int, high: int) -> None:
    flags = high << 32 | more | flag
    for kind in ("strict", "shared"):
        assert answer(_C.sandbox.filter(kind), CALLS["clone"], (flags,)) == ERRNO | errno.EPERM
    assert answer(_C.sandbox.filter("nested"), CALLS["clone"], (flags,)) == ALLOW


@given(flags=st.integers(0, 0xFFFFFFFF))
def test_other_clones_pass(flags: int) -> None:
    for namespace in NEW_NAMESPACES:
        flags &= ~namespace
    assert answer(_C.sandbox.filter("strict"), CALLS["clone"], (flags,)) == ALLOW


@pytest.mark.parametrize(("kind", "refused"), [("strict", True), ("shared", True), ("nested", False)])
def test_mounts_and_namespaces_are_for_servers_of_ours(kind: str, refused: bool) -> None:
    code = _C.sandbox.filter(kind)
    expected = ERRNO | errno.EPERM if refused else ALLOW
    assert answer(code, CALLS["mount"]) == answer(code, CALLS["unshare"]) == expected
    assert answer(code, CALLS["clone3"]) == (ERRNO | errno.ENOSYS if refused else ALLOW)
    assert answer(code, CALLS["prlimit64"], (1,)) == expected
    assert answer(code, CALLS["prlimit64"], (0,)) == ALLOW


@given(family=st.integers(0, 100))
def test_only_three_families_of_sockets(family: int) -> None:
    expected = ALLOW if family in (1, 2, 10) else ERRNO | errno.EAFNOSUPPORT
    assert answer(_C.sandbox.filter("strict"), CALLS["socket"], (family,)) == expected
    assert answer(_C.sandbox.filter("shared"), CALLS["socket"], (family,)) == ERRNO | errno.EPERM


def test_signals_to_others_without_landlock_for_them() -> None:
    kill = 62 if X86 else 129
    code = _C.sandbox.filter("shared", scoped=False)
    assert answer(code, kill, (0,)) == ALLOW
    assert answer(code, kill, (1234,)) == answer(code, kill, (2**64 - 1,)) == ERRNO | errno.EPERM
    assert answer(_C.sandbox.filter("shared", scoped=True), kill, (1234,)) == ALLOW


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="strict, shared or nested"):
        _C.sandbox.filter("loose")
