"""Training: a loop that knows no method, and its checkpoints."""
