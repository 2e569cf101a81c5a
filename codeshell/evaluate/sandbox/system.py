"""What of the machine every sandbox sees: the system's folders, read-only, and the few files that programs expect."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from codeshell.errors import UserError

__all__ = ["NOBODY", "Bind", "system_binds"]

NOBODY = 65534
"""The user inside every sandbox and, for root, outside."""

_WRITABLE, _DEVICE, _LINK, _TEXT, _OPTIONAL = 1, 2, 4, 8, 16
"""BindFlag of csrc/sandbox/protocol.h."""


@dataclass(frozen=True)
class Bind:
    """A folder or file of the machine, shown in the sandbox. Both paths are absolute."""

    host: str
    inside: str
    writable: bool = False
    """Programs can then change the machine's folder: for caches of our own, never of a program's."""
    flags: int = 0
    """Kept for this module."""

    def packed(self) -> tuple[str, str, int]:
        """What the extension takes."""
        return self.host, self.inside, self.flags | (_WRITABLE if self.writable else 0)


FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime")
"""The files of /etc that the loader, Debian's alternatives and clocks need. The rest of /etc stays outside."""

DEVICES = ("null", "zero", "full", "random", "urandom")

TEXTS = {
    "/etc/passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:{NOBODY}:{NOBODY}:nobody:/box:/bin/sh\n",
    "/etc/group": f"root:x:0:\nnogroup:x:{NOBODY}:\n",
    "/etc/hosts": "127.0.0.1 localhost codeshell\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
LINKS = {"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"}


def system_binds(root: str | None = None) -> list[Bind]:
    """The binds of every sandbox.

    Args:
        root: a folder that takes the place of the system's: everything at its top is shown but what the sandbox makes
            itself (/dev, /proc, /tmp, /box, and /sys, which nothing gets).

    Raises:
        UserError: `root` is no folder, or holds nothing.
    """
    binds: list[Bind] = []
    if root is None:
        for name in FOLDERS:
            binds += _shown(f"/{name}", f"/{name}")
        binds += [Bind(f"/etc/{name}", f"/etc/{name}", flags=_OPTIONAL) for name in ETC]
        binds += [Bind(text, path, flags=_TEXT) for path, text in TEXTS.items()]
    else:
        try:
            names = sorted(entry.name for entry in os.scandir(root))
        except OSError as error:
            raise UserError(f"{root}: cannot be used as a root: {error.strerror}") from None
        own = {"dev", "proc", "sys", "tmp", "box", "run", "boot", "home", "root", "mnt", "media", "srv"}
        for name in names:
            if name not in own:
                binds += _shown(str(Path(root).absolute() / name), f"/{name}")
        if not binds:
            raise UserError(f"{root}: holds no folder such as usr, so it cannot be used as a root")
    binds += [Bind(f"/dev/{name}", f"/dev/{name}", flags=_DEVICE) for name in DEVICES]
    binds += [Bind(target, path, flags=_LINK) for path, target in LINKS.items()]
    return binds


def _shown(host: str, inside: str) -> list[Bind]:
    """A bind of a folder, or a link where the machine has one (/bin is usr/bin)."""
    try:
        mode = os.lstat(host).st_mode
    except OSError:
        return []
    if stat.S_ISLNK(mode):
        return [Bind(str(Path(host).readlink()), inside, flags=_LINK)]
    return [Bind(host, inside)] if stat.S_ISDIR(mode) or stat.S_ISREG(mode) else []
