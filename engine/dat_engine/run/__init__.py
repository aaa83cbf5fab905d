"""A whole run: trainer, checkpoints, run directory, display, stop."""
