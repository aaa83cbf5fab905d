"""The pages of the documentation; `docs.hooks` makes those parts of them that follow from the code."""
