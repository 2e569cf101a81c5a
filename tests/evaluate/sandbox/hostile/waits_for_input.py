"""Waits for input, which has an end."""

try:
    print("LEAK", input())
except EOFError:
    print("end of input")
