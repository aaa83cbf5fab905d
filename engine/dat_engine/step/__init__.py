"""One training step: method, update, guard, optimizers, capture."""
