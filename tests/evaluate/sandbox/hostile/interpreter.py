"""Files in the folders of the interpreter."""

import os
import sys

for folder in {os.path.dirname(os.__file__), sys.prefix, os.path.dirname(sys.executable), *sys.path}:
    for name in ("sitecustomize.py", "json.py", os.environ["MARK"]):
        try:
            os.close(os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY))
            print("LEAK", folder, name)
        except OSError:
            pass
