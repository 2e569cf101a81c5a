# Calls itself 5,000 deep.
import sys

sys.setrecursionlimit(10_000)


def count(depth):
    return 0 if depth == 0 else 1 + count(depth - 1)


def solve(numbers):
    assert count(5_000) == 5_000
    return sum(number * number for number in numbers if number % 2 == 0)
