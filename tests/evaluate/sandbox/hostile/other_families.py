"""Sockets of other kinds."""

import socket

for family, kind in ((16, 3), (17, 3), (40, 1), (38, 5), (31, 3), (29, 3), (2, 3), (10, 3)):
    try:
        socket.socket(family, kind)
        print("LEAK", family, kind)
    except OSError:
        pass
