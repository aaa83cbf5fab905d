"""How training runs fast and survives: step, attack loop, precision, data, optimizers, checkpoints. Knows no method by name."""
