"""The tiny checkpoints that ship with the package, and the code that made each."""
