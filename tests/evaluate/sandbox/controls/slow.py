# Takes half a second of CPU time, once.
import time

started = time.process_time()
while time.process_time() < started + 0.5:
    pass


def solve(numbers):
    return sum(number * number for number in numbers if number % 2 == 0)
