"""A loop that catches everything."""

while True:
    try:
        while True:
            pass
    except BaseException:
        pass
