"""Programs that run as root."""

import os
import shutil
import subprocess

for command in (
    ["su", "-c", "id"],
    ["sudo", "-n", "id"],
    ["passwd", "-S"],
    ["mount", "-t", "tmpfs", "x", "."],
    ["ping", "-c1", "127.0.0.1"],
):
    if shutil.which(command[0]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode == 0 and ("uid=0" in done.stdout or command[0] == "mount"):
            print("LEAK", command, done.stdout)
for identity in (0, 1, 1000):
    try:
        os.setuid(identity)
        print("LEAK setuid", identity)
    except OSError:
        pass
try:
    shutil.copy("/bin/true", "own")
    os.chmod("own", 0o6755)
except OSError:
    pass
if os.geteuid() == 0:
    print("LEAK root")
