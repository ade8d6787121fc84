"""Search spaces for `jobs/sweep.py`: one module each, with a function `space()` from config fields to Tune domains."""
