"""1 GB in files of /box."""

block = bytes(1 << 20)
try:
    for number in range(64):
        with open(f"/box/x{number}", "wb") as file:
            for _ in range(16):
                file.write(block)
    print("LEAK")
except OSError:
    print("held")
