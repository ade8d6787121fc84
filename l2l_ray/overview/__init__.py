"""Runs at a glance, below a run root, and how two of them differ. Start at `listing.list_runs`."""
