"""A toolchain: finds the compilers and interpreters of a language, and judges programs with them in the sandbox."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from codeshell.errors import UserError
from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.sandbox.toolchains import caches, detect, reading
from codeshell.evaluate.sandbox.toolchains.compose import Composed, Nonce, compose, fill
from codeshell.evaluate.sandbox.toolchains.rows import Build, Library, find, table
from codeshell.evaluate.verdicts import Judged, Verdict, one_line, tail

if TYPE_CHECKING:
    from codeshell.evaluate.sandbox.launch import Outcome, Session
    from codeshell.evaluate.sandbox.levels import Level

__all__ = ["Toolchain", "get"]

GO_LIBRARIES = "/usr/share/gocode"
"""Where Debian puts libraries of Go."""

WALL_PER_CPU = 6
"""Wall seconds of a compiler for each CPU second that it may take, as with the program's own limits."""


class Toolchain:
    """The toolchain of one language. It may be used by several threads at a time."""

    def __init__(self, language: str, root: str | None = None) -> None:
        """Look for the toolchain.

        Args:
            language: a short name or an alias.
            root: a folder with a whole system, which becomes the sandbox's root: a toolchain of another distribution.

        Raises:
            UserError: the language is unknown; the folder is not there, or has no toolchain of that language.
        """
        self.language = find(language)
        self.row = table()[self.language]
        self.root = None if root is None else Path(root).absolute()
        if self.root is not None and not self.root.is_dir():
            raise UserError(f"--toolchain {self.language}={root}: no such folder")
        self.build: Build | None = None
        self._tools: dict[str, detect.Tool] = {}
        for build in self.row.builds:
            tools = {name: self._find(name) for name in build.tools}
            if all(tools.values()):
                self.build = build
                self._tools = {name: tool for name, tool in tools.items() if tool}
                break
        if self.root is not None and self.build is None:
            wanted = " or ".join(" with ".join(build.tools) for build in self.row.builds)
            raise UserError(f"--toolchain {self.language}={root}: no {wanted} in its usr/bin, bin or opt/*/bin")
        self._lock = threading.RLock()
        self._version = ""
        self._lacks: dict[str, bool] = {}
        self._works: set[int] = set()
        """The levels at which a program has passed."""

    def missing(self, style: str = "") -> str | None:
        """What has to be installed before programs can run: "install PACKAGE"; None if nothing.

        Args:
            style: that of the tests (`Program.style`), some of which need libraries; empty for the toolchain alone.
        """
        if self.build is None:
            return f"install {self.row.builds[0].package}"
        for library in self.row.libraries:
            if not library.uses and (not library.styles or style in library.styles) and self._lack(library):
                return f"install {library.package}"
        return None

    def version(self) -> str:
        """Name and version, as beside every result: "g++ 12.2.0"; only the name if it is absent or does not say."""
        if self.build is None:
            return self.row.builds[0].name
        with self._lock:
            if not self._version:
                said = self._ask(self.build.version)
                if said is None:
                    raise UserError(f"{self.row.title}: {' '.join(self.build.version)} fails; repair the installation")
                number = re.search(r"\d+(?:\.\d+)+", said) or re.search(r"\d+", said)
                self._version = f"{self.build.name} {number[0]}" if number else self.build.name
            return self._version

    def judge(self, program: Program, level: Level) -> Judged:
        """The verdict on one program, compiled and run in a sandbox of its own.

        Raises:
            UserError: the toolchain does not work inside the sandbox.
        """
        judged = self._judge(program, level)
        if judged.verdict is Verdict.PASS:
            self._works.add(int(level))
        elif judged.verdict is not Verdict.NOT_RUN:
            # A toolchain that cannot start would give every program a bad verdict.
            self._prove(level)
        return judged

    def _prove(self, level: Level) -> None:
        """Run the row's own right program, once, unless some program has passed at this level."""
        if int(level) in self._works:
            return
        with self._lock:
            if int(level) in self._works:
                return
            # It has no style, so it needs none of the libraries.
            judged = self._judge(Program(self.language, self.row.check.code, self.row.check.tests, style=""), level)
            if judged.verdict is not Verdict.PASS:
                raise UserError(
                    f"{self.row.title}: {self.version()} does not work in the sandbox at level {int(level)}: its check "
                    f"ends with {judged.verdict}, {judged.why or 'which says nothing'}"
                )
            self._works.add(int(level))

    def _judge(self, program: Program, level: Level) -> Judged:
        missing = self.missing(program.style)
        if missing or self.build is None:
            return Judged(
                Verdict.NOT_RUN, f"{self.row.title}: {missing}", toolchain=self.build.name if self.build else ""
            )
        nonce = Nonce.new()
        composed = compose(self.language, self.row, program, nonce)
        if composed.cannot:
            return Judged(Verdict.NOT_RUN, one_line(composed.cannot), toolchain=self.version())
        used = self._used(composed, program.style)
        for library in used:
            if self._lack(library):
                return Judged(Verdict.NOT_RUN, f"{self.row.title}: install {library.package}", toolchain=self.version())
        values, files, binds = self._prepare(composed, program, level)
        more = {name: text for library in used for name, text in library.environment.items()}
        outcomes: list[Outcome] = []
        verdict = None
        with self._box(level, program.limits, binds) as box:
            values.setdefault("GOCACHE", f"{box.folder}/go-cache")
            box.write({name: text.encode("utf-8", "surrogatepass") for name, text in files.items()})
            for command in self.build.compile:
                limits = self._compiler_limits(program.limits)
                outcomes.append(self._run(box, command, values, limits))
                verdict = reading.compiler(self.row, outcomes[-1], limits, self.build.name)
                if verdict:
                    break
            else:
                outcomes.append(self._run(box, self.build.run, values, program.limits, more))
                verdict = reading.program(self.row, outcomes[-1], program.limits, nonce)
        assert verdict is not None
        last = outcomes[-1]
        return Judged(
            *verdict,
            output=tail(nonce.removed(last.stdout + last.stderr)),
            seconds=sum(outcome.cpu_seconds for outcome in outcomes),
            level=int(level),
            toolchain=self.version(),
        )

    def _compiler_limits(self, limits: Limits) -> Limits:
        seconds = max(limits.cpu_seconds, self.row.compile_seconds)
        return replace(limits, cpu_seconds=seconds, wall_seconds=max(limits.wall_seconds, WALL_PER_CPU * seconds))

    def _prepare(
        self, composed: Composed, program: Program, level: Level
    ) -> tuple[dict[str, str], dict[str, str], list[str]]:
        """The placeholders of the commands, the files, and what to bind."""
        values, files = dict(composed.values), dict(composed.files)
        # A quarter: a virtual machine needs room beside its heap, and the compiler's is gone when the program runs.
        values["HEAP"] = str(max(64, min(1024, program.limits.memory >> 22)))
        binds = [tool.bind for tool in self._tools.values() if tool.bind]
        if self.root is None:
            binds += [str(path) for pattern in self.row.binds for path in sorted(Path("/").glob(pattern.lstrip("/")))]
        if self.language == "java":
            found = [path for library in self.row.libraries for path in detect.jars(library.jar, self.root)]
            values["CLASSPATH"] = ":".join([".", *found[:1]])
            binds += [path for path in found[:1] if self.root is None and detect.outside(path)]
            values["ARCHIVE"] = ""
        values["EXTERN"] = ""
        if self.language == "go":
            values["GOPATH"] = GO_LIBRARIES
        if self.language == "cpp":
            header = values["HEADER"]
            files[header] = caches.HEADERS[header]
        if self.root is None and (prepared := self._prepared()) and _visible(prepared, level):
            binds.append(str(prepared))
            if self.language == "cpp" and values["HEADER"] in caches.PRECOMPILED:
                values["HEADER"] = f"{prepared}/{values['HEADER']}"
            values["ARCHIVE"] = f"-J-XX:SharedArchiveFile={prepared}/javac.jsa"
            values["GOCACHE"] = str(prepared)
        if wanted := values.get("CRATES"):
            folder = self._crates(next(library for library in self.row.libraries if library.crates))
            values["EXTERN"] = "\n".join(caches.externs(folder, wanted.split()) if folder else [])
            binds.append(str(folder))
        return values, files, binds

    def _prepared(self) -> Path | None:
        """The folder with what was prepared for the compiler."""
        assert self.build is not None
        compiler = self._tools[self.build.tools[0]].path
        if self.language == "cpp":
            return caches.headers(compiler, self.version(), ["-std=c++17"])
        if self.language == "java":
            return caches.class_archive(compiler, self.version(), ["-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC"])
        if self.language == "go":
            environment = {name: fill(text, {"GOPATH": GO_LIBRARIES}) for name, text in self.row.environment.items()}
            return caches.go_cache(compiler, self.version(), GO_LIBRARIES, environment)
        return None

    def _box(self, level: Level, limits: Limits, binds: list[str]) -> contextlib.AbstractContextManager[Session]:
        from codeshell.evaluate.sandbox import launch

        root = None if self.root is None else str(self.root)
        # Everything is at its own path inside, so that the levels without a root of their own find it, too.
        return launch.Session(level, limits, [launch.Bind(path, path) for path in binds], root)

    def _run(
        self,
        box: Session,
        command: tuple[str, ...],
        values: Mapping[str, str],
        limits: Limits,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Outcome:
        tool = self._tools.get(command[0])
        # A placeholder can stand for several arguments, with a line for each, or for none.
        filled = [text for argument in command[1:] for text in fill(argument, values).split("\n") if text]
        environment = {"LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": self._path()}
        environment |= {name: fill(text, values) for name, text in self.row.environment.items()} | dict(more)
        from codeshell.evaluate.sandbox import launch

        outcome = box.run(
            launch.Command(
                [tool.path if tool else command[0], *filled],
                environment=environment,
                limits=limits,
                address_space=self.row.address_space,
            )
        )
        if outcome.cause == "killed":
            raise UserError("stopped: a program was ended before its verdict")
        return outcome

    def _path(self) -> str:
        own = [str(Path(tool.path).parent) for tool in self._tools.values()]
        return ":".join(dict.fromkeys([*own, "/usr/local/bin", "/usr/bin", "/bin"]))

    def _find(self, name: str) -> detect.Tool | None:
        return detect.find_on_machine(name) if self.root is None else detect.find_in_root(name, self.root)

    def _lack(self, library: Library) -> bool:
        with self._lock:
            if library.package not in self._lacks:
                self._lacks[library.package] = not self._there(library)
            return self._lacks[library.package]

    def _used(self, composed: Composed, style: str) -> list[Library]:
        """The libraries that not all programs need, but this one."""
        text = "\n".join(composed.files.values())
        return [
            library
            for library in self.row.libraries
            if library.uses and (not library.styles or style in library.styles) and re.search(library.uses, text, re.M)
        ]

    def _there(self, library: Library) -> bool:
        assert self.build is not None
        if library.jar:
            return bool(detect.jars(library.jar, self.root))
        if library.file:
            return (Path(library.file) if self.root is None else self.root / library.file.lstrip("/")).exists()
        if library.crates:
            return self._crates(library) is not None
        return self._ask((self.build.tools[0], *library.command), library.environment) is not None

    def _crates(self, library: Library) -> Path | None:
        # Beside the compiler: the one of another release may not understand what this compiler says.
        compiler = self._tools["rustc"].path
        cargo = Path(compiler).with_name("cargo")
        if self.root is not None or not cargo.exists():
            return None
        return caches.crates(str(cargo), compiler, self.version(), library.crates)

    def _ask(self, command: tuple[str, ...], more: dict[str, str] | None = None) -> str | None:
        """What a trusted command of the toolchain prints, None if it fails. In a folder that serves as the root it runs
        in the sandbox: its programs may not fit this machine's libraries."""
        if self.root is None:
            try:
                return caches.run_here([self._tools[command[0]].path, *command[1:]], environment=more)
            except (OSError, subprocess.SubprocessError):
                return None
        from codeshell.evaluate.sandbox import levels

        limits = Limits(cpu_seconds=60, wall_seconds=300)
        with self._box(levels.require().level, limits, []) as box:
            outcome = self._run(box, command, {"HEAP": "1024"}, limits, more or {})
        if outcome.cause != "ended" or outcome.status != 0:
            return None
        return (outcome.stdout + outcome.stderr).decode("utf-8", "replace")


def _visible(path: Path, level: Level) -> bool:
    """Whether a program sees a bound folder. At the levels without a root of their own a program of root's is nobody,
    who cannot enter root's home."""
    if int(level) >= 3 or os.geteuid() != 0:
        return True
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def get(language: str, folders: Mapping[str, str] | None = None) -> Toolchain:
    """The toolchain of a language.

    Args:
        language: a short name or an alias.
        folders: folders that serve as the sandbox's root, by language: `--toolchain swift=DIR`.

    Raises:
        UserError: an unknown language, or a folder without its toolchain.
    """
    roots = {find(name): root for name, root in (folders or {}).items()}
    return Toolchain(language, roots.get(find(language)))
