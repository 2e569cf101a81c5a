"""One call into C that takes hours."""

print(sum(range(10**13)))
