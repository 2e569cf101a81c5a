"""Closes all descriptors."""

import os

os.closerange(0, 65536)
