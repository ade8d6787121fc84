"""Data in and out: import, check, count, split, compare and export data sets."""
