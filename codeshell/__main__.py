"""`python -m codeshell`."""

import sys

from codeshell.cli import main

if __name__ == "__main__":
    sys.exit(main())
