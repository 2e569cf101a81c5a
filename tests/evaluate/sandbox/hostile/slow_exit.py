"""Ends, but its exit function does not."""

import atexit


def forever():
    while True:
        pass


atexit.register(forever)
