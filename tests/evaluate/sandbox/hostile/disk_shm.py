"""1 GB in files of /dev/shm."""

block = bytes(1 << 20)
try:
    for number in range(64):
        with open(f"/dev/shm/x{number}", "wb") as file:
            for _ in range(16):
                file.write(block)
    print("LEAK")
except OSError:
    print("held")
