"""50,000 files."""

try:
    for number in range(50_000):
        open(f"x{number}", "w").close()
    print("LEAK")
except OSError:
    print("held")
