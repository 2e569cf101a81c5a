"""Loads the compiled extension `codeshell._C`, and says in one line why it cannot be loaded.

`from codeshell import _C` comes here, once: `codeshell.__getattr__` calls `load`. The loader's own errors name a symbol
version or nothing at all, and none of them names the remedy.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sysconfig
from pathlib import Path
from types import ModuleType

from codeshell.errors import UserError


class ExtensionError(UserError, ImportError):
    """The extension is not built, or not for this machine."""


def load() -> ModuleType:
    """`codeshell._C`.

    Raises:
        ExtensionError: it cannot be imported; the message is one line with the remedy.
    """
    try:
        # The stubs lie in a folder of the extension's name. Without the extension Python would take that folder for it.
        spec = importlib.util.find_spec("codeshell._C")
        if spec is None or not spec.has_location:
            raise ModuleNotFoundError("no extension module beside its stubs", name="codeshell._C")
        return importlib.import_module("codeshell._C")
    except ImportError as error:
        raise ExtensionError(explain(error, Path(__file__).resolve().parent)) from error


def explain(error: ImportError, folder: Path) -> str:
    """Why the extension cannot be loaded from the package's folder, and what to do."""
    root = folder.parent
    checkout = (root / "setup.py").is_file()
    build = f"build it here: pip install -e {root}" if checkout else "install codeshell from its source on this machine"
    said = " ".join(str(error).split())
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    if isinstance(error, ModuleNotFoundError) and error.name == "codeshell._C":
        others = sorted(path.name.removeprefix("_C") for path in folder.glob("_C.*") if path.suffix in (".so", ".pyd"))
        if others:
            return f"the extension codeshell._C is built for another Python ({others[0]}, not {suffix}); {build}"
        return f"the extension codeshell._C is not built; {build}"
    if match := re.search(r"version `(GLIBC(?:XX)?|CXXABI|GCC)_([\d.]+)' not found", said):
        library = "C library (glibc)" if match[1] == "GLIBC" else "C++ library (libstdc++)"
        newer = "" if match[1] == "GLIBC" else ", or put a newer libstdc++.so.6 first on LD_LIBRARY_PATH"
        needs = f"it needs {match[1]}_{match[2]}"
        return (
            f"the extension codeshell._C is built for a newer {library} than this machine has ({needs}); {build}{newer}"
        )
    return f"the extension codeshell._C cannot be loaded ({said}); {build}"
