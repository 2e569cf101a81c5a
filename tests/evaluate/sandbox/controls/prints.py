# Prints while it works, with escapes for the terminal.
print("loaded", flush=True)


def solve(numbers):
    print("\x1b[31msolving\x1b[0m", numbers)
    return sum(number * number for number in numbers if number % 2 == 0)
