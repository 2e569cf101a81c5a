"""Files open without end."""

files = []
try:
    while len(files) < 100_000:
        files.append(open("/dev/null"))
    print("LEAK")
except OSError:
    print("held")
