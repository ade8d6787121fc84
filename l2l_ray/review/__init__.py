"""The review page: people look at a run's doubtful labels, and every decision is a durable line. Start at `server`."""
