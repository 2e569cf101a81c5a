"""Sockets of the host without a network."""

import os
import socket

for address in (
    "\0" + os.environ["MARK"],
    os.path.join(os.path.dirname(os.environ["CANARY"]), "socket"),
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/dbus/system_bus_socket",
):
    try:
        socket.socket(socket.AF_UNIX).connect(address)
        print("LEAK", address)
    except OSError:
        pass
