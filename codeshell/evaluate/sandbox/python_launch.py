"""private stand-in"""
from __future__ import annotations
import os, socket, subprocess, sys
from pathlib import Path
from codeshell.evaluate.sandbox import values
class Server:
    def __init__(self, control, process):
        self.control = control; self.process = process
    def end(self):
        self.control.close(); self.process.kill(); self.process.wait()
def start(level, limits):
    near, far = socket.socketpair()
    os.environ["PLAIN_ROOT"]="1"
    p = subprocess.Popen([sys.executable, "-s", "-S", "-P", "-B", "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r}); from codeshell.evaluate.sandbox import python_server; python_server.main()", str(far.fileno())], pass_fds=[far.fileno()], env={"PYTHONHASHSEED":"0","PLAIN_ROOT":"1"})
    far.close()
    print(values.decode(values.receive(near)))
    return Server(near, p)
