# Leaves while it is loaded, by the function that `site` gives to interactive use, or by its exception.
try:
    quit()
except NameError:
    raise SystemExit
