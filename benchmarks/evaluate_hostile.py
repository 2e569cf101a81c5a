"""Programs that attack the machine: contained or not, at each level, as root and as an ordinary user.

The programs, and what each may and may not reach, are the table of tests/evaluate/sandbox/hostile; the host is watched
while they run (tests/helpers/hostile.py). The ordinary user is `nobody`, so this needs root for that row, and a Python
that everybody may start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from evaluate_programs import ROOT, parser, test_module

from codeshell.engine.files import write_json
from codeshell.environment import environment
from codeshell.errors import UserError
from codeshell.evaluate.sandbox import levels
from codeshell.evaluate.sandbox.levels import Level

SCRIPT = """
import json, sys
sys.path[:0] = sys.argv[1:3]
from helpers import hostile
print(json.dumps(hostile.attack_all(int(sys.argv[3]), sys.argv[4:])))
"""


def attack(python: str, prefix: list[str], level: Level, names: list[str]) -> dict[str, Any]:
    """Run the programs in a process of their own; program to what it got through with, for those that did."""
    command = [*prefix, python, "-c", SCRIPT, str(ROOT), str(ROOT / "tests"), str(int(level)), *names]
    environment_ = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd="/tmp", env=environment_, capture_output=True, text=True)
    if done.returncode:
        return {"not_run": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    through = {name: what for name, what in found.items() if what}
    return {"programs": len(found), "contained": len(found) - len(through), "through": through}


def main() -> None:
    args = parser(__doc__).parse_args()
    table = test_module("helpers.hostile").table()
    users = {"this user": (sys.executable, [])}
    if os.geteuid() == 0:
        python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        users = {
            "root": (sys.executable, []),
            "ordinary user": (python, ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]),
        }
    found: list[dict[str, Any]] = []
    for user, (python, prefix) in users.items():
        for level in (Level.NAMESPACES_CGROUP, Level.NAMESPACES, Level.LANDLOCK):
            names = [name for name, row in table.items() if row.get("level", 2) <= level]
            if not prefix:
                try:
                    levels.prove(level)
                except UserError as error:
                    found.append({"user": user, "level": int(level), "not_run": str(error)})
                    continue
            found.append({"user": user, "level": int(level), **attack(python, prefix, level, names)})
            print(found[-1], flush=True)
    if args.json:
        write_json(args.json, {"environment": environment(1), "rows": found})


if __name__ == "__main__":
    main()
