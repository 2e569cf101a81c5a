"""Why a machine refuses a sandbox, in one line with the remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from codeshell.errors import UserError
from codeshell.evaluate.sandbox.isolation import Level
from codeshell.evaluate.sandbox.system import Bind

__all__ = ["explain", "namespaces_refused"]

_WORDS = {
    "identity": "becoming an unprivileged user",
    "root": "mounting a private root",
    "bind": "showing a folder",
    "proc": "mounting /proc",
    "work": "mounting the working folder",
    "pivot": "entering the private root",
    "files": "writing a file",
    "landlock": "closing files by Landlock",
    "drop": "dropping privileges",
    "filter": "installing the filter of system calls",
    "fork": "starting a process",
    "exec": "starting the program",
    "group": "making a control group",
    "map": "mapping the user",
    "namespaces": "making namespaces",
    "start": "starting the keeper",
    "keeper": "talking with the keeper",
}


def explain(
    error: Exception, binds: Sequence[Bind] = (), level: Level = Level.NAMESPACES, names: Sequence[str] = ()
) -> UserError:
    """The line for a `_C.sandbox.Refused`.

    Args:
        binds: what was to be shown, to name the one that failed.
        names: files that were to be written, or the program that was to be started.
    """
    step, number, index = str(error).split(":")
    code, at = int(number), int(index)
    reason = os.strerror(code)
    if step == "bind" and at < len(binds):
        return UserError(f"sandbox: {binds[at].host} cannot be shown at {binds[at].inside}: {reason}")
    if step == "files":
        name = names[at] if at < len(names) else f"number {at + 1}"
        more = "; its size and number are limited (Limits.file_bytes, Limits.files)" if code == errno.ENOSPC else ""
        return UserError(f"sandbox: file {name} cannot be written: {reason}{more}")
    if step == "exec":
        program = names[0] if names else "the program"
        where = "is not in the sandbox" if code == errno.ENOENT else f"cannot be started: {reason}"
        return UserError(f"sandbox: {program} {where}; bind its folder, or install it below /usr")
    if step == "keeper":
        return UserError("sandbox: it was ended from outside (killed, or out of memory); run the command again")
    if level >= Level.NAMESPACES and step in ("namespaces", "map", "identity", "root", "proc", "pivot", "start"):
        return UserError(f"namespaces are refused ({_WORDS[step]}: {reason}): {namespaces_refused(code)}")
    if step == "group":
        from codeshell import _C

        return UserError(f"no control group: {_C.sandbox.groups()['obstacle'] or reason}; {GROUP_REMEDY}")
    return UserError(f"sandbox: {_WORDS.get(step, step)} failed: {reason}")


GROUP_REMEDY = "start the command by systemd-run --user --scope -p Delegate=yes COMMAND, or use level 3"


def namespaces_refused(code: int, sysctls: Path = Path("/proc/sys"), release: str | None = None) -> str:
    """The likely cause of a refusal of namespaces and what to do about it.

    Args:
        code: errno of the refusal.
        sysctls: the folder of the kernel's settings.
        release: of the kernel; None is this one's.
    """

    def setting(name: str) -> str:
        try:
            return (sysctls / name).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    version = (release or os.uname().release).split("-")[0].split(".")
    numbers = tuple(int(part) for part in version[:2] if part.isdigit())
    if numbers and numbers < (5, 12):
        return f"Linux {'.'.join(version[:2])} is too old: 5.12 is needed for namespaces, 5.13 for Landlock"
    if setting("user/max_user_namespaces") == "0":
        return "user.max_user_namespaces is 0: as root, sysctl -w user.max_user_namespaces=10000"
    if setting("kernel/unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone is 0: as root, sysctl -w kernel.unprivileged_userns_clone=1"
    if setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor restricts user namespaces (Ubuntu 23.10 and newer): as root, "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with userns for Python"
        )
    if setting("vm/memfd_noexec") == "2":
        return "vm.memfd_noexec is 2, so the keeper cannot be started: as root, sysctl -w vm.memfd_noexec=1"
    if code == errno.ENOSPC:
        return "the limit of nested user namespaces is reached: raise user.max_user_namespaces"
    if code == errno.ENOEXEC:
        return "the extension was built without the keeper, which exists for x86-64 and aarch64"
    if code in (errno.EPERM, errno.EACCES):
        if in_container():
            return (
                "this is a container whose profile forbids them: start it with --security-opt seccomp=unconfined "
                "--security-opt systempaths=unconfined (docker, podman), or run outside of it"
            )
        return "a security module or seccomp filter of this machine forbids them; ask who runs it"
    if code in (errno.ENOSYS, errno.EINVAL):
        return "this kernel was built without them, or a filter hides them (gVisor, some containers)"
    return "run it on another machine, or at level 2 (--level 2)"


def in_container() -> bool:
    """Whether this looks like a container."""
    if any(Path(path).exists() for path in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")):
        return True
    try:
        return any(word in Path("/proc/1/cgroup").read_text() for word in ("docker", "kubepods", "containerd", "lxc"))
    except OSError:
        return False
