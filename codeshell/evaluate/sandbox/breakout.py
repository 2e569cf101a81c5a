"""The program that tries to break out, as a script inside the sandbox: `python -I -S breakout.py REQUEST`.

REQUEST is JSON: what the host planted. Each attempt returns what it got hold of, or None. The result is JSON on
stdout: {attempt: what it reached, or null}. `probe.py` starts it and knows what each level must refuse. It imports the
standard library only.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

REQUEST: dict[str, Any] = json.loads(sys.argv[1])


def read_canary() -> object:
    """A file of the host that anybody may read."""
    with open(REQUEST["canary"], encoding="utf-8") as file:
        return file.read()


def read_shadow() -> object:
    """The host's passwords."""
    with open("/etc/shadow", encoding="utf-8") as file:
        return file.read(20)


def write_outside() -> object:
    """A file beside the canary, and in the folders of the system and the interpreter."""
    for folder in (os.path.dirname(REQUEST["canary"]), "/usr/lib", os.path.dirname(os.__file__), "/etc", "/"):
        path = os.path.join(folder, REQUEST["mark"])
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write("x")
        except OSError:
            continue
        return path
    return None


def connect_loopback() -> object:
    """The host's listener on 127.0.0.1."""
    with socket.create_connection(("127.0.0.1", REQUEST["port"]), timeout=1):
        return "connected"


def send_datagram() -> object:
    """A datagram to the host's port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.sendto(b"codeshell", ("127.0.0.1", REQUEST["udp"]))
    return "sent"


def connect_abstract() -> object:
    """The host's listener in the abstract namespace of sockets."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.connect("\0" + REQUEST["abstract"])
    return "connected"


def read_parent_memory() -> object:
    """The memory of the parent, the keeper."""
    with open(f"/proc/{os.getppid()}/maps", encoding="utf-8") as maps:
        start = int(maps.readline().split("-")[0], 16)
    with open(f"/proc/{os.getppid()}/mem", "rb") as memory:
        memory.seek(start)
        return len(memory.read(16))


def signal_host() -> object:
    """A signal to the process of the host that started all this (which it ignores)."""
    os.kill(REQUEST["host_pid"], signal.SIGCONT)
    with open(f"/proc/{REQUEST['host_pid']}/comm", encoding="utf-8") as file:
        return file.read()


def limit_parent() -> object:
    """The limits of the parent."""
    resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))
    return "changed"


def raise_limit() -> object:
    """The own hard limits."""
    resource.setrlimit(resource.RLIMIT_NPROC, (100_000, 100_000))
    return "raised"


def make_namespace() -> object:
    """A user namespace of its own, in which it would be root."""
    libc = ctypes.CDLL(None, use_errno=True)
    return "made" if libc.unshare(0x10000000) == 0 else None


def mount() -> object:
    """A file system of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    return "mounted" if libc.mount(b"x", REQUEST["folder"].encode(), b"tmpfs", 0, None) == 0 else None


def shared_memory() -> object:
    """Memory of System V that the host would keep: allowed only in an IPC namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.shmget(REQUEST["key"], 4096, 0o1666)
    return number if number >= 0 and REQUEST["ipc_is_shared"] else None


def fork_past_limit() -> object:
    """More processes than it may have."""
    children, count = [], 0
    try:
        for _ in range(REQUEST["processes"] + 20):
            child = os.fork()
            if child == 0:
                time.sleep(20)
                os._exit(0)
            children.append(child)
    except OSError as error:
        assert error.errno == errno.EAGAIN
    count = len(children)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return count if count >= REQUEST["processes"] else None


def fill_disk() -> object:
    """More bytes than the working folder may hold, in several files."""
    total = 0
    try:
        for number in range(8):
            with open(f"fill{number}", "wb") as file:
                file.truncate(0)
                os.posix_fallocate(file.fileno(), 0, REQUEST["bytes"] // 4)
                total += REQUEST["bytes"] // 4
    except OSError:
        pass
    return total if total > REQUEST["bytes"] else None


def stay() -> None:
    """A process that leaves its session: the host looks whether it is still there afterwards, and says so itself."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(3):
                os.close(number)
            ctypes.CDLL(None).prctl(15, REQUEST["mark"][:15].encode(), 0, 0, 0)
            time.sleep(600)
        os._exit(0)


ATTEMPTS = (
    read_canary,
    read_shadow,
    write_outside,
    connect_loopback,
    send_datagram,
    connect_abstract,
    read_parent_memory,
    signal_host,
    limit_parent,
    raise_limit,
    make_namespace,
    mount,
    shared_memory,
    fork_past_limit,
    fill_disk,
    stay,
)


def main() -> None:
    results = {}
    for attempt in ATTEMPTS:
        try:
            results[attempt.__name__] = attempt()
        except (OSError, ValueError, AttributeError, AssertionError):
            results[attempt.__name__] = None
    print(json.dumps(results), flush=True)


main()
