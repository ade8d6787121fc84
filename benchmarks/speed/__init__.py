"""How fast the parts are, each against the usual way of doing the same, in one run. Start at `__main__`."""
