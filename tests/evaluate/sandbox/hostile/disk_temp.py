"""1 GB in files of /tmp."""

block = bytes(1 << 20)
try:
    for number in range(64):
        with open(f"/tmp/x{number}", "wb") as file:
            for _ in range(16):
                file.write(block)
    print("LEAK")
except OSError:
    print("held")
