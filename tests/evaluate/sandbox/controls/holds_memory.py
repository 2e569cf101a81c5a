# Holds 300 MB, and touches every page of it.
block = bytearray(b"x" * (300 << 20))


def solve(numbers):
    return sum(number * number for number in numbers if number % 2 == 0)
