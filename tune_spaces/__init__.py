"""Search spaces for `jobs/sweep.py`: one module each, with `space(config)`, from config fields to their domains."""
