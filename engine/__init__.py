"""How training runs fast and survives: step, attack loop, precision, data, optimisers, checkpoints. Knows no method by name."""
