"""The inner maximisation: PGD on an attack model, a folded view of the network."""
