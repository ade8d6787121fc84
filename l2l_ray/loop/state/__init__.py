"""What a run keeps on disk, and what may be done next."""
