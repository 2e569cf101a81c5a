"""Writes a file as a C++ array: `python embed.py FILE OUTPUT.cpp`. Without FILE ("-") the array is empty.

The build embeds the keeper with it (CMakeLists.txt).
"""

import sys
from pathlib import Path


def main() -> None:
    data = b"" if sys.argv[1] == "-" else Path(sys.argv[1]).read_bytes()
    rows = [", ".join(str(byte) for byte in data[i : i + 32]) for i in range(0, len(data), 32)]
    lines = [
        "// Written by csrc/sandbox/embed.py.",
        '#include "sandbox/launch.h"',
        "namespace codeshell::sandbox {",
        "const unsigned char kKeeperImage[] = {" + ",\n".join(rows or ["0"]) + "};",
        f"const unsigned long kKeeperSize = {len(data)};",
        "}  // namespace codeshell::sandbox",
    ]
    Path(sys.argv[2]).write_text("\n".join(lines) + "\n", encoding="utf-8")


main()
