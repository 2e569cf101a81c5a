"""The toolchains of the languages other than Python: `get(language).judge(program, level)`."""

from codeshell.evaluate.sandbox.toolchains.rows import find, names
from codeshell.evaluate.sandbox.toolchains.toolchain import Toolchain, get

__all__ = ["Toolchain", "find", "get", "names"]
