"""Memory in the buffers of sockets."""

import socket

pairs = []
try:
    while len(pairs) < 4000:
        pair = socket.socketpair()
        for one in pair:
            one.setblocking(False)
            try:
                while True:
                    one.send(bytes(65536))
            except BlockingIOError:
                pass
        pairs.append(pair)
    print("LEAK")
except OSError:
    print("held")
