"""Commands to the terminal and to a browser in the output."""

import sys

print("\x1b[2J\x1b]0;title\x07\x9b31m\0<script>alert(1)</script>\u202e\r\x08")
print("\x1b[31m\0", file=sys.stderr)
sys.stdout.buffer.write(bytes(range(256)))
