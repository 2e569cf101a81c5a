"""Levels: what is asked for is what one gets, or a line with the remedy."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from codeshell import _C
from codeshell.errors import UserError
from codeshell.evaluate.sandbox import levels, probe, refusals
from codeshell.evaluate.sandbox.levels import Level
from codeshell.evaluate.sandbox.system import Bind


def test_the_lowest_level_needs_to_be_asked_for_twice() -> None:
    with pytest.raises(UserError, match="--unsafe"):
        levels.require(1)
    proof = levels.require(1, unsafe=True)
    assert proof.level is Level.LIMITS
    assert proof.unsafe
    assert "NONE" in proof.line()


@pytest.mark.parametrize("level", [0, 5, -1])
def test_unknown_levels_are_named(level: int) -> None:
    with pytest.raises(UserError, match="must be 1 to 4: 1 limits only, 2 Landlock"):
        levels.require(level)


@pytest.mark.parametrize("level", [Level.LANDLOCK, Level.NAMESPACES, Level.NAMESPACES_CGROUP])
def test_a_proof_says_what_it_covers(level: Level) -> None:
    try:
        proof = levels.require(level)
    except UserError as error:
        pytest.skip(f"level {level.value} is not to be had here: {error}")
    assert proof.level is level
    assert proof.attempts >= 15
    assert f"level {level.value}" in proof.line()
    assert "network" in " ".join(proof.covers)
    assert "faults of the kernel" in proof.does_not_cover
    assert levels.require(level) is proof


def refuse(monkeypatch: pytest.MonkeyPatch, what: dict[Level, str]) -> None:
    def try_out(level: Level) -> levels.Proof:
        if level in what:
            raise UserError(what[level])
        return levels.describe(level)

    monkeypatch.setattr(levels, "_PROVEN", {})
    monkeypatch.setattr(probe, "try_out", try_out)


def test_a_lower_level_than_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, {Level.NAMESPACES_CGROUP: "no control group: x", Level.NAMESPACES: "namespaces are refused: y"})
    assert levels.require().level is Level.LANDLOCK
    with pytest.raises(UserError, match="no control group: x"):
        levels.require(4)
    with pytest.raises(UserError, match="namespaces are refused: y"):
        levels.require(3)


def test_no_isolation_is_one_line_and_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, {Level.NAMESPACES_CGROUP: "a", Level.NAMESPACES: "b", Level.LANDLOCK: "c"})
    with pytest.raises(UserError, match=r"no isolation on this machine, so no program is run\. b\. c") as error:
        levels.require()
    assert "\n" not in str(error.value)
    assert levels.require(unsafe=True).level is Level.LIMITS


def test_the_probe_sees_what_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without isolation the same program does get through, so the proof can fail."""
    monkeypatch.setattr(probe, "_check_machine", lambda level: None)
    monkeypatch.setitem(probe.ALLOWED, Level.LIMITS, frozenset())
    with probe._planted() as plant:
        reached, outcome = probe._attack(Level.LIMITS, plant)
        assert reached is not None, outcome.stderr
        found = {name for name, what in reached.items() if what is not None} | plant.seen()
    assert {"read_canary", "write_outside", "connect_loopback", "send_datagram", "connect_abstract"} <= found


@pytest.mark.parametrize(
    ("files", "code", "release", "message"),
    [
        ({"user/max_user_namespaces": "0"}, errno.ENOSPC, "6.1.0", "sysctl -w user.max_user_namespaces=10000"),
        ({"kernel/unprivileged_userns_clone": "0"}, errno.EPERM, "6.1.0", "kernel.unprivileged_userns_clone=1"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, errno.EACCES, "6.8.0-31", "AppArmor .*Ubuntu 23.10"),
        ({"vm/memfd_noexec": "2"}, errno.EACCES, "6.6.0", "sysctl -w vm.memfd_noexec=1"),
        ({}, errno.ENOSPC, "6.1.0", "limit of nested user namespaces"),
        ({}, errno.EPERM, "4.18.0-305.el8", "Linux 4.18 is too old: 5.12"),
        ({}, errno.EINVAL, "6.1.0", "built without them"),
        ({}, errno.ENOEXEC, "6.1.0", "x86-64 and aarch64"),
        ({}, errno.EPERM, "6.1.0", "container|security module"),
        ({}, errno.EIO, "6.1.0", "level 2"),
    ],
)
def test_known_refusals_come_with_the_remedy(
    tmp_path: Path, files: dict[str, str], code: int, release: str, message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    found = refusals.namespaces_refused(code, tmp_path, release)
    assert re.search(message, found), found
    assert "\n" not in found


def test_a_container_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(refusals, "in_container", lambda: True)
    assert "--security-opt seccomp=unconfined" in refusals.namespaces_refused(errno.EPERM, tmp_path, "6.1.0")


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("bind:2:0", [], "sandbox: /a cannot be shown at /b: No such file or directory"),
        ("files:28:1", ["x", "y"], "sandbox: file y cannot be written: No space left on device; its size"),
        ("exec:2:0", ["gcc"], "sandbox: gcc is not in the sandbox"),
        ("exec:13:0", ["gcc"], "sandbox: gcc cannot be started: Permission denied"),
        ("keeper:32:0", [], "ended from outside"),
        ("map:1:0", [], r"namespaces are refused \(mapping the user"),
        ("group:13:0", [], "no control group: .*systemd-run"),
        ("filter:22:0", [], "installing the filter of system calls failed"),
    ],
)
def test_refused_steps_are_explained(text: str, names: list[str], message: str) -> None:
    error = refusals.explain(_C.sandbox.Refused(text), [Bind("/a", "/b")], Level.NAMESPACES, names)
    assert re.search(message, str(error)), str(error)
