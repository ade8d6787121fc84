"""The closed loop: prepare, label, train, evaluate; in one process or hosted by Ray actors. No Ray here."""
