"""Datagrams and routes."""

import os
import socket

try:
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.sendto(b"x", ("127.0.0.1", int(os.environ["UDP"])))
    print("LEAK")
except OSError:
    pass
try:
    if len(open("/proc/net/route").read().splitlines()) > 1:
        print("LEAK route")
except OSError:
    pass
try:
    if [
        name
        for _, name in socket.if_nameindex()
        if name not in ("lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0")
    ]:
        print("LEAK interfaces")
except OSError:
    pass
