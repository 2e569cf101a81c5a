"""4 GB in pieces."""

pieces = []
while len(pieces) < 256:
    pieces.append(bytearray(16 << 20))
print("LEAK")
