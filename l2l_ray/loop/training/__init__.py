"""Training: the shared burn-in, then rounds of student steps and selector updates."""
