"""The inner maximisation: PGD on an attack model, a folded copy of the network."""
