"""What compilers read again and again, prepared once in the user's cache and bound read-only into the sandbox.

    cpp   precompiled headers: a C++ program takes 0.3 s of CPU time instead of 1.7
    java  a class archive of the compiler: javac takes 0.55 s instead of 1.25
    go    Go's own cache of compiled libraries: without it every program compiles those that it imports
    rs    crates that some of HumanEval-X's programs use, from the sources that Debian's packages bring

They lie in `codeshell/toolchains/` below $XDG_CACHE_HOME (~/.cache if that is not set), at most about 150 MB, each in a
folder named after the compiler's path and version. Deleting them is safe. Only this machine's own compilers, on texts
that are in this file, write there. Without a place to write to everything works, slower, with one line that says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from codeshell.evaluate.sandbox.toolchains.compose import GO_PACKAGES, HUMANEVAL_X_HEADERS

__all__ = ["HEADERS", "class_archive", "crates", "externs", "folder", "go_cache", "headers", "run_here"]

HEADERS = {
    # assert.h is first in MultiPL-E's programs; a precompiled header serves only if it comes before all others.
    "everything.hpp": "#include <assert.h>\n#include <bits/stdc++.h>\n",
    "common.hpp": "#include <assert.h>\n" + "".join(f"#include <{name}>\n" for name in HUMANEVAL_X_HEADERS),
    "no-cstring.hpp": "#include <assert.h>\n"
    + "".join(f"#include <{name}>\n" for name in HUMANEVAL_X_HEADERS if name != "cstring"),
}
"""The headers that C++ programs are compiled with, by file name."""

PRECOMPILED = ("everything.hpp", "common.hpp")
"""Those of them that many programs use."""

CRATES = Path("/usr/share/cargo/registry")
"""Where Debian puts the sources of crates."""

DEFAULT_OPTIONS = '"*"'
CRATE_OPTIONS = {
    # Its default features need more packages, and make it faster, not other.
    "regex": '{ version = "*", default-features = false, features = ["std", "unicode"] }',
}

SECONDS = 300
"""Seconds that one command may take here, on a busy machine; a precompiled header takes 5."""

_lock = threading.Lock()
_ready: dict[str, Path | None] = {}


def folder() -> Path:
    """The folder of all that is prepared."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path is to be ignored.
    home = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    return home / "codeshell" / "toolchains"


def run_here(command: Sequence[str], cwd: str | Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a trusted command on this machine, outside the sandbox; what it printed on both streams.

    Raises:
        OSError: it cannot be started.
        subprocess.SubprocessError: it failed, or took too long.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"LC_ALL": "C.UTF-8"} | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
        check=True,
    )
    return done.stdout.decode("utf-8", "replace")


def headers(compiler: str, version: str, flags: Sequence[str]) -> Path | None:
    """A folder with the `PRECOMPILED` headers and their precompiled forms; None if there is no place for it."""

    def make(target: Path) -> None:
        for name in PRECOMPILED:
            (target / name).write_text(HEADERS[name])
            run_here([compiler, *flags, "-x", "c++-header", name, "-o", f"{name}.gch"], cwd=target)

    return _prepared("headers", [compiler, version, *flags, *HEADERS.values()], make)


def class_archive(compiler: str, version: str, flags: Sequence[str]) -> Path | None:
    """A folder with `javac.jsa`, the classes of the Java compiler as it lays them out in memory; None if there is no
    place for it."""

    def make(target: Path) -> None:
        # The compiler writes the archive when it ends, of the classes that it has loaded.
        (target / "Example.java").write_text(_JAVA)
        run_here(
            [compiler, *flags, f"-J-XX:ArchiveClassesAtExit={target}/javac.jsa", "-d", "out", "Example.java"],
            cwd=target,
        )
        if not (target / "javac.jsa").exists():
            raise FileNotFoundError(f"{compiler} wrote no class archive")
        shutil.rmtree(target / "out")

    return _prepared("javac", [compiler, version, *flags, _JAVA], make)


def go_cache(compiler: str, version: str, libraries: str, environment: dict[str, str]) -> Path | None:
    """A folder for GOCACHE with the packages that programs use; None if there is no place for it.

    Args:
        libraries: the GOPATH whose testify is prepared too, if it is there.
    """
    testify = (Path(libraries) / "src" / "github.com" / "stretchr" / "testify" / "assert").is_dir()
    packages = [*GO_PACKAGES, "errors", "math/bits", "os", "testing", "unicode"]
    packages += ["github.com/stretchr/testify/assert"] * testify

    def make(target: Path) -> None:
        text = "package example_test\n\nimport (\n" + "".join(
            f'\t_ "{name}"\n' for name in packages if name != "testing"
        )
        with tempfile.TemporaryDirectory() as work:
            test = Path(work) / "example_test.go"
            test.write_text(f'{text}\t"testing"\n)\n\nfunc TestExample(t *testing.T) {{}}\n')
            command = [compiler, "test", "-vet=off", "-c", "-o", "example", test.name]
            run_here(command, cwd=work, environment=environment | {"GOCACHE": str(target)})

    return _prepared("go", [compiler, version, *packages], make)


