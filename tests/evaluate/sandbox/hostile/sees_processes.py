"""The processes of the host."""

import os

numbers = [name for name in os.listdir("/proc") if name.isdigit()]
if len(numbers) > 4 or os.path.exists(f"/proc/{os.environ['HOST_PID']}/cmdline"):
    print("LEAK", numbers)
