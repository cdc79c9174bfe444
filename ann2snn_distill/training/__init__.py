"""The training step, epochs and schedule, and exact restarts."""
