"""Connections over TCP."""

import os
import socket

for host, port in (("127.0.0.1", int(os.environ["PORT"])), ("::1", int(os.environ["PORT"])), ("localhost", 22)):
    try:
        socket.create_connection((host, port), timeout=1)
        print("LEAK", host, port)
    except OSError:
        pass