def crates(cargo: str, compiler: str, version: str, names: Sequence[str]) -> Path | None:
    """A folder with the compiled crates and what they depend on; None if their sources are not there.

    Args:
        cargo: the package manager, which works without a network here.
        compiler: rustc.
        names: the crates, which Debian's packages librust-NAME-dev put into `CRATES`.
    """
    if not all(any(CRATES.glob(f"{name}-[0-9]*")) for name in names):
        return None

    def make(target: Path) -> None:
        rows = "".join(f"{name} = {CRATE_OPTIONS.get(name, DEFAULT_OPTIONS)}\n" for name in names)
        with tempfile.TemporaryDirectory() as work:
            (Path(work) / "src").mkdir()
            (Path(work) / "src" / "lib.rs").write_text("")
            (Path(work) / "Cargo.toml").write_text(
                f'[package]\nname = "crates"\nversion = "0.1.0"\n\n[dependencies]\n{rows}\n[profile.dev]\ndebug = 0\n'
            )
            sources = ["source.crates-io.replace-with='debian'", f"source.debian.directory='{CRATES}'"]
            command = [cargo, "build", "--offline", *(part for text in sources for part in ("--config", text))]
            run_here(command, cwd=work, environment={"RUSTC": compiler, "CARGO_HOME": f"{work}/home"})
            for library in (Path(work) / "target" / "debug" / "deps").glob("*.rlib"):
                shutil.copyfile(library, target / library.name)

    return _prepared("crates", [cargo, compiler, version, *names], make)


def externs(folder: Path, names: Sequence[str]) -> list[str]:
    """The options of rustc that name compiled crates in their folder."""
    options = ["-L", f"dependency={folder}"]
    for name in names:
        options += ["--extern", f"{name}={next(folder.glob(f'lib{name}-*.rlib'))}"]
    return options


def _prepared(kind: str, key: Sequence[str], make: Callable[[Path], None]) -> Path | None:
    """The folder `kind`-KEY, made by `make` in a temporary one that is then renamed: it is whole or absent."""
    name = f"{kind}-{hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:16]}"
    with _lock:
        if name not in _ready:
            try:
                _ready[name] = _make(folder() / name, make)
            except (OSError, subprocess.SubprocessError) as error:
                told = getattr(error, "stdout", b"") or b""
                why = told.decode("utf-8", "replace").strip().splitlines()[:1] or [str(error)]
                print(f"toolchains: nothing is prepared for {kind}, so programs take longer: {why[0]}", file=sys.stderr)
                _ready[name] = None
        return _ready[name]


def _make(target: Path, make: Callable[[Path], None]) -> Path:
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # One process prepares it, and the others wait: eight compilers at a time would take eight times as long.
    with open(target.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        # What a killed process left; the lock says that nobody is at it.
        temporary = target.with_suffix(".partial")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            make(temporary)
            # Whatever the umask is: inside the sandbox a program may run as nobody.
            for path in [temporary, *temporary.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target


_JAVA = """\
import java.io.*;
import java.lang.reflect.*;
import java.math.*;
import java.security.*;
import java.util.*;
import java.util.function.*;
import java.util.stream.*;

class Example {
    interface Shape { double area(); }

    enum Kind { SMALL, LARGE }

    static <T extends Comparable<T>> Optional<T> largest(List<T> values) {
        return values.stream().filter(Objects::nonNull).max(Comparator.naturalOrder());
    }

    static String name(Object value) {
        if (value instanceof Integer number && number > 0) return "positive";
        String text = switch (value.hashCode() % 3) { case 0 -> "zero"; case 1 -> "one"; default -> "two"; };
        StringBuilder built = new StringBuilder(text);
        for (char letter : text.toCharArray()) built.append(letter).append(1L + 2).append('c');
        return built.reverse().toString() + value;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, List<Long>> groups = new HashMap<>();
        groups.computeIfAbsent("a", key -> new ArrayList<>(Arrays.asList(1L, 2L))).add(3L);
        int[][] table = {{1, 2}, {3, 4}};
        for (int[] row : table) for (int cell : row) assert cell > 0 : "cell " + cell;
        Shape shape = new Shape() { @Override public double area() { return Math.sqrt(2.0) / 3; } };
        BiFunction<Integer, Integer, Integer> add = (x, y) -> x + y;
        try {
            var joined = IntStream.range(0, 9).mapToObj(String::valueOf).collect(Collectors.joining(", "));
            System.out.println(String.format("%s %.2f %d", joined, shape.area(), add.apply(1, 2)) + name(Kind.LARGE));
        } catch (IllegalStateException | ArithmeticException error) {
            throw new RuntimeException(error);
        } finally {
            while (groups.size() > 5) groups.remove(groups.keySet().iterator().next());
        }
        BigInteger big = BigInteger.ONE.shiftLeft(70).add(new BigDecimal("3").toBigInteger());
        System.out.println(largest(List.of(1, 2)).orElse(0) + (big.signum() == 1 ? "big" : "small"));
    }
}
"""
