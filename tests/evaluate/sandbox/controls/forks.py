# Starts a process of its own, which comes back from this code like its parent.
import os

child = os.fork()
if child:
    os.waitpid(child, 0)


def solve(numbers):
    return sum(number * number for number in numbers if number % 2 == 0)
