"""Settings of each method and its line in the registry; nothing here imports torch, so that the command line is quick."""
