"""300 MB of output."""

import os

for _ in range(300):
    os.write(1, b"x" * (1 << 20))
