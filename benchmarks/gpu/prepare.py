"""What is made before a GPU is there, on any machine with nvcc, and taken to it: the built extension for that machine's
Python, a second one with time limits in its kernels, and peers as wheels.

    FOLDER/release/_C.SUFFIX.so, FOLDER/debug/_C.SUFFIX.so, FOLDER/wheels/*.whl,
    FOLDER/prepared.json {python, kernels, commit, release, debug, wheels {name: bytes}, absent {name: why}, bytes}

The machine with the GPU then neither builds nor loads anything. A Python of the same version as there is enough to
build for it; it needs no packages.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codeshell.engine.files import write_json
from codeshell.environment import commit
from codeshell.kernels import present_hashes

from .results import ROOT

PEERS = Path(__file__).with_name("peers.txt")
PLATFORMS = ("2_39", "2_35", "2_34", "2_31", "2_28", "2_27", "2_24", "2_17")
"""Versions of glibc that wheels are made for; pip takes those of exactly the named ones."""
READS = (
    "import importlib.util, json, sys; spec = importlib.util.spec_from_file_location('_C', sys.argv[1]); "
    "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
    "print(json.dumps({'cuda_built': module.cuda_built, 'architectures': module.cuda_architectures, "
    "'kernels': module.kernel_sources, 'debug_kernels': getattr(module, 'debug_kernels', False)}))"
)
"""What a built extension says of itself, to an interpreter that has nothing else."""


class Unfit(Exception):  # noqa: N818
    """What was prepared does not fit this machine or these sources; the message says why."""


def build(
    target: Path, *, python: str = sys.executable, debug: bool = False, architectures: str = "", cuda: str = "1"
) -> Path:
    """Build the extension for an interpreter into the folder `target`; its file.

    Raises:
        subprocess.CalledProcessError: it does not build; the output is in it.
    """
    import pybind11

    tag = ask(python, "sys.implementation.cache_tag")
    folder = ROOT / "build" / "gpu-check" / f"{tag}{'-debug' if debug else ''}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    configure = [
        *(tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        f"-DPython_EXECUTABLE={python}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DCODESHELL_CUDA={cuda}",
        f"-DCODESHELL_DEBUG_KERNELS={'ON' if debug else 'OFF'}",
        f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
        *([f"-DCODESHELL_ARCHITECTURES={architectures}"] if architectures else []),
    ]
    for command in (configure, [tool("cmake"), "--build", str(folder)]):
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (module,) = target.glob("_C*.so")
    return module


def read(module: Path, python: str = sys.executable) -> dict[str, Any]:
    """{cuda_built, architectures, kernels, debug_kernels} of a built extension; `Unfit` where it does not load."""
    done = subprocess.run([python, "-I", "-c", READS, str(module)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Unfit(f"{module.name} does not load in {Path(python).name}: {lines[-1] if lines else 'no message'}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def prepare(folder: Path, *, python: str, architectures: str, megabytes: float, tell: Callable[[str], None]) -> int:
    """Fill the folder; the exit code. What does not build or is not to be had is left out, and said."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"python": version(python), "kernels": present_hashes(), "commit": commit()}
    made |= {"wheels": {}, "absent": {}}
    for name in ("release", "debug"):
        started = time.monotonic()
        try:
            module = build(folder / name, python=python, debug=name == "debug", architectures=architectures)
            facts = read(module, python)
            if name == "debug" and not facts["debug_kernels"]:
                raise Unfit("this build has no time limits in its kernels")
        except (subprocess.CalledProcessError, Unfit, FileNotFoundError) as error:
            output = getattr(error, "stdout", "") or ""
            reason = output.strip().splitlines()[-1] if output.strip() else str(error)
            shutil.rmtree(folder / name, ignore_errors=True)
            made["absent"][name] = reason
            tell(f"{name:16} absent: {reason}")
            if name == "release":
                return 1
            continue
        made[name] = facts | {"bytes": module.stat().st_size}
        tell(f"{name:16} {module.name}, {module.stat().st_size / 1e6:.1f} MB, {time.monotonic() - started:.0f} s")
    room = megabytes * 2**20 - size(folder / "release") - size(folder / "debug")
    download(folder / "wheels", python=made["python"], room=room, made=made, tell=tell)
    made["bytes"] = size(folder)
    write_json(folder / "prepared.json", made)
    total = made["bytes"] / 2**20
    tell(f"{folder}: {total:.1f} MiB in all")
    if total > megabytes:
        tell(f"that is more than {megabytes:g} MiB: build for fewer GPUs by --architectures, such as 90")
        return 1
    return 0


