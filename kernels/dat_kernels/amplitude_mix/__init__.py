"""Mix generated amplitudes into images while keeping their phases; see README.md for the derivation."""