def download(folder: Path, *, python: str, room: float, made: dict[str, Any], tell: Callable[[str], None]) -> None:
    """The wheels of peers.txt for a Python, in its order, as long as there is room for `room` bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    platforms = [word for name in PLATFORMS for word in ("--platform", f"manylinux_{name}_x86_64")]
    for pinned in pinned_peers():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", python, "--implementation", "cp", *platforms, "-d", str(folder / "new"), pinned]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list((folder / "new").glob("*.whl"))
        reason = ""
        if done.returncode or not wheels:
            lines = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")]
            reason = lines[-1].removeprefix("ERROR: ") if lines else "pip brought no wheel"
        elif wheels[0].stat().st_size > room:
            reason = f"its wheel of {wheels[0].stat().st_size / 1e6:.0f} MB is larger than the room that is left"
        else:
            room -= wheels[0].stat().st_size
            made["wheels"][pinned] = wheels[0].stat().st_size
            wheels[0].rename(folder / wheels[0].name)
            tell(f"{pinned:24} {made['wheels'][pinned] / 1e6:.1f} MB")
        shutil.rmtree(folder / "new", ignore_errors=True)
        if reason:
            made["absent"][pinned] = reason
            tell(f"{pinned:24} absent: {reason}")


def pinned_peers() -> list[str]:
    lines = (line.strip() for line in PEERS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def version(python: str) -> str:
    """3.12 and the like."""
    return ask(python, "'%d.%d' % sys.version_info[:2]")


def ask(python: str, value: str) -> str:
    """A value of an interpreter's `sys`; `Unfit` where it does not run."""
    try:
        command = [python, "-c", f"import sys; print({value})"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise Unfit(f"--python {python}: does not run ({lines[0] if lines else 'no message'})") from None


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# On the machine with the GPU


def modules(folder: Path) -> tuple[Path, Path | None, str | None]:
    """The extension of a prepared folder; the one with time limits, if it is there; and the commit of the sources.

    Raises:
        Unfit: it is for another Python, or built from other sources.
    """
    path = folder / "prepared.json"
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        wanted, kernels = made["python"], made["kernels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unfit(f"{folder}: not a folder that --prepare made ({type(error).__name__} at prepared.json)") from None
    here = version(sys.executable)
    if wanted != here:
        raise Unfit(
            f"{folder}: prepared for Python {wanted}, and this is {here}: prepare it with --python python{here}"
        )
    if kernels != present_hashes():
        raise Unfit(f"{folder}: prepared from other kernel sources than these: run --prepare again")
    found = [next(iter((folder / name).glob("_C*.so")), None) for name in ("release", "debug")]
    if found[0] is None:
        raise Unfit(f"{folder}: there is no release/_C*.so in it: run --prepare again")
    return found[0], found[1], made.get("commit")


def unpack(folder: Path, site: Path) -> Path | None:
    """Unpack the wheels into `site`; None where there are none. Faster than pip, which has nothing to resolve here."""
    wheels = sorted((folder / "wheels").glob("*.whl"))
    shutil.rmtree(site, ignore_errors=True)
    for wheel in wheels:
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return site if wheels else None


def lay(site: Path, module: Path) -> Path:
    """A folder whose codeshell is this checkout's with that extension."""
    package = site / "codeshell"
    shutil.rmtree(site, ignore_errors=True)
    package.mkdir(parents=True)
    for path in (ROOT / "codeshell").iterdir():
        if path.suffix != ".so" and path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    shutil.copy(module, package)
    return site


def tool(name: str) -> str:
    """cmake or ninja: beside the interpreter (pip), else on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name} is needed to build: pip install {name}")
    return found
